"""What may be concluded: effects, ceilings, targets, verdicts, and what findings do to them."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np
import pytest
from tests.kvreport.rounds import (
    NODE_B,
    Setting,
    Shape,
    World,
    edited,
    experiment,
    finding,
    make,
    rerun,
    resampled,
)

from kvpipe.records import Arrival, ServerMetrics
from kvreport.conclude import conclude
from kvreport.conclusion import Conclusion, Scenario
from kvreport.experiments import group
from kvreport.rounds import Round
from kvreport.targets import parse

DOCUMENTS = Shape(contexts=1, uniques=3)
CROSS = Setting(tier="remote", node_b=NODE_B)


def concluded(rounds: list[Round], *targets: str) -> Conclusion:
    return conclude(group(rounds), parse(targets), tool_version="test")


def only(rounds: list[Round], *targets: str) -> Scenario:
    (scenario,) = concluded(rounds, *targets).scenarios
    return scenario


def status(scenario: Scenario, name: str = "ttft_reduction") -> tuple[str, str | None]:
    result = scenario.result(name)
    assert result is not None
    return result.status, result.reason


def with_findings(one: Round, *codes: str, severity: str = "warning") -> Round:
    return edited(one, findings=[finding(code, severity) for code in codes])


# --- estimates -----------------------------------------------------------------------------------


def test_the_documents_reduction_is_of_sums_and_one_hit_is_of_leaders_and_uniques() -> None:
    cold, hit = experiment(1, shape=DOCUMENTS)
    found = only([cold, hit])
    assert cold.stats.samples is not None and hit.stats.samples is not None
    before = np.array(cold.stats.samples.ttft_s[:30], dtype=float)
    after = np.array(hit.stats.samples.ttft_s[:30], dtype=float)
    was_cold = np.array([one in ("leader", "unique") for one in cold.stats.samples.stratum[:30]])
    assert found.effects["ttft"].ratio == pytest.approx(after.sum() / before.sum())
    one_hit = after[was_cold].sum() / before[was_cold].sum()
    assert found.effects["one_hit"].ratio == pytest.approx(one_hit)
    assert found.one_hit is found.effects["one_hit"]
    assert found.mixture == (4, 30)


def test_the_shown_means_give_the_shown_change() -> None:
    for repeats in (1, 2, 3):
        for effect in only(experiment(repeats)).effects.values():
            assert effect.other_mean / effect.base_mean == pytest.approx(effect.ratio)
            assert math.log(effect.ratio) == pytest.approx(np.mean(effect.thetas))


def test_the_trap_of_the_mixture_is_in_the_numbers() -> None:
    """One context, a perfect cache: a hit is worth 93 %, longer rounds show less of it."""
    shown = {}
    for requests, uniques in ((30, 3), (300, 30)):
        shape = Shape(requests=requests, contexts=1, uniques=uniques)
        found = only(experiment(1, shape=shape, world=World(noise=0.001)))
        shown[requests] = 1 - found.effects["ttft"].ratio
        one_hit = found.one_hit
        assert one_hit is not None and 1 - one_hit.ratio == pytest.approx(0.932, abs=0.002)
    assert shown[30] == pytest.approx(0.65, abs=0.01)
    assert shown[300] == pytest.approx(0.59, abs=0.01)


def test_across_nodes_the_gain_is_b_against_b() -> None:
    slow_b = World(drift=0.2)
    rounds = [
        make("cold", setting=CROSS),
        make("no_reuse", setting=CROSS, world=slow_b),
        make("hit", setting=CROSS, world=slow_b),
    ]
    found = only(rounds)
    assert found.value == "one_hit_bare"
    assert found.effects["nodes"].ratio == pytest.approx(math.exp(0.2), rel=0.05)
    gap = found.effects["one_hit"].theta - found.effects["one_hit_bare"].theta
    assert gap == pytest.approx(0.2, abs=0.05)


def test_later_rounds_are_never_pooled() -> None:
    slow = World(hit_s=0.5)
    rounds = [*experiment(1), make("hit", number=3, world=slow)]
    found = only(rounds)
    assert found.effects["ttft"].ratio == only(rounds[:2]).effects["ttft"].ratio
    (later,) = found.later
    assert later.other == "round 3" and later.ratio > 2 * found.effects["ttft"].ratio


def test_throughput_is_a_scalar_per_round_with_an_interval_from_repeats_only() -> None:
    intervals = [only(experiment(n)).effects["throughput"].interval for n in (1, 2, 3)]
    assert intervals[:2] == [None, None]
    assert intervals[2] is not None and intervals[2].method == "repeats"


def test_an_offered_rate_has_no_throughput_gain() -> None:
    setting = Setting(arrival=Arrival(kind="poisson", rate_rps=2.0))
    found = only(experiment(3, setting=setting))
    assert "throughput" not in found.effects and "ttft_due" in found.effects
    assert status(found, "throughput_increase") == ("not_applicable", "offered_rate")


def test_saturation_must_be_shown_by_gauges() -> None:
    setting = Setting(arrival=Arrival(kind="closed", concurrency=5))

    def server(waiting: list[float]) -> list[ServerMetrics]:
        gauges = {"waiting": waiting}
        return [ServerMetrics(run_id="r", url="http://a/metrics", role="node", gauges=gauges)]

    rounds = experiment(1, setting=setting)
    assert only(rounds).unsaturated
    busy = [edited(one, server=server([1, 2, 0, 3])) for one in rounds]
    assert not only(busy).unsaturated
    idle = [edited(one, server=server([0, 0, 0, 1])) for one in rounds]
    assert only(idle).unsaturated
    assert status(only(idle), "throughput_increase") == ("not_shown", "unsaturated")


def test_prefill_is_compared_where_servers_measure_it() -> None:
    def phases(mean: float) -> dict[str, Any]:
        return {"prefill_s": {"mean": mean, "n": 33, "how": "measured"}, "transfer_s": None}

    cold, hit = experiment(1)
    found = only([edited(cold, phases=phases(0.8)), edited(hit, phases=phases(0.2))])
    assert found.effects["prefill"].ratio == pytest.approx(0.25)
    assert "prefill" not in only([edited(cold, phases=phases(0.8)), hit]).effects


# --- how sure ------------------------------------------------------------------------------------


def test_one_run_speaks_of_itself_and_three_of_the_system() -> None:
    one, two, three = (only(experiment(n)).effects["ttft"] for n in (1, 2, 3))
    assert (one.verdict.word, one.verdict.scope) == ("faster", "run")
    assert (two.interval, two.verdict.word, two.verdict.by) == (None, "none", ["two_repeats"])
    assert (three.verdict.word, three.verdict.scope) == ("faster", "repeats")
    assert (one.smallest, two.smallest) == (None, None)
    assert three.smallest is not None and three.smallest > 0


def test_one_context_alone_has_no_verdict() -> None:
    found = only(experiment(1, shape=DOCUMENTS)).effects["ttft"]
    assert found.interval is None and found.verdict.by == ["few_pairs"]
    many = Shape(requests=60, contexts=1, uniques=6)
    found = only(experiment(1, shape=many)).effects["ttft"]
    assert found.interval is not None and found.verdict.by == ["few_groups"]


def test_a_run_against_itself_is_the_same() -> None:
    cold = make("cold")
    twin = rerun(edited(cold, round_num=2), round_num=2, run_id="twin")
    found = only([cold, twin])
    assert found.same_arm
    assert {one.verdict.word for one in found.effects.values() if one.interval} == {"same"}


def test_noise_is_the_same_and_never_a_verdict() -> None:
    even = World(miss_s=0.5, hit_s=0.5)
    words = {only(experiment(3, world=even, seed=s)).effects["ttft"].verdict.word for s in range(5)}
    assert words <= {"same", "withheld"}


# --- targets -------------------------------------------------------------------------------------


def test_targets_by_repeats() -> None:
    """One run is met in 1 run, two are never shown, three are met."""
    assert [status(only(experiment(n)))[0] for n in (1, 2, 3)] == [
        "met_in_1_run",
        "not_shown",
        "met",
    ]
    assert status(only(experiment(2))) == ("not_shown", "two_repeats")


def test_two_repeats_do_not_even_show_that_a_target_is_out_of_reach() -> None:
    assert status(only(experiment(2, shape=DOCUMENTS), "ttft_reduction=0.9"))[0] == "not_shown"


def test_an_aa_check_has_no_targets() -> None:
    found = only([make("cold"), make("cold", number=2, seed=2)])
    assert status(found) == ("not_applicable", "aa")


def test_without_a_cold_round_there_is_no_mixture_to_tell() -> None:
    found = only(experiment(1, arms=("no_reuse", "hit")))
    assert (found.mixture, found.effects["ttft"].base) == (None, "no_reuse")
    assert status(found)[0] == "met_in_1_run"


def test_a_target_is_met_by_the_worse_and_missed_by_the_better_end() -> None:
    rounds = experiment(3)
    interval = only(rounds).effects["ttft"].interval
    assert interval is not None
    worse, better = 1 - math.exp(interval.high), 1 - math.exp(interval.low)
    e2e = only(rounds).effects["e2e"].interval
    assert e2e is not None
    ends = 1 - math.exp(e2e.high), 1 - math.exp(e2e.low)
    for name, low, high in (("ttft_reduction", worse, better), ("e2e_reduction", *ends)):
        assert status(only(rounds, f"{name}={low - 0.001}"), name)[0] == "met"
        above = status(only(rounds, f"{name}={high + 0.001}"), name)[0]
        assert above == ("not_reachable" if name == "ttft_reduction" else "not_met")
    assert status(only(rounds, f"e2e_reduction={sum(ends) / 2}"), "e2e_reduction") == (
        "not_shown",
        "wide",
    )


def test_a_target_above_the_ceiling_is_not_reachable_with_this_shape() -> None:
    found = only(experiment(1, shape=DOCUMENTS), "ttft_reduction=0.7")
    ceiling = found.ceiling
    assert ceiling is not None and status(found) == ("not_reachable", "shape")
    k, n, miss, hit = ceiling.cold, ceiling.requests, ceiling.miss_s, ceiling.hit_s
    formula = k * (miss - hit) / (k * miss + (n - k) * hit)
    assert ceiling.reduction == pytest.approx(formula, rel=0.01)


@pytest.mark.parametrize("wish", [0.65, 0.7, 0.75, 0.8])
def test_the_shape_that_is_advised_would_do(wish: float) -> None:
    ceiling = only(experiment(1, shape=DOCUMENTS)).ceiling
    assert ceiling is not None

    def best(n: float, k: float) -> float:
        miss, hit = ceiling.miss_s, ceiling.hit_s
        return k * (miss - hit) / (k * miss + (n - k) * hit)

    contexts = ceiling.contexts_needed(wish)
    assert contexts is not None
    assert best(30, contexts + 3) >= wish > best(30, contexts - 1 + 3)
    requests = ceiling.requests_allowed(wish)
    if requests is not None:
        assert best(requests, 1 + requests * 0.1) >= wish
        assert best(requests + 1, 1 + (requests + 1) * 0.1) < wish


def test_what_no_shape_can_reach_is_not_the_shapes_fault() -> None:
    weak = World(miss_s=0.5, hit_s=0.3)
    found = only(experiment(3, world=weak))
    assert status(found)[0] == "not_met"
    assert found.ceiling is not None and found.ceiling.contexts_needed(0.6) is None


def test_under_load_no_ceiling_is_named() -> None:
    setting = Setting(arrival=Arrival(kind="closed", concurrency=5))
    found = only(experiment(1, setting=setting, shape=DOCUMENTS), "ttft_reduction=0.7")
    assert found.ceiling is None and status(found)[0] == "not_shown"


def test_turns_of_a_talk_are_partly_cold_and_raise_the_ceiling() -> None:
    """Followers that found half of their prompt in round 1 had something left to gain."""
    cold, hit = experiment(1, shape=Shape(contexts=3, uniques=0))
    assert cold.stats.samples is not None
    rows = list(zip(cold.stats.samples.stratum, cold.stats.samples.ttft_s, strict=True))
    ttft = [0.4 if stratum == "follower" else value for stratum, value in rows]
    cached = [1300 if stratum == "follower" else 0 for stratum, _ in rows]
    found = only([resampled(cold, ttft_s=ttft, cached_tokens=cached), hit])
    assert found.ceiling is not None
    assert found.ceiling.reduction > 0.85
    assert status(found)[0] == "met_in_1_run"


def test_equivalence_of_tpot_needs_the_whole_interval() -> None:
    met = only(experiment(3))
    assert status(met, "tpot_ratio")[0] == "met"
    cold, hit = make("cold"), make("hit", world=World(tpot_s=0.030))
    assert status(only([cold, hit]), "tpot_ratio") == ("not_shown", "drift")
    assert hit.stats.samples is not None
    rows = zip(hit.stats.samples.stratum, hit.stats.samples.tpot_s, strict=True)
    still = [0.02 if stratum == "sentinel" else value for stratum, value in rows]
    assert status(only([cold, resampled(hit, tpot_s=still)]), "tpot_ratio")[0] == "not_met"
    wide = only(experiment(3, world=World(noise=0.5)), "tpot_ratio=0.99..1.01")
    assert status(wide, "tpot_ratio")[0] == "not_shown"


# --- findings ------------------------------------------------------------------------------------


def test_a_contaminated_round_withholds_what_it_touches_and_nothing_else() -> None:
    cold, hit, bare = experiment(1, arms=("cold", "hit", "no_reuse"))
    found = only([with_findings(cold, "contaminated", severity="invalid"), hit, bare])
    assert found.effects["ttft"].verdict.word == "withheld"
    assert found.effects["ttft"].verdict.by == ["contaminated"]
    assert found.effects["all_hits"].verdict.word == "faster"
    assert found.value == "all_hits"
    assert status(found) == ("invalid", "contaminated")


def test_the_proof_alone_is_a_finding() -> None:
    cold, hit = experiment(1)
    found = only([edited(cold, cold_proof="contaminated"), hit])
    assert "contaminated" in found.codes("invalid")
    assert "cold_not_shown" in only([edited(cold, cold_proof="not shown"), hit]).codes("warning")
    assert not only([cold, hit]).findings


def test_different_plans_have_no_percentage() -> None:
    cold, hit = experiment(1)
    found = only([cold, rerun(hit, plan_sha256="another")])
    assert found.refused == ["plan_differs"]
    assert found.effects == {} and status(found) == ("invalid", "plan_differs")
    assert concluded([cold, rerun(hit, plan_sha256="another")]).incomparable


def test_a_later_round_of_another_plan_is_left_out_alone() -> None:
    cold, hit = experiment(1)
    third = rerun(make("hit", number=3), plan_sha256="another")
    found = only([cold, hit, third])
    assert found.later == [] and "ttft" in found.effects
    assert [one.rounds for one in found.findings] == [["cold", "round 3"]]


def test_different_shapes_over_repeats_have_none_either() -> None:
    rounds = experiment(2)
    rounds[2:] = [rerun(one, shape_sha256="another") for one in rounds[2:]]
    assert only(rounds).refused == ["plan_differs"]


def test_overload_has_no_percentage() -> None:
    cold, hit = experiment(1)
    found = only([with_findings(cold, "overload", severity="invalid"), hit])
    assert found.refused == ["overload"] and not found.effects


def test_dropped_pairs_are_told_above_one_percent() -> None:
    cold, hit = experiment(1, shape=Shape(requests=300, contexts=30, uniques=30))
    assert hit.stats.samples is not None

    def shorter(count: int) -> Round:
        assert hit.stats.samples is not None
        rest = hit.stats.samples.output_tokens[count:]
        return resampled(hit, output_tokens=[15] * count + rest)

    assert "unequal_work" not in only([cold, shorter(3)]).codes()
    found = only([cold, shorter(4)])
    assert "unequal_work" in found.codes("warning")
    assert (found.effects["ttft"].dropped, found.effects["ttft"].pairs) == (4, 296)


def test_one_failure_in_one_round_only_is_told() -> None:
    cold, hit = experiment(1, shape=Shape(requests=300, contexts=30, uniques=30))
    assert cold.stats.samples is not None
    failed = [False, *cold.stats.samples.ok[1:]]
    assert "unequal_work" in only([cold, resampled(hit, ok=failed)]).codes()
    both = [resampled(one, ok=failed) for one in (cold, hit)]
    assert "unequal_work" not in only(both).codes()


def test_answers_that_differ_are_told() -> None:
    cold, hit = experiment(1)
    assert hit.stats.samples is not None
    other = ["x", *hit.stats.samples.output_sha256[1:]]
    found = only([cold, resampled(hit, output_sha256=other)])
    assert "answers_differ" in found.codes("warning")
    assert found.findings[0].finding.evidence == {"differing": 1, "hashed": 30}


def test_other_prompts_may_have_other_answers() -> None:
    """Salts at the head of the prompts: the same in cold and hit, one for each without reuse."""
    bare, cold, hit = experiment(1, arms=("no_reuse", "cold", "hit"))
    assert bare.stats.samples is not None
    other = ["x", *bare.stats.samples.output_sha256[1:]]
    for way, told in (("cache_salt", True), ("prompt_head", False)):
        rounds = [rerun(one, salt="s", salt_way=way) for one in (bare, cold, hit)]
        found = only([resampled(rounds[0], output_sha256=other), *rounds[1:]])
        assert ("answers_differ" in found.codes()) is told
        found = only([rounds[0], rounds[1], resampled(rounds[2], output_sha256=other)])
        assert "answers_differ" in found.codes(), "cold and hit are asked the same"


def test_stamps_of_two_clerks_are_told() -> None:
    cold, hit = experiment(1)
    clerks = [edited(cold, stamp_source="kernel"), edited(hit, stamp_source="user")]
    assert "stamps_mixed" in only(clerks).codes()
    same = [edited(cold, stamp_source="user"), edited(hit, stamp_source="user")]
    assert "stamps_mixed" not in only(same).codes()
    untold = [edited(cold, stamp_source=None), edited(hit, stamp_source="user")]
    assert not only(same).findings and not only(untold).findings


def test_drift_withholds_the_verdict_when_it_could_be_a_quarter_of_the_effect() -> None:
    small = World(miss_s=0.5, hit_s=0.4, noise=0.005)
    moved = World(miss_s=0.5, hit_s=0.4, noise=0.005, drift=-0.15)
    calm = only([make("cold", world=small), make("hit", world=small)])
    assert calm.effects["one_hit"].verdict.word == "faster"
    found = only([make("cold", world=small), make("hit", world=moved)])
    assert found.effects["one_hit"].verdict.by == ["drift"]
    assert "drift" in found.codes("invalid")
    assert status(found) == ("not_shown", "drift")
    large = World(miss_s=0.5, hit_s=0.05, noise=0.005, drift=-0.15)
    still = World(miss_s=0.5, hit_s=0.05, noise=0.005)
    found = only([make("cold", world=still), make("hit", world=large)])
    assert found.effects["one_hit"].verdict.word == "faster"


def test_a_control_that_was_not_run_leaves_the_verdict_unsaid() -> None:
    found = only(experiment(1, shape=Shape(sentinels=0)))
    assert found.effects["ttft"].verdict.by == ["drift_unchecked"]
    assert "drift" in found.codes("warning") and "drift" not in found.codes("invalid")
    assert status(found) == ("not_shown", "drift_unchecked")


def test_equal_findings_of_several_repeats_are_one() -> None:
    rounds = [with_findings(one, "barrier_unknown") for one in experiment(3)]
    (cold, hit) = only(rounds).findings
    assert (cold.rounds, hit.rounds, cold.repeats) == (["cold"], ["hit"], [1, 2, 3])


# --- what can be there or not --------------------------------------------------------------------


def test_old_stats_give_a_ratio_and_nothing_about_its_doubt() -> None:
    bare = {"run": [], "samples": None, "cold_proof": None, "tier_served": None}
    rounds = [edited(one, **bare) for one in experiment(1)]
    found = only(rounds)
    effect = found.effects["ttft"]
    assert found.old and found.one_hit is None
    assert (effect.interval, effect.no_interval, effect.pairs) == (None, "no_samples", None)
    means = [one.stats.timings.ttft_s.mean for one in rounds]
    assert means[0] and means[1] and effect.ratio == pytest.approx(means[1] / means[0])
    assert status(found) == ("not_shown", "no_samples")


def test_nothing_succeeded() -> None:
    cold, hit = experiment(1)
    assert hit.stats.samples is not None
    count = len(hit.stats.samples.ok)
    dead = resampled(hit, ok=[False] * count, ttft_s=[None] * count)
    found = only([cold, dead])
    assert "ttft" not in found.effects and status(found)[0] == "not_applicable"


def test_a_round_alone_is_missing_the_other() -> None:
    found = only([make("hit")])
    assert (found.comparable, found.missing, found.effects) == (False, ["cold"], {})
    assert concluded([make("hit")]).incomparable == [found]


def test_a_conclusion_survives_json() -> None:
    made = concluded(experiment(3, arms=("cold", "hit", "no_reuse")))
    text = msgspec.json.encode(made)
    assert b"NaN" not in text and b"Infinity" not in text
    assert msgspec.json.decode(text, type=Conclusion) == made
