"""PD against non-PD, and one scenario against another: what is paired, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from tests.kvreport.rounds import (
    Setting,
    Shape,
    World,
    edited,
    experiment,
    finding,
    rerun,
    resampled,
)

from kvpipe.records import ServerMetrics
from kvreport.conclude import conclude
from kvreport.conclusion import Conclusion
from kvreport.contrasts import contrasted
from kvreport.experiments import group
from kvreport.formats import Setting as Format
from kvreport.formats import as_text
from kvreport.modes import TARGET, compared
from kvreport.rounds import Round
from kvreport.targets import parse, parse_pd

SERVERS = [
    ServerMetrics(run_id="r", url=f"http://10.0.0.9/{role}", role=role)  # type: ignore[arg-type]
    for role in ("prefill", "decode")
]


def alone(repeats: int = 3, **setting: Any) -> list[Round]:
    """Non-PD: a miss takes 4 s."""
    own = Setting(name="alone", experiment_id="alone", **setting)
    return experiment(repeats, setting=own, world=World(miss_s=4.0, hit_s=1.0), seed=5)


def split(hit_s: float, repeats: int = 3, **options: Any) -> list[Round]:
    """PD: a miss takes 16 s; prefillers and decoders were asked for their metrics."""
    setting = options.pop("setting", Setting(name="split", experiment_id="split"))
    world = World(miss_s=16.0, hit_s=hit_s)
    options = {"server": SERVERS} | options
    return experiment(repeats, setting=setting, world=world, seed=6, **options)


def concluded(rounds: list[Round], *targets: str, baseline: str | None = None) -> Conclusion:
    experiments = group(rounds)
    found = conclude(experiments, parse(targets), tool_version="test")
    if baseline:
        found = contrasted(found, experiments, baseline)
    return compared(found, experiments, parse_pd(targets), baseline)


def status(found: Conclusion, name: str = "split") -> tuple[str, str | None]:
    scenario = next(one for one in found.scenarios if one.name == name)
    result = scenario.result(TARGET)
    assert result is not None
    return result.status, result.reason


def test_the_three_columns() -> None:
    found = concluded([*alone(), *split(1.4)])
    (modes,) = found.modes
    assert [one.key for one in modes.columns] == ["non_pd", "pd_cold", "pd_hit"]
    bare, cold, hit = (one.ttft_s for one in modes.columns)
    assert bare and cold and hit
    assert cold / bare == pytest.approx(6.75 / 2.1, rel=0.05)
    assert modes.effects["ttft_hit"].ratio == pytest.approx(hit / bare, rel=0.05)
    assert modes.effects["ttft_cold"].verdict.word == "slower"
    said = as_text(found, Format())
    assert "PD against non-PD" in said and "PD Cold" in said


@pytest.mark.parametrize(
    ("hit_s", "expected"), [(1.4, "met"), (9.0, "not_met"), (2.625, "not_shown")]
)
def test_the_target_holds_a_pd_hit_against_non_pd(hit_s: float, expected: str) -> None:
    """Non-PD is 2.1 s over all its requests, hits within the round included: the limit is 2.625."""
    noisy = [*alone(), *split(hit_s)]
    assert status(concluded(noisy))[0] == expected


def test_one_run_is_met_in_one_run() -> None:
    assert status(concluded([*alone(1), *split(1.4, 1)]))[0] == "met_in_1_run"


def test_without_evidence_of_pd_nothing_is_said() -> None:
    found = concluded([*alone(), *split(1.4, server=[])])
    assert not found.modes
    assert all(one.result(TARGET) is None for one in found.scenarios)


def test_transferred_sentinels_are_evidence() -> None:
    found = concluded([*alone(), *split(1.4, server=[], findings=[finding("pd_transfer")])])
    assert [one.pd for one in found.modes] == ["split"]


def test_a_named_target_without_pd_has_not_passed() -> None:
    found = concluded(alone(), "pd_ttft_ratio=1.25")
    assert status(found, "alone") == ("not_applicable", "no_pd")
    assert [name for name, _ in found.failed_targets] == ["alone"]


def test_a_named_target_and_a_named_baseline_need_no_evidence() -> None:
    found = concluded([*alone(), *split(1.4, server=[])], "pd_ttft_ratio=1.25", baseline="alone")
    assert status(found)[0] == "met"


def test_which_partner() -> None:
    """The one of its model; of several none, unless the baseline is it."""
    other = Setting(name="7B", experiment_id="7B", model="Qwen2.5-7B")
    assert status(concluded([*experiment(3, setting=other), *split(1.4)])) == (
        "not_applicable",
        "no_non_pd",
    )
    found = concluded([*alone(), *experiment(3, setting=other), *split(1.4)])
    assert [one.non_pd for one in found.modes] == ["alone"]
    two = Setting(name="second", experiment_id="second")
    rounds = [*alone(), *experiment(3, setting=two), *split(1.4)]
    assert status(concluded(rounds)) == ("not_applicable", "several_non_pd")
    assert status(concluded(rounds, baseline="alone"))[0] == "met"


def test_findings_of_either_side_withhold_it() -> None:
    bad = finding("contaminated", "invalid")
    dirty = Setting(name="alone", experiment_id="alone")
    rounds = experiment(3, setting=dirty, world=World(miss_s=4.0, hit_s=1.0), findings=[bad])
    assert status(concluded([*rounds, *split(1.4)])) == ("invalid", "contaminated")
    assert status(concluded([*alone(), *split(1.4, findings=[bad])])) == (
        "invalid",
        "contaminated",
    )


def test_other_plans_stand_side_by_side_and_the_difference_is_named() -> None:
    """Other text of one shape, then another shape: no pairs, and the columns all the same."""
    other = [rerun(one, plan_sha256=f"other-{one.repeat}", seed=8) for one in split(1.4)]
    found = concluded([*alone(), *other])
    assert status(found) == ("not_applicable", "other_text")
    (modes,) = found.modes
    assert not modes.effects and modes.columns[2].ttft_s
    said = " ".join(as_text(found, Format()).split())
    assert "did not send the same requests (the same shape, other text: seed 7 and 8)" in said
    setting = Setting(name="split", experiment_id="split", plan="p2", shape="s2")
    wide = split(1.4, setting=setting, shape=Shape(requests=40, contexts=4))
    found = concluded([*alone(), *wide], baseline="alone")
    assert status(found) == ("not_applicable", "other_shape")
    (contrast,) = found.contrasts
    keys = {one.key for one in contrast.differs}
    assert keys >= {"requests", "contexts", "shape"}
    said = " ".join(as_text(found, Format()).split())
    assert "other shapes: requests 30 and 40; contexts 8 and 4; shape shape and s2" in said


def test_expectations_stand_beside_and_are_no_results() -> None:
    said = " ".join(as_text(concluded([*alone(), *split(1.4)]), Format()).split())
    assert "Expected for 72B in the three columns, and no result: TTFT 3-5, 20-25, 7-9 s" in said
    models = [rerun(one, model="tiny") for one in [*alone(), *split(1.4)]]
    assert "Expected for" not in as_text(concluded(models), Format())


def test_last_week_against_today(sh: Callable[..., Any]) -> None:
    """Two files under two labels: conditions that differ are listed above the table."""
    today = [
        rerun(one, engine_version="0.33.0", started_at="2026-03-08T10:00:00+00:00")
        for one in experiment(3, world=World(hit_s=0.04), seed=2)
    ]

    def lines(rounds: list[Round]) -> str:
        return "".join(msgspec.json.encode(one.stats).decode() + "\n" for one in rounds)

    made = json.dumps({"a": lines(experiment(3)), "b": lines(today)})
    script = "import json,sys; [open(k,'w').write(v) for k,v in json.load(sys.stdin).items()]"
    done = sh(
        f'python -c "{script}" && kvreport A=a B=b --baseline A && kvreport A=a B=b --format json '
        "> both.json",
        stdin=made,
    )
    assert done.status == 0
    said = " ".join(done.out.split())
    assert "engine version: 0.32.0 (A); 0.33.0 (B)" in said
    assert "measured on: 2026-03-01 (A); 2026-03-08 (B)" in said
    table = said.index("Compared with A")
    assert said.index("engine version: 0.32.0") < table
    assert "B: TTFT, round 2" in said[table:] and "faster" in said[table:]


def phased(rounds: list[Round], flow: str | None, how: str = "measured") -> list[Round]:
    """The rounds with phases as kvstats tells them."""
    transfer = {"mean": 0.4, "n": 30, "how": how, "counter": "c"}
    told = {
        "disaggregated": True,
        "flow": flow and {"name": flow, "how": "tokens", "evidence": "e"},
        "prefill_s": {"mean": 1.5, "n": 30, "how": "measured", "counter": "c"},
        "transfer_s": transfer,
        "decode_s": None,
    }
    return [edited(one, phases=told) for one in rounds]


def test_phases_stand_in_the_columns_and_estimates_say_so() -> None:
    found = concluded([*alone(), *phased(split(1.4), "vllm")])
    (modes,) = found.modes
    assert (modes.flow, modes.columns[2].transfer_s) == ("vllm", pytest.approx(0.4))
    assert not modes.columns[2].estimated
    said = " ".join(as_text(found, Format()).split())
    assert "400 ms 400 ms" in said and "(estimate)" not in said
    assert "after the KV transfer: its TTFT holds the transfer" in said

    found = concluded([*alone(), *phased(split(1.4), "vllm", "estimate")])
    assert found.modes[0].columns[2].estimated == ["transfer_s"]
    text = as_text(found, Format())
    assert "(estimate)" in text
    assert "KV transfer (estimate)" in text, "in the details too"


def test_ttft_that_ends_before_the_transfer_is_not_compared() -> None:
    rounds = [
        resampled(one, output_tokens=[15] * len(one.stats.samples.index))  # of 16: the decoder's
        for one in split(1.4)
        if one.stats.samples is not None
    ]
    found = concluded([*alone(), *phased(rounds, "lmcache")])
    assert status(found) == ("not_applicable", "token_first")
    (modes,) = found.modes
    assert {name.rpartition("_")[0] for name in modes.effects} == {"e2e", "throughput"}
    assert modes.columns[2].ttft_s, "it is shown all the same"
    said = " ".join(as_text(found, Format()).split())
    assert "comes from the prefiller, before the KV transfer" in said


def test_two_flows_are_not_compared_by_ttft() -> None:
    setting = Setting(name="early", experiment_id="early")
    early = phased(split(1.0, setting=setting), "lmcache")
    found = concluded([*phased(split(1.4), "vllm"), *early], baseline="split")
    (contrast,) = found.contrasts
    assert contrast.token_first
    assert not any(name.startswith(("ttft", "tpot")) for name in contrast.effects)
    assert "e2e_hit" in contrast.effects
    said = " ".join(as_text(found, Format()).split())
    assert "TTFT and TPOT are not compared" in said
    same = concluded([*phased(split(1.4), "vllm"), *phased(alone(), "vllm")], baseline="split")
    assert "ttft_hit" in same.contrasts[0].effects


def test_an_unknown_flow_is_said_to_be_unknown() -> None:
    found = concluded([*alone(), *split(1.4)])
    assert found.modes[0].flow is None
    assert "Who sends token 1 of split is not known" in " ".join(as_text(found, Format()).split())
