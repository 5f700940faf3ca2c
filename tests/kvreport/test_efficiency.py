"""What a report says of efficiency: figures where the data tell, else why not, and what to run."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from tests.kvreport.rounds import NODE_A, NODE_B, Setting, edited, finding, resampled
from tests.kvreport.worlds import Planted, Shape, rounds
from tests.simulated import cluster

from kvpipe.records import Arrival, ServerMetrics
from kvreport.charts import charts_of
from kvreport.charts.png import png
from kvreport.charts.svg import draw
from kvreport.conclude import conclude
from kvreport.conclusion import Conclusion
from kvreport.efficiency import Efficiency, efficiencies
from kvreport.efficiency_chapter import sentences
from kvreport.efficiency_worth import Figure
from kvreport.experiments import group
from kvreport.formats import RENDERERS
from kvreport.formats import Setting as Format
from kvreport.rounds import Round
from kvreport.targets import parse
from kvreport.words import Words

Sh = Callable[..., Any]
WORLD = Planted()
ENGLISH, CHINESE = Words("en"), Words("zh")
LOADED = 'vllm:mooncake_store_operation_bytes_total{operation="load_get",status="ok"}'


def concluded(made: Sequence[Round], size: float | None = None) -> Conclusion:
    experiments = group(made)
    found = conclude(experiments, parse([]), tool_version="test")
    return msgspec.structs.replace(
        found, efficiency=efficiencies(experiments, found.scenarios, size)
    )


def only(made: Sequence[Round], size: float | None = None) -> Efficiency:
    (found,) = concluded(made, size).efficiency
    return found


def told(one: Efficiency, words: Words = ENGLISH) -> str:
    return " ".join(sentences(one, words))


def value(one: Figure | None) -> Figure:
    assert one is not None
    assert one.value is not None
    assert one.low is not None
    assert one.high is not None
    return one


def test_planted_coefficients_come_back_with_their_intervals() -> None:
    one = only(rounds(5))
    assert (one.scope, one.units, one.split, one.reasons) == ("repeats", 5, "requests", [])
    planted = {
        ("base_s", None): WORLD.a,
        ("per_token_s", None): WORLD.b,
        ("per_token2_s", None): WORLD.b2,
        ("cached_s", "remote"): WORLD.c_remote,
    }
    for (name, source), truth in planted.items():
        assert value(one.figure(name, source)).value == pytest.approx(truth, rel=0.35)
    speed = value(next(found for found in one.figures if found.name == "prefill_tps"))
    assert speed.low < 1 / (WORLD.b + WORLD.b2 * one.lengths[0]) < speed.high
    (even,) = one.break_even
    assert even.word == "from"
    assert 0 <= (even.low or 0) <= (even.tokens or 0) <= (even.high or 0) <= even.longest


def test_gpu_seconds_are_those_of_the_cached_tokens() -> None:
    made = rounds(3)
    (saving,) = only(made).savings
    samples = [one.stats.samples for one in made if one.arm == "hit"]
    saved = [
        WORLD.b * cached + WORLD.b2 * (prompt**2 - (prompt - cached) ** 2)
        for one in samples
        if one is not None
        for prompt, cached, stratum in zip(
            one.prompt_tokens, one.cached_tokens, one.stratum, strict=True
        )
        if stratum != "sentinel" and prompt is not None and cached is not None
    ]
    found = value(saving.seconds)
    assert found.value == pytest.approx(1000 * sum(saved) / len(saved), rel=0.1)


def test_the_rounds_evidence_splits_what_requests_do_not_tell() -> None:
    one = only(rounds(3, told=False))
    assert one.split == "rounds"
    assert "evidence of its round" in told(one)
    direct = value(only(rounds(3)).figure("cached_s", "remote"))
    assert value(one.figure("cached_s", "remote")).value == pytest.approx(direct.value)


def test_without_evidence_there_is_one_coefficient_for_cached() -> None:
    made = [edited(one, tier_served=None, leaders_served=None) for one in rounds(3, told=False)]
    one = only(made)
    assert {found.source for found in one.figures if found.name == "cached_s"} == {"cached"}
    assert "a tier that is not shown" in told(one)


def test_tainted_rounds_give_no_figures() -> None:
    foreign = finding("foreign_traffic", "invalid")
    made = [edited(one, findings=[foreign]) for one in rounds(3)]
    one = only(made)
    assert (one.reasons, one.figures, one.break_even) == (["tainted"], [], [])
    assert "foreign traffic" in told(one)
    assert "not identifiable" in told(one)


def test_one_tainted_repeat_is_left_out_and_named() -> None:
    made = rounds(4)
    taint = finding("contaminated", "invalid")
    made = [edited(one, findings=[taint] if one.repeat == 2 else []) for one in made]
    one = only(made)
    assert one.units == 3
    assert one.tainted == ["contaminated"]
    assert "Left out" in told(one)


def test_under_load_nothing_is_said() -> None:
    setting = Setting(
        tier="remote",
        node_a=NODE_B,
        node_b=NODE_B,
        arrival=Arrival(kind="closed", concurrency=8),
    )
    one = only(rounds(3, setting=setting))
    assert one.reasons == ["load"]
    assert "without --concurrency" in told(one)


def test_untold_tokens_are_no_zeros() -> None:
    made = []
    for one in rounds(3, told=False):
        assert one.stats.samples is not None
        made.append(resampled(one, cached_tokens=[None] * len(one.stats.samples.index)))
    one = only(made)
    assert one.reasons == ["no_tokens"]
    assert one.requests == 0


@pytest.mark.parametrize("words", [ENGLISH, CHINESE], ids=["en", "zh"])
@pytest.mark.parametrize(
    ("shape", "repeats", "reason"),
    [
        (Shape(lengths=(2700,), sentinel=2700, contexts=6), 3, "one_length"),
        (Shape(lengths=(2700,), sentinel=1000, contexts=6), 3, "few_lengths"),
        (Shape(), 2, "two_repeats"),
    ],
)
def test_a_refusal_says_why_and_what_to_run(
    shape: Shape, repeats: int, reason: str, words: Words
) -> None:
    one = only(rounds(repeats, shape=shape))
    assert one.reasons == [reason]
    assert not one.figures
    assert words.phrases[f"eff_why_{reason}"] in told(one, words)
    assert "--" in told(one, words)  # a flag that would tell


def test_nodes_are_fitted_apart_and_a_node_without_hits_not_at_all() -> None:
    setting = Setting(tier="remote", node_a=NODE_A, node_b=NODE_B)
    found = concluded(rounds(3, setting=setting)).efficiency
    assert [one.endpoint_url for one in found] == [NODE_B]


def test_labelled_files_are_fitted_apart() -> None:
    """Who labels two files says that they differ: another engine behind the same address, say."""
    made = [
        replace(one, label=label, place=f"{label}:{at}")
        for label, seed in (("old", 1), ("new", 2))
        for at, one in enumerate(rounds(3, seed=seed), 1)
    ]
    found = concluded(made).efficiency
    assert [one.name for one in found] == [f"{label} ({NODE_B[:-3]})" for label in ("old", "new")]
    assert {one.requests for one in found} == {only(rounds(3)).requests}


def test_bytes_come_from_the_counters_of_loads_or_from_the_flag() -> None:
    made = []
    for one in rounds(3):
        if one.arm == "hit":
            server = ServerMetrics(
                run_id="r",
                url=NODE_B,
                role="node",
                endpoint_url=NODE_B,
                deltas={LOADED: 4096.0 * 1000, "vllm:other_bytes_total": 1.0},
            )
            leaders = msgspec.structs.replace(one.stats.leaders_served, external=1000.0)
            one = edited(one, server=[server], served=leaders)
        made.append(one)
    one = only(made)
    assert (one.bytes_per_token, one.bytes_how) == (4096.0, "counters")
    tokens, size = (
        value(one.figure("bandwidth_tps", "remote")),
        one.figure("bandwidth_bps", "remote"),
    )
    assert value(size).value == pytest.approx((tokens.value or 0) * 4096)
    given = only(made, 131072)
    assert (given.bytes_per_token, given.bytes_how) == (131072, "given")
    assert only(rounds(3)).figure("bandwidth_bps", "remote") is None


def test_lengths_left_out_are_foretold() -> None:
    quiet = Planted(noise=0.004, between_groups=0.004, between_repeats=0.004)
    one = only(rounds(3, world=quiet))
    assert {round(held.tokens, -2) for held in one.held_out} >= {1500, 2700}
    assert all(abs(held.error) < 0.15 for held in one.held_out)
    assert "does not fit" not in told(one)


def test_a_line_that_does_not_fit_says_so() -> None:
    """A shape that no bend of second degree follows: a cliff at one length."""
    made = []
    for one in rounds(3, world=Planted(noise=0.004)):
        samples = one.stats.samples
        assert samples is not None
        ttft = [
            (time or 0) * (6.0 if 2600 < (prompt or 0) < 2800 else 1.0)
            for time, prompt in zip(samples.ttft_s, samples.prompt_tokens, strict=True)
        ]
        made.append(resampled(one, ttft_s=ttft))
    assert "does not fit well" in told(only(made))


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("form", ["text", "md", "html", "json", "csv"])
def test_the_chapter_stands_in_every_format(form: str, language: str) -> None:
    made = rounds(3)
    conclusion, experiments = concluded(made, 4096), group(made)
    words = Words(language)
    charts = charts_of(conclusion, experiments, words)
    setting = Format(language=language, charts=charts, columns=100)
    shown = RENDERERS[form](conclusion, setting)
    if form == "json":
        (one,) = json.loads(shown)["efficiency"]
        assert one["break_even"][0]["word"] == "from"
    elif form == "csv":
        rows = [row for row in csv.DictReader(io.StringIO(shown)) if row["effect"] == "efficiency"]
        even = [row for row in rows if row["metric"] == "break_even_tokens"]
        assert [row["verdict"] for row in even] == ["from"]
        assert all((row["low"] and row["high"]) or row["reason"] for row in rows)
    else:
        assert words.say("efficiency") in shown
        assert words.say("eff_base_s") in shown


def test_two_charts_are_drawn_as_pictures_and_in_the_page() -> None:
    made = rounds(3)
    conclusion = concluded(made)
    charts = charts_of(conclusion, group(made), ENGLISH).efficiency
    assert [one.name for one in charts] == ["efficiency_01_ttft_fit", "efficiency_01_break_even"]
    for one in charts:
        assert png(one).startswith(b"\x89PNG")
        assert "NaN" not in draw(one)
    assert "break-even:" in draw(charts[1])
    refused = rounds(2)
    assert not charts_of(concluded(refused), group(refused), ENGLISH).efficiency


PACE = (
    *("--prefill-tps", "20000", "--attention-ns", "8", "--max-num-batched-tokens", "16384"),
    *("--step-ms", "4", "--overhead-ms", "6", "--save-delay-ms", "20"),
    *("--load-latency-ms", "15", "--load-ms-per-block", "0.32"),
)
"""50 us a token, 4 ns a token squared; a load is 15 ms and 20 us a token: even from 500 tokens."""
PLAN = (
    "--scenario long_context_high_reuse --requests 13 --contexts 11 --context-tokens 400-4000 "
    "--output-tokens 2 --sentinels 0 --pause 0 --warmup 1"
)
"""Without sentinels: on a busy machine they drift, and the rounds would be left out."""


def test_kvsims_own_speeds_are_found_through_the_whole_pipe(sh: Sh) -> None:
    """Client, records, stats, report: what kvsim was told comes out, widely held."""
    with cluster(*PACE) as (store, a, b):
        done = sh(
            f"kvload -q --url 1={a.url} --url 2={b.url} {PLAN} --control "
            f"--metrics-url store={store.url} | kvstats | kvreport --format json"
        )
    (one,) = json.loads(done.out)["efficiency"]
    assert one["reasons"] == [], one["tainted"]
    assert (one["simulated"], one["split"]) == (True, "requests")
    figures = {(found["name"], found["source"]): found for found in one["figures"]}
    for key, truth in {
        ("per_token_s", None): 50e-6,
        ("cached_s", "remote"): 20e-6,
        ("bandwidth_tps", "remote"): 50_000,
    }.items():
        assert figures[key]["value"] == pytest.approx(truth, rel=0.35), key
    assert one["bytes_per_token"] == 4096
    (even,) = one["break_even"]
    assert even["word"] == "from"
    assert 200 < even["tokens"] < 1200
