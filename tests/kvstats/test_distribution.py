"""Percentiles against numpy, and what folding into bins may cost."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvpipe.records import Stat
from kvstats.distribution import BIN_RATIO, Values, stat_of

SECONDS = st.floats(-10, 1e4, allow_nan=False).map(lambda value: round(value, 9))
NAMES = ("min", "p50", "p90", "p95", "p99", "p999", "max")


def stat(values: list[float], exact: int = 200_000, parts: int = 1) -> Stat:
    made = [Values(exact) for _ in range(parts)]
    for place, value in enumerate(values):
        made[place % parts].add(value)
    return stat_of(made)


def test_nothing_is_null_and_not_zero() -> None:
    assert stat([]) == Stat(n=0)
    assert stat_of([]) == Stat(n=0)
    empty = Values()
    empty.add(None)
    assert stat_of([empty]).mean is None


@given(st.lists(SECONDS, min_size=1, max_size=50))
def test_percentiles_are_numpys_and_monotone(values: list[float]) -> None:
    got = stat(values)
    assert got.p50 == pytest.approx(np.quantile(values, 0.5))
    assert got.p90 == pytest.approx(np.quantile(values, 0.9))
    assert got.mean == pytest.approx(math.fsum(values) / len(values))
    shown = [value for name in NAMES if (value := getattr(got, name)) is not None]
    assert shown == sorted(shown)


@pytest.mark.parametrize(
    ("n", "p99", "p999"),
    [(99, False, False), (100, True, False), (999, True, False), (1_000, True, True)],
)
def test_tails_need_enough_values(n: int, p99: bool, p999: bool) -> None:
    got = stat([float(value) for value in range(n)])
    assert (got.p99 is not None, got.p999 is not None) == (p99, p999)


@given(st.lists(SECONDS, min_size=1, max_size=60), st.randoms(), st.integers(1, 4))
def test_order_and_parts_never_change_a_bit(
    values: list[float], shuffler: random.Random, parts: int
) -> None:
    mixed = list(values)
    shuffler.shuffle(mixed)
    assert stat(mixed, parts=parts) == stat(values)


@given(st.lists(SECONDS, min_size=40, max_size=80), st.randoms())
def test_order_never_changes_a_bit_of_folded_values(
    values: list[float], shuffler: random.Random
) -> None:
    mixed = list(values)
    shuffler.shuffle(mixed)
    assert stat(mixed, exact=7) == stat(values, exact=7)


@given(st.lists(st.floats(1e-6, 1e4), min_size=20, max_size=200))
def test_bins_cost_half_their_width(values: list[float]) -> None:
    exact, folded = stat(values), stat(values, exact=5)
    assert folded.n == exact.n
    assert (folded.min, folded.max) == (exact.min, exact.max)
    assert folded.mean == pytest.approx(exact.mean, abs=1e-11)
    # A percentile interpolates between two values, each off by at most half a bin.
    for name in ("p50", "p90", "p95"):
        assert getattr(folded, name) == pytest.approx(getattr(exact, name), rel=BIN_RATIO - 1)


def test_zeros_and_negatives_survive_folding() -> None:
    got = stat([0.0] * 30 + [-0.5] * 10 + [2.0] * 30, exact=5)
    assert (got.n, got.min, got.max, got.p50) == (70, -0.5, 2.0, 0.0)
