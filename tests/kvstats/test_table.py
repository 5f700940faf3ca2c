"""What a person reads after a round, and the change that is plain arithmetic."""

from __future__ import annotations

import pytest
from msgspec import structs
from tests.kvstats.streams import (
    CONTEXT,
    HIT_MS,
    MISS_MS,
    MS,
    OUTPUT,
    Made,
    cached,
    cold,
    failed,
    hit,
    no_reuse,
    node,
    request,
    run,
)

from kvpipe.records import Arrival, RoundStats
from kvstats.change import change_of, previous
from kvstats.table import milliseconds, table_of


def pair(cold_ms: float, hit_ms: float, n: int = 4) -> tuple[Made, Made]:
    """Uniques, cold and hit, of these TTFTs."""
    rounds = []
    for run_id, arm, number, ttft in (("r1", "cold", 1, cold_ms), ("r2", "hit", 2, hit_ms)):
        head = run(run_id=run_id, arm=arm, round_num=number, requests=n)
        made = [request(i, at_ms=2_000 * i, ttft_ms=ttft, run_id=run_id) for i in range(n)]
        rounds.append(Made(head, made).closed())
    return rounds[0], rounds[1]


def shown(*made: Made) -> str:
    return table_of([one.stats() for one in made])


def test_the_documents_sentence() -> None:
    text = shown(*pair(1000, 335))
    assert "target met: TTFT reduced 66.5 % (target 60 %)" in text
    assert "TTFT            -66.5 %  (4 pairs)" in text


@pytest.mark.parametrize(
    ("hit_ms", "sentence"),
    [
        (400, "target met: TTFT reduced 60.0 % (target 60 %)"),
        (401, "target not met: TTFT reduced 59.9 % (target 60 %)"),
        (1200, "target not met: TTFT increased 20.0 % (target 60 %)"),
    ],
)
def test_the_target(hit_ms: float, sentence: str) -> None:
    assert sentence in shown(*pair(1000, hit_ms))


def test_an_invalid_round_is_not_judged() -> None:
    first, second = pair(1000, 300)
    spoilt = first.change(lambda one: True, cached_tokens=cached(CONTEXT))
    text = shown(spoilt, second)
    assert "target not judged: contaminated" in text
    assert "target met" not in text


def test_only_complete_pairs_of_equal_work_count() -> None:
    first, second = pair(1000, 500)
    broken = second.map(lambda one: failed(one) if one.index == 0 else one)
    longer = broken.change(lambda one: one.index == 1, output_tokens=OUTPUT + 1)
    slow = longer.change(lambda one: one.index < 2, first_token_ns=60_000 * MS)
    change = change_of(first.stats(), slow.stats())
    assert change is not None
    assert (change.ttft.pairs, change.dropped) == (2, 2)
    cut = second.change(lambda one: one.index == 0, status="truncated")
    cut_change = change_of(first.stats(), cut.stats())
    assert cut_change is not None
    assert (cut_change.ttft.pairs, cut_change.dropped) == (3, 1)
    assert change.ttft.reduction == pytest.approx(0.5)
    other = change_of(slow.head(arm="cold").stats(), second.stats())
    assert other is not None
    assert other.ttft.pairs == 2


def test_no_complete_pair() -> None:
    first, second = pair(1000, 500)
    text = shown(first, second.map(failed))
    assert "target not shown: no complete pair" in text


def test_sentinels_are_no_pairs() -> None:
    change = change_of(cold().stats(), hit().stats())
    assert change is not None
    assert change.ttft.pairs == 12
    before = (4 * MISS_MS + 8 * HIT_MS) / 12
    assert change.ttft.reduction == pytest.approx(1 - HIT_MS / before)


def other_plan(made: Made) -> Made:
    return made.head(plan_sha256="c" * 64)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (hit(), cold()),
        (cold(), no_reuse()),
        (no_reuse(), hit()),
        (cold(), other_plan(hit())),
        (cold(), hit(experiment_id="f")),
        (cold(), hit(repeat=2)),
        (cold(), hit(name="other")),
    ],
    ids=["order", "no_reuse", "from no_reuse", "plan", "experiment", "repeat", "name"],
)
def test_rounds_that_are_no_pair(first: Made, second: Made) -> None:
    assert change_of(first.stats(), second.stats()) is None
    assert "Change" not in shown(first, second)


def test_the_round_before_need_not_be_next_to_it() -> None:
    rounds: list[RoundStats] = [one.stats() for one in (cold(), no_reuse(), hit())]
    assert previous(rounds, 2) is not None
    assert previous(rounds, 1) is None


def test_throughput_of_an_open_loop_is_what_was_offered() -> None:
    offered = Arrival(kind="constant", rate_rps=1.0)
    first, second = pair(1000, 300)
    text = shown(first.head(arrival=offered), second.head(arrival=offered))
    assert "throughput      n/a (offered rate)" in text
    assert text.count("(offered rate)") == 3
    assert "(offered rate)" not in shown(first, second)


def test_the_block_of_a_round() -> None:
    text = shown(cold().seen_by(node(cold())))
    for line in (
        "Round 1/2  Cold Start  long_context_high_reuse",
        "  requests        12 total, 12 successful, 0 failed",
        "  cold            4 of 12 requests",
        "  TTFT            mean 340 ms  median 60 ms  P90 900 ms  P99 -  (n 12)",
        "  hit ratio       64.1 %  (ideal 64.1 %)",
        "  cold proof      proven",
    ):
        assert line in text.splitlines()
    assert "prefill" not in text
    assert max(len(line) for line in text.splitlines()) <= 80


def test_phases_are_shown_for_pd_only() -> None:
    made = cold()
    prefill = structs.replace(
        node(made, prefill_sum_s=6.5, prefill_count=13.0), role="prefill", url="http://p"
    )
    text = shown(made.seen_by(prefill))
    assert "prefill         mean 500 ms  (measured: prefill_sum_s / prefill_count)" in text
    assert "KV transfer     not measured" in text


def test_nothing_measured_is_no_zero() -> None:
    text = shown(cold().map(failed))
    assert "TTFT            not measured" in text
    assert "hit ratio       not reported" in text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "-"), (0.0, "0 ms"), (0.0000123, "0.0123 ms"), (0.0605, "60.5 ms"), (1.5, "1,500 ms")],
)
def test_milliseconds(seconds: float | None, text: str) -> None:
    assert milliseconds(seconds) == text
