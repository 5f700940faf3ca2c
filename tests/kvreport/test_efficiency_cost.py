"""What the cache costs whoever it does not help, and what its store throws away."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from tests.kvreport.rounds import Setting, World, edited, experiment, lines
from tests.simulated import kvsim

from kvpipe.records import ServerMetrics
from kvreport.conclude import conclude
from kvreport.conclusion import Conclusion
from kvreport.contrasts import contrasted
from kvreport.efficiency_cost import churns
from kvreport.experiments import group
from kvreport.formats import Setting as Format
from kvreport.formats import as_brief, as_text
from kvreport.rounds import Round
from kvreport.targets import parse

Sh = Callable[..., Any]
ALL = ("no_reuse", "cold", "hit")


def side(name: str, slower: float = 1.0, arms: Sequence[Any] = ("no_reuse",)) -> list[Round]:
    """A store on or off: equal plans, and a miss takes so many times as long."""
    world = World(miss_s=0.8 * slower, hit_s=0.06, noise=0.01)
    setting = Setting(name=name, experiment_id=name)
    return experiment(3, arms=arms, world=world, setting=setting, seed=len(name))


def concluded(made: Sequence[Round], baseline: str | None = "off") -> Conclusion:
    experiments = group(made)
    found = conclude(experiments, parse([]), tool_version="test")
    found = msgspec.structs.replace(found, churn=churns(experiments))
    return contrasted(found, experiments, baseline) if baseline else found


def text(conclusion: Conclusion) -> str:
    return " ".join(as_text(conclusion, Format(columns=100)).split())


def storing(made: Sequence[Round], evicted: float, puts: float | None = 500.0) -> list[Round]:
    """The same with a store that counted in each round."""
    counters = {"store_evicted_keys": evicted, "store_puts": puts, "store_alloc_failures": 0.0}
    server = ServerMetrics(run_id="r", url="http://10.0.0.9", role="store", counters=counters)
    return [edited(one, server=[server]) for one in made]


def test_a_store_that_slows_misses_says_by_how_much_beside_its_gain() -> None:
    made = [*side("off"), *side("on", slower=1.15, arms=ALL)]
    conclusion = concluded(made)
    (found,) = conclusion.contrasts
    cost = found.effects["ttft_no_reuse"]
    bounds = cost.bounds()
    assert bounds is not None
    assert bounds[0] < 1.16 and bounds[1] > 1.14
    assert cost.verdict.word == "slower"
    shown = text(conclusion)
    assert "Against off, the TTFT of a prompt that nobody asked before, with on: +1" in shown
    assert "Costs a prompt that nobody asked before, against off: TTFT +1" in shown
    assert "Beside it the gain: the TTFT of a hit, with on: -9" in shown


def test_a_store_that_costs_nothing_shows_no_difference() -> None:
    shown = text(concluded([*side("off"), *side("on", slower=1.0)]))
    assert "with on: ~ no difference shown" in shown


def test_a_baseline_needs_no_round_2(sh: Sh) -> None:
    """Rounds without reuse are all that the question asks for: exit 0, no advice to run more."""
    both = "".join(lines([*side("off"), *side("on", slower=1.2)]).splitlines(keepends=True))
    done = sh("kvreport --baseline off", stdin=both)
    assert (done.status, done.err) == (0, "")
    assert "as well, to have something to compare" not in done.out
    assert sh("kvreport", stdin=both).status == 1


def test_without_a_baseline_nothing_is_said_of_costs() -> None:
    assert "nobody asked before" not in text(concluded([*side("off"), *side("on")], None))


def test_evictions_stand_beside_what_hits_came_to() -> None:
    full = storing(side("full", arms=ALL), 240.0)
    full = [edited(one, efficiency=0.25) if one.arm == "hit" else one for one in full]
    conclusion = concluded(full, None)
    assert {(one.role, one.evicted_keys, one.put_keys) for one in conclusion.churn} == {
        (role, 720.0, 1500.0) for role in ALL
    }
    shown = text(conclusion)
    assert (
        "full: the store evicted 2,160 keys while 4,500 were put; the hits of round 2 came to 25"
        in shown
    )


def test_ttft_while_evicting_is_set_against_a_roomy_store() -> None:
    full = storing(side("full", slower=1.3, arms=ALL), 240.0)
    roomy = storing(side("roomy", arms=ALL), 0.0)
    shown = text(concluded([*full, *roomy], "roomy"))
    assert "full, whose store evicts, against roomy, whose store does not: TTFT of prompts" in shown
    assert "of prompts that nobody asked before +3" in shown
    assert "Costs a prompt" not in shown  # that is churn, and not what the store costs
    turned = text(concluded([*full, *roomy], "full"))
    assert "roomy, whose store does not evict, against full, whose store does" in turned


def test_a_quiet_store_is_no_churn() -> None:
    assert not concluded(storing(side("roomy", arms=ALL), 0.0), None).churn
    assert not concluded(side("none", arms=ALL), None).churn


def test_what_a_store_does_not_count_is_no_zero() -> None:
    found = concluded(storing(side("full", arms=ALL), 10.0, puts=None), None)
    assert {one.put_keys for one in found.churn} == {None}
    assert "while - were put" in text(found)


def test_the_brief_answer_is_as_before() -> None:
    conclusion = concluded([*side("off"), *side("on", slower=1.1, arms=ALL)])
    assert "nobody asked before" not in as_brief(conclusion, Format())


CHURN = (
    "--scenario long_context_high_reuse --requests 9 --contexts 8 --context-tokens 500 "
    "--output-tokens 2 --sentinels 0 --pause 0 --warmup 0 --tier store"
)


def test_a_full_simulated_store_evicts_and_its_hits_are_lost(sh: Sh) -> None:
    """8 prompts of 500 tokens take 16 MB at 4,096 bytes a token."""
    pace = ["--prefill-tps", "60000", "--step-ms", "2", "--overhead-ms", "2"]
    with (
        kvsim("--role", "store", "--capacity-bytes", "8000000", "--lease-ms", "100") as store,
        kvsim("--store", store.url, *pace) as node,
    ):
        done = sh(
            f"kvload -q --url {node.url} {CHURN} --metrics-url store={store.url} "
            "| kvstats | kvreport --format json"
        )
    churn = {one["role"]: one for one in json.loads(done.out)["churn"]}
    assert churn["cold"]["evicted_keys"] > 0
    assert churn["cold"]["put_keys"] >= churn["cold"]["evicted_keys"]
    assert churn["hit"]["efficiency"] < 0.7
