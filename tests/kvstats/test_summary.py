"""Numbers of a round: what is counted, over what, and when there is none."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs
from tests.kvstats.streams import (
    CONTEXT,
    GAP_MS,
    HIT_MS,
    MISS_MS,
    MS,
    OUTPUT,
    PROMPT,
    Made,
    cached,
    cold,
    failed,
    hit,
    node,
    request,
    run,
    shards,
)

from kvpipe.records import Arrival, Request, RoundStats
from kvstats.rows import Rows
from kvstats.slo import parse_slos
from kvstats.streams import Rounds
from kvstats.summary import summarise


def with_slo(made: Made, *words: str) -> RoundStats:
    rounds = Rounds(parse_slos(words))
    for record in made.records():
        rounds.add(record)
    (one,) = rounds
    return summarise(one)


def test_the_documents_flat_fields() -> None:
    stats = cold().stats()
    assert (stats.scenario, stats.round_num) == ("long_context_high_reuse", 1)
    assert stats.endpoint_url == "http://127.0.0.1:8001"
    assert stats.avg_ttft == pytest.approx((4 * MISS_MS + 8 * HIT_MS) / 12 / 1e3)


def test_sentinels_are_in_their_stratum_only() -> None:
    stats = (
        cold(sentinels=3)
        .change(lambda one: one.stratum == "sentinel", output_tokens=10_000)
        .stats()
    )
    assert stats.total_requests == 12
    assert stats.timings.ttft_s.n == 12
    assert {name: strata.ttft_s.n for name, strata in stats.strata.items()} == {
        "follower": 8,
        "leader": 2,
        "sentinel": 3,
        "unique": 2,
    }
    assert stats.cold_requests == 4
    assert stats.output_throughput_tps == pytest.approx(12 * OUTPUT / (stats.total_time_s or 0))


def test_throughput_is_successes_from_first_sent_to_last_end() -> None:
    made = cold(sentinels=0)
    last = max(r.end_ns for r in made.requests)
    stats = made.stats()
    assert stats.total_time_s == pytest.approx(last / 1e9)
    assert stats.request_throughput_rps == pytest.approx(12 / (last / 1e9))
    assert stats.total_throughput_tps == pytest.approx(12 * (PROMPT + OUTPUT) / (last / 1e9))
    computed = 12 * (PROMPT + OUTPUT) - 8 * cached(CONTEXT)
    assert stats.uncached_throughput_tps == pytest.approx(computed / (last / 1e9))
    one_failed = made.map(lambda one: failed(one) if one.index == 11 else one).stats()
    assert one_failed.total_time_s == stats.total_time_s
    assert one_failed.request_throughput_rps == pytest.approx(11 / (last / 1e9))
    assert (one_failed.failed_requests, one_failed.status_counts) == (1, {"ok": 11, "timeout": 1})


def test_a_rate_of_tokens_that_somebody_did_not_report_is_null() -> None:
    stats = cold().change(lambda one: one.index == 1, prompt_tokens=None).stats()
    assert stats.total_throughput_tps is None
    assert stats.output_throughput_tps is not None
    assert stats.uncached_throughput_tps is None


def test_nothing_succeeded() -> None:
    stats = cold().map(failed).stats()
    assert stats.avg_ttft is None
    assert stats.timings.ttft_s.n == 0
    assert stats.request_throughput_rps == 0.0
    assert stats.hit_ratio is None
    unsent = cold().map(lambda one: failed(one, "connect_error", sent_ns=None)).stats()
    assert unsent.total_time_s is None
    assert unsent.request_throughput_rps is None
    assert not unsent.complete


def test_a_run_without_a_single_request() -> None:
    stats = Made(run(), []).closed().stats()
    assert (stats.total_requests, stats.complete, stats.cold_proof) == (0, False, "not shown")


def test_hit_ratio_is_over_those_that_reported() -> None:
    stats = cold().stats()
    assert stats.hit_ratio == pytest.approx(8 * cached(CONTEXT) / (12 * PROMPT))
    assert stats.ideal_hit_ratio == stats.hit_ratio
    assert stats.efficiency is None
    leaders = cold().change(lambda one: one.stratum == "follower", cached_tokens=None).stats()
    assert leaders.hit_ratio == 0.0
    assert hit().stats().efficiency == 1.0


def test_the_whole_prompt_is_ideal_where_a_hit_round_knows_no_better() -> None:
    unknown = {"ideal_prior_tokens": None, "ideal_in_round_hi": None}
    stats = hit().change(lambda one: True, **unknown).stats()
    assert stats.efficiency == 1.0
    assert cold().change(lambda one: True, **unknown).stats().ideal_hit_ratio is None


def test_the_block_is_read_from_the_tokens_where_nobody_told() -> None:
    """1,600 and 1,648 have 16 in common; a single size of 1,600 would be no block."""
    unknown = {"ideal_prior_tokens": None, "ideal_in_round_hi": None}
    made = hit(block_tokens=None).change(lambda one: True, **unknown)
    made = made.change(lambda one: one.index == 1, cached_tokens=1600)
    assert made.stats().efficiency == pytest.approx((11 * 1648 + 1600) / (12 * 1648))
    same = hit(block_tokens=None).change(lambda one: True, **unknown)
    same = same.change(lambda one: one.stratum != "sentinel", cached_tokens=1600)
    assert same.stats().efficiency == pytest.approx(1600 / 1600)


def test_an_open_loop_is_still_computed() -> None:
    made = cold().head(arrival=Arrival(kind="poisson", rate_rps=2.0))
    assert made.stats().request_throughput_rps is not None


def test_goodput_needs_every_limit() -> None:
    assert cold().stats().goodput_rps is None
    time_s = cold().stats().total_time_s or 0
    fast = with_slo(cold(), "ttft=100ms")
    assert fast.goodput_rps == pytest.approx(8 / time_s)
    assert fast.slo == {"ttft": 0.1}
    assert with_slo(cold(), "ttft=100ms", "tpot=19ms").goodput_rps == 0.0
    assert with_slo(cold(), "ttft=2s", "tpot=20ms", "e2e=3").goodput_rps == pytest.approx(
        12 / time_s
    )


def test_goodput_in_an_open_loop_is_what_the_user_waited() -> None:
    def late(one: Request) -> Request:
        return structs.replace(one, scheduled_ns=(one.sent_ns or 0) - 500 * MS)

    made = cold().map(late)
    assert with_slo(made, "ttft=100ms").goodput_rps > 0  # type: ignore[operator]
    offered = made.head(arrival=Arrival(kind="constant", rate_rps=2.0))
    assert with_slo(offered, "ttft=100ms").goodput_rps == 0.0


@given(st.integers(1, 2_000), st.integers(1, 100), st.integers(1, 5_000))
@settings(max_examples=25)
def test_goodput_is_at_most_throughput(ttft: int, tpot: int, e2e: int) -> None:
    stats = with_slo(cold(), f"ttft={ttft}ms", f"tpot={tpot}ms", f"e2e={e2e}ms")
    assert stats.goodput_rps is not None
    assert stats.request_throughput_rps is not None
    assert 0 <= stats.goodput_rps <= stats.request_throughput_rps


def closed(slots: int, n: int = 40, gap_ms: float = 0.0, **over: Any) -> Made:
    """Uniques of one second each in `slots` slots; the ramp starts them at once."""
    took = MISS_MS + (OUTPUT - 1) * GAP_MS + 1
    made = [request(i, at_ms=(i // slots) * (took + gap_ms)) for i in range(n)]
    head = run(arrival=Arrival(kind="closed", concurrency=slots), requests=n, **over)
    return Made(head, made).closed()


def test_steady_throughput_is_the_rate_of_full_slots() -> None:
    took_s = (MISS_MS + (OUTPUT - 1) * GAP_MS + 1) / 1e3
    assert closed(4).stats().steady_throughput_rps == pytest.approx(4 / took_s)
    tail = closed(4).map(
        lambda one: (
            structs.replace(one, end_ns=one.end_ns + 60_000 * MS) if one.index == 39 else one
        )
    )
    assert tail.stats().steady_throughput_rps == pytest.approx(4 / took_s)
    assert tail.stats().request_throughput_rps < 1  # type: ignore[operator]


@pytest.mark.parametrize(
    "made",
    [
        closed(4).head(arrival=Arrival(kind="poisson", rate_rps=4.0)),
        closed(4, gap_ms=200.0),  # a fifth of the time nothing runs
        closed(4, n=7),
        cold().head(arrival=Arrival(kind="closed", concurrency=1)),  # leaders first
    ],
    ids=["open loop", "idle slots", "too few", "leaders-first cold"],
)
def test_steady_throughput_is_null(made: Made) -> None:
    assert made.stats().steady_throughput_rps is None


def test_shards_add_up() -> None:
    whole = closed(4, n=80)
    parts = [part.head(arrival=Arrival(kind="closed", concurrency=2)) for part in shards(whole, 2)]
    rounds = Rounds({})
    for part in parts:
        for record in part.records():
            rounds.add(record)
    (one,) = rounds
    merged = summarise(one)
    assert merged.steady_throughput_rps == pytest.approx(whole.stats().steady_throughput_rps)
    assert merged.request_throughput_rps == pytest.approx(whole.stats().request_throughput_rps)


def test_samples_hold_what_pairing_needs() -> None:
    made = hit()
    samples = made.stats().samples
    assert samples is not None
    assert samples.index == list(range(13))
    assert samples.total == 13
    assert samples.cached_tokens == [r.cached_tokens for r in made.requests]
    assert samples.ideal_tokens[:12] == [cached(PROMPT)] * 12
    assert samples.ideal_tokens[12] == 0
    assert samples.sent_s[1] == pytest.approx(0.3)
    assert samples.output_sha256 == [r.output_sha256 for r in made.requests]


def test_beyond_the_limit_samples_say_so() -> None:
    made = cold(uniques=50)
    round_ = made.round()
    round_.rows = Rows("seed", limit=20)
    for one in made.requests:
        round_.rows.add(
            one,
            dict.fromkeys(("ttft_s", "ttft_due_s", "tpot_s", "e2e_s"), 0.0)
            | {"queue_s": 0.0, "second_token_s": None},
        )
    stats = summarise(round_)
    assert stats.samples is not None
    assert len(stats.samples.index) == 20
    assert stats.samples.total == 61
    assert stats.total_requests == 60
    assert stats.steady_throughput_rps is None


def test_phases_are_measured_or_absent() -> None:
    made = cold()
    assert made.stats().phases is None
    times = {"prefill_sum_s": 6.5, "prefill_count": 13.0, "decode_sum_s": 2.6, "decode_count": 13.0}
    single = made.seen_by(node(made, **times)).stats().phases
    assert single is not None
    assert (single["disaggregated"], single["transfer_s"]) == (False, None)
    assert single["prefill_s"]["mean"] == pytest.approx(0.5)
    prefill = structs.replace(
        node(made, prefill_sum_s=6.5, prefill_count=13.0),
        role="prefill",
        url="http://p/metrics",
        deltas={'vllm:request_prefill_time_seconds_sum{engine="0"}': 6.5},
    )
    decode = structs.replace(
        node(made, transfer_sum_s=1.3, transfer_count=13.0), role="decode", url="http://d/metrics"
    )
    split = made.seen_by(prefill, decode).stats().phases
    assert split is not None
    assert split["disaggregated"] is True
    assert split["prefill_s"] == {
        "mean": 0.5,
        "n": 13,
        "how": "measured",
        "counter": "vllm:request_prefill_time_seconds",
        "servers": ["http://p/metrics"],
    }
    assert split["transfer_s"]["mean"] == pytest.approx(0.1)
    assert split["transfer_s"]["counter"] == "transfer_sum_s / transfer_count"
    assert split["decode_s"] is None


def test_a_phase_that_was_never_counted_is_absent() -> None:
    made = cold()
    idle = made.seen_by(node(made, prefill_sum_s=0.0, prefill_count=0.0))
    assert idle.stats().phases is None
