"""Intervals: which kind when, and that they cover what they should."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from scipy.stats import t as student

from kvreport.inference import (
    Rows,
    effective_groups,
    over_repeats,
    over_units,
    smallest_showable,
    within_run,
)

LEADER, FOLLOWER, UNIQUE = 0, 1, 2


def rows(
    groups: int,
    each: int,
    uniques: int = 0,
    *,
    miss: float = 1.0,
    hit: float = 1.0,
    group_effect: float = 0.1,
    noise: float = 0.05,
    seed: int = 0,
) -> tuple[Rows, float]:
    """A run and its true log ratio: each group's hits are longer or shorter by an own factor."""
    rng = np.random.default_rng(seed)
    sizes = [each] * groups + [1] * uniques
    cluster = np.repeat(np.arange(len(sizes)), sizes)
    first = np.r_[True, cluster[1:] != cluster[:-1]]
    unique = cluster >= groups
    bias = -(group_effect**2) / 2
    factors = np.exp(rng.normal(bias, group_effect, len(sizes)))[cluster]
    base = np.where(first, miss, hit) * np.exp(rng.normal(0, noise, len(cluster)))
    other = hit * factors * np.exp(rng.normal(0, noise, len(cluster)))
    truth = math.log(hit * len(cluster) / np.where(first, miss, hit).sum())
    return Rows(
        base=base,
        other=other,
        cluster=cluster,
        kind=unique.astype(np.int64),
        stratum=np.where(unique, UNIQUE, np.where(first, LEADER, FOLLOWER)),
        informative=first,
    ), truth


def test_three_repeats_are_students_t() -> None:
    thetas = [-1.0, -1.1, -0.9]
    found = over_repeats(thetas)
    assert found is not None
    half = float(student.ppf(0.975, 2)) * np.std(thetas, ddof=1) / math.sqrt(3)
    assert found.low == pytest.approx(-1.0 - half)
    assert found.high == pytest.approx(-1.0 + half)
    assert (found.method, found.units) == ("repeats", 3)


def test_below_three_repeats_there_is_no_interval() -> None:
    assert over_repeats([-1.0, -1.1]) is None
    assert smallest_showable([-1.0, -1.1]) is None


def test_the_smallest_showable_effect_is_found_four_times_in_five() -> None:
    """Planted at the size that the spread between repeats gives, it is mostly shown."""
    rng = np.random.default_rng(5)
    spread, repeats = 0.02, 6
    reach = student.ppf(0.975, repeats - 1) + student.ppf(0.8, repeats - 1)
    effect = reach * spread / math.sqrt(repeats)
    shown = 0
    for _ in range(1000):
        found = over_repeats(list(rng.normal(-effect, spread, repeats)))
        assert found is not None
        shown += found.high < 0
    assert shown / 1000 > 0.7
    told = [smallest_showable(list(rng.normal(0, spread, repeats))) for _ in range(1000)]
    assert np.mean([one for one in told if one]) == pytest.approx(effect, rel=0.1)


@pytest.mark.parametrize(
    ("groups", "each", "uniques", "method"),
    [
        (10, 3, 0, "groups_bootstrap"),
        (0, 0, 30, "groups_bootstrap"),
        (9, 3, 0, "groups_t"),
        (3, 3, 0, "groups_t"),
        (2, 10, 0, None),
        (1, 27, 3, None),
        (1, 27, 6, "strata"),
        (2, 10, 5, "groups_t"),
    ],
)
def test_which_method_when(groups: int, each: int, uniques: int, method: str | None) -> None:
    """Two contexts have two informative pairs, the documents' shape four: both too few."""
    found = within_run(rows(groups, each, uniques, miss=0.9, hit=0.06)[0])
    assert (found.interval.method if found.interval else None) == method
    assert found.reason == (None if method else "few_pairs")
    if method in (None, "strata"):
        assert found.groups < 3


def test_a_group_that_dominates_does_not_count_as_one_of_many() -> None:
    assert effective_groups(np.ones(8), np.ones(8)) == 8
    assert effective_groups(np.array([100.0, 1, 1, 1]), np.array([100.0, 1, 1, 1])) == 1


def test_no_pairs_is_a_reason() -> None:
    nothing = rows(3, 1)[0]
    empty = Rows(
        base=nothing.base[:0],
        other=nothing.other[:0],
        cluster=nothing.cluster[:0],
        kind=nothing.kind[:0],
        stratum=nothing.stratum[:0],
        informative=nothing.informative[:0],
    )
    assert within_run(empty).reason == "no_pairs"
    assert over_units(np.ones(1), np.ones(1)) is None


def test_the_same_data_give_the_same_interval() -> None:
    sample = rows(12, 3)[0]
    assert within_run(sample) == within_run(sample)


def test_all_times_twice_as_long_change_nothing() -> None:
    sample = rows(12, 3, 2)[0]
    twice = Rows(
        base=sample.base * 2,
        other=sample.other * 2,
        cluster=sample.cluster,
        kind=sample.kind,
        stratum=sample.stratum,
        informative=sample.informative,
    )
    one, two = within_run(sample).interval, within_run(twice).interval
    assert one is not None and two is not None
    assert (one.low, one.high) == pytest.approx((two.low, two.high))


def test_equal_rounds_are_an_interval_of_nothing() -> None:
    sample = rows(12, 3, group_effect=0, noise=0)[0]
    found = within_run(sample).interval
    assert found is not None and found.low == found.high == pytest.approx(0)


@pytest.mark.parametrize(
    "shape",
    [
        {"groups": 3, "each": 10},
        {"groups": 3, "each": 3, "miss": 0.885, "hit": 0.06},
        {"groups": 8, "each": 3, "uniques": 3, "miss": 0.885, "hit": 0.06},
        {"groups": 10, "each": 3, "group_effect": 0.3},
        {"groups": 0, "each": 0, "uniques": 30, "miss": 0.885, "hit": 0.06},
    ],
    ids=str,
)
def test_intervals_within_a_run_cover(shape: dict[str, float]) -> None:
    """95 % of the runs, within Monte-Carlo error; and not because they cover everything."""
    seeds = 400
    missed = 0
    for seed in range(seeds):
        sample, truth = rows(seed=seed, **shape)  # type: ignore[arg-type]
        found = within_run(sample).interval
        assert found is not None
        missed += not found.low <= truth <= found.high
    assert 0.01 < missed / seeds < 0.05 + 3 * math.sqrt(0.05 * 0.95 / seeds)


def test_a_pooled_interval_would_not_cover() -> None:
    """A guard on the guard: the same data, every pair taken for a unit of its own."""
    missed = 0
    for seed in range(200):
        sample, truth = rows(3, 10, seed=seed)
        found = over_units(sample.base, sample.other)
        assert found is not None
        missed += not found.low <= truth <= found.high
    assert missed / 200 > 0.2


def test_values_of_nothing_leave_draws_without_a_ratio_out() -> None:
    """TPOT is 0 where all tokens came in one read: a draw of such requests alone has no ratio."""
    count = 30
    rows = Rows(
        base=np.ones(count),
        other=np.array([0.0] * (count - 1) + [1.0]),
        cluster=np.arange(count),
        kind=np.zeros(count, dtype=np.int64),
        stratum=np.zeros(count, dtype=np.int64),
        informative=np.ones(count, dtype=bool),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        interval = within_run(rows).interval
    assert interval is not None and interval.low < interval.high
