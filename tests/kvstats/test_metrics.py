"""Definitions, null cases first: what is not known is never 0."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs
from tests.kvstats.streams import GAP_MS, MS, OUTPUT, failed, metric_of, request

from kvpipe.records import Request
from kvstats import metrics
from kvstats.lots import lots_of

NS_TOLERANCE = 1e-9


@st.composite
def answers(draw: st.DrawFn) -> Request:
    """A success with its tokens' stamps in order."""
    scheduled = draw(st.integers(0, 10**12))
    sent = scheduled + draw(st.integers(0, 10**9))
    first = sent + draw(st.integers(0, 10**11))
    gaps = draw(st.lists(st.integers(0, 10**9), max_size=20))
    chunks = [first]
    for gap in gaps:
        chunks.append(chunks[-1] + gap)
    return structs.replace(
        request(0),
        scheduled_ns=scheduled,
        sent_ns=sent,
        first_token_ns=first,
        second_token_ns=chunks[1] if len(chunks) > 1 else None,
        last_token_ns=chunks[-1],
        chunk_ns=chunks,
        output_tokens=len(chunks),
        end_ns=chunks[-1],
    )


def gaps_of(one: Request) -> list[float]:
    (lot,) = lots_of([one])
    gaps: list[float] = metrics.itl_s(lot).tolist()
    return gaps


@given(answers())
def test_e2e_is_at_least_ttft_and_none_is_negative(one: Request) -> None:
    ttft, e2e = metric_of(metrics.ttft_s, one), metric_of(metrics.e2e_s, one)
    assert ttft is not None
    assert e2e is not None
    assert e2e >= ttft >= 0
    assert metric_of(metrics.ttft_due_s, one) >= ttft  # type: ignore[operator]


@given(answers())
def test_ttft_and_decode_make_e2e(one: Request) -> None:
    tpot = metric_of(metrics.tpot_s, one)
    count = one.output_tokens or 0
    if count < 2:
        assert tpot is None
        return
    assert tpot is not None
    whole = (metric_of(metrics.ttft_s, one) or 0) + tpot * (count - 1)
    assert whole == pytest.approx(metric_of(metrics.e2e_s, one), abs=NS_TOLERANCE, rel=1e-12)


@given(answers())
def test_gaps_sum_to_the_decode(one: Request) -> None:
    gaps = gaps_of(one)
    assert len(gaps) == len(one.chunk_ns or []) - 1
    decode = (metric_of(metrics.e2e_s, one) or 0) - (metric_of(metrics.ttft_s, one) or 0)
    assert sum(gaps) == pytest.approx(decode, abs=NS_TOLERANCE, rel=1e-9)


@given(answers(), st.integers(2, 1_000))
def test_all_times_by_k_gives_all_times_by_k(one: Request, k: int) -> None:
    stamps = {
        name: value * k
        for name in structs.asdict(one)
        if name.endswith("_ns") and isinstance(value := getattr(one, name), int)
    }
    slower = structs.replace(one, **stamps, chunk_ns=[ns * k for ns in one.chunk_ns or []])
    for metric in metrics.REQUEST_METRICS.values():
        before, after = metric_of(metric, one), metric_of(metric, slower)
        assert (before is None) == (after is None)
        if before is not None:
            assert after == pytest.approx(before * k, rel=1e-9)


def test_a_request_without_an_answer_has_no_times() -> None:
    one = failed(request(0))
    for name in ("ttft_s", "ttft_due_s", "tpot_s", "e2e_s", "second_token_s"):
        assert metric_of(metrics.REQUEST_METRICS[name], one) is None, name
    assert metric_of(metrics.queue_s, one) == 0.0
    assert metric_of(metrics.queue_s, structs.replace(one, sent_ns=None)) is None
    assert gaps_of(one) == []


def test_one_token_has_no_time_per_output_token() -> None:
    assert metric_of(metrics.tpot_s, structs.replace(request(0), output_tokens=1)) is None
    assert metric_of(metrics.tpot_s, structs.replace(request(0), output_tokens=None)) is None
    assert metric_of(metrics.tpot_s, request(0)) == pytest.approx(GAP_MS / 1e3)


def test_waiting_for_a_slot_is_in_the_due_ttft_only() -> None:
    late = structs.replace(request(0, at_ms=500), scheduled_ns=100 * MS)
    assert metric_of(metrics.queue_s, late) == pytest.approx(0.4)
    assert metric_of(metrics.ttft_due_s, late) == pytest.approx(
        (metric_of(metrics.ttft_s, late) or 0) + 0.4
    )


def test_merged_events_are_gaps_of_zero() -> None:
    one = structs.replace(request(0), chunk_ns=[5, 5, 9])
    assert gaps_of(one) == [0.0, 4e-9]


@pytest.mark.parametrize(
    ("shared", "prompt", "unit", "expected"),
    [
        (100, 200, 16, 96),
        (96, 200, 16, 96),
        (200, 200, 16, 192),  # the last prompt token is always computed
        (192, 192, 16, 176),
        (100, None, 16, 96),
        (5, 200, 16, 0),
        (0, 0, 16, 0),
        (100, 200, 1, 100),
    ],
)
def test_reusable_is_whole_blocks_below_the_last_token(
    shared: int, prompt: int | None, unit: int, expected: int
) -> None:
    assert metrics.reusable(shared, prompt, unit) == expected


def test_rates_and_ratios_of_nothing_are_null() -> None:
    assert metrics.throughput(5, None) is None
    assert metrics.throughput(5, 0.0) is None
    assert metrics.throughput(None, 1.0) is None
    assert metrics.throughput(0, 2.0) == 0.0
    assert metrics.hit_ratio(0, 0) is None
    assert metrics.hit_ratio(0, 10) == 0.0
    assert metrics.efficiency(0, 0) is None
    assert metrics.steady_rate_rps(0, 1.0) is None


def test_every_definition_has_formula_unit_and_null_case() -> None:
    named = [*metrics.REQUEST_METRICS.values(), metrics.itl_s, metrics.total_time_s]
    named += [metrics.throughput, metrics.steady_rate_rps, metrics.hit_ratio]
    named += [metrics.efficiency, metrics.reusable]
    for metric in named:
        for word in ("Formula:", "Unit:", "Null:"):
            assert re.search(rf"^ +{word} \S", metric.__doc__ or "", re.M), (metric, word)


def test_the_factory_makes_round_numbers() -> None:
    assert metric_of(metrics.e2e_s, request(0)) == pytest.approx(0.9 + (OUTPUT - 1) * GAP_MS / 1e3)
