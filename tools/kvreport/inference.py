"""Intervals for the log of a ratio of sums, from repeats or within one run.

The unit is the repeat: with three or more, Student's t over their log ratios; where their number
was fixed in two stages (kvpipe.stein) by the spread of the first of them alone. One run can only
speak about itself ("within this run"): its units are groups of requests that share a prefix, a
unique request being a group of its own.

- 10 groups and more: a studentised cluster bootstrap (a percentile one covers 90 % and less there).
- 3 to 9 groups: Student's t over the groups' jackknife values.
- fewer: resampling within strata, their counts fixed, and only with 5 informative pairs or more.

Groups of unequal weight count for fewer than their number: the effective number is 1 / sum w^2
with each group's share of a round as its weight, in the round where it is smaller (Carter, Schnepel
and Steigerwald 2017 correct cluster-robust tests in this way). Groups are compared with their own
kind, shared contexts with contexts and uniques with uniques, because the plan fixes how many there
are of each; degrees of freedom by Welch and Satterthwaite.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import msgspec
import numpy as np
import numpy.typing as npt
from scipy.stats import t as student

from kvpipe import stein

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Method = Literal["repeats", "groups_bootstrap", "groups_t", "strata"]
NoInterval = Literal[
    "no_samples",
    "no_pairs",
    "two_repeats",
    "first_stage",
    "few_pairs",
    "one_run_scalar",
    "no_spread",
]

LEVEL = 0.95
FEW_GROUPS = 3
"""Below this there is no directional verdict from one run."""
MANY_GROUPS = 10
INFORMATIVE_PAIRS = 5
RESAMPLES = 1999
SEED = 20_080_229
"""The same data give the same interval, always. The year is Cameron, Gelbach and Miller's."""


class Interval(msgspec.Struct, frozen=True, kw_only=True):
    """A 95 % interval of the log ratio; `units` repeats, groups or pairs stand behind it.

    `first` repeats fixed how many there are (two-stage), and theirs is the spread that makes the
    width; null: the number was fixed beforehand.
    """

    low: float
    high: float
    method: Method
    units: int
    first: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Pairs of one run: two positive values a row, with what the rows depend on each other by.

    `cluster` numbers the groups from 0; `kind` is the kind of a row's group and `stratum` the row's
    own; `informative` says whether the row's base value was a miss.
    """

    base: Floats
    other: Floats
    cluster: Ints
    kind: Ints
    stratum: Ints
    informative: npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Within:
    """What one run says about itself: `groups` is the effective number, rounded."""

    interval: Interval | None
    groups: int
    reason: NoInterval | None = None


def over_repeats(thetas: list[float], first: int | None = None) -> Interval | None:
    """Mean +- t(R - 1) standard errors; None below three repeats.

    `first` of them, null: all, give the standard deviation and the degrees of freedom.
    """
    stage = stein.first_stage(thetas if first is None else thetas[:first])
    if stage is None:
        return None
    mean, half = float(np.mean(thetas)), stage.half(len(thetas))
    return Interval(
        low=mean - half, high=mean + half, method="repeats", units=len(thetas), first=first
    )


def smallest_showable(
    thetas: list[float], first: int | None = None, power: float = 0.8
) -> float | None:
    """Smallest |log ratio| that so many repeats would have shown four times in five.

    From the standard deviation between repeats; None below three: unknown.
    """
    stage = stein.first_stage(thetas if first is None else thetas[:first])
    if stage is None:
        return None
    reach = stein.quantile(stage.repeats) + student.ppf(power, stage.repeats - 1)
    return float(reach) * stage.sd / math.sqrt(len(thetas))


def within_run(rows: Rows) -> Within:
    """The interval that one run allows, or the reason why there is none."""
    if not len(rows.base):
        return Within(interval=None, groups=0, reason="no_pairs")
    base, other, kind = _by_cluster(rows)
    groups = effective_groups(base, other)
    if groups < FEW_GROUPS:
        return _within_strata(rows, groups)
    if groups < MANY_GROUPS:
        return Within(interval=_jackknife(base, other, kind), groups=groups)
    return Within(interval=_bootstrap(base, other, kind, "groups_bootstrap"), groups=groups)


def over_units(base: Floats, other: Floats) -> Interval | None:
    """The interval from requests that share nothing, each a unit of its own; None below two."""
    if len(base) < 2:
        return None
    return _jackknife(base, other, np.zeros(len(base), dtype=np.int64))


def effective_groups(base: Floats, other: Floats) -> int:
    """1 / sum w^2, w being a group's share of a round; of the two rounds the smaller number."""
    shares = base / base.sum(), other / other.sum()
    return round(min(float(1 / np.sum(share**2)) for share in shares))


def _by_cluster(rows: Rows) -> tuple[Floats, Floats, Ints]:
    """Sums per group and its kind; a kind with one group joins the others'."""
    count = int(rows.cluster.max()) + 1
    base = np.bincount(rows.cluster, rows.base, count).astype(np.float64)
    other = np.bincount(rows.cluster, rows.other, count).astype(np.float64)
    kind = np.zeros(count, dtype=np.int64)
    kind[rows.cluster] = rows.kind
    return base, other, _merged(kind)


def _merged(kind: Ints) -> Ints:
    """Kinds numbered from 0; one kind for all where any would be alone with itself."""
    _, numbered, counts = np.unique(kind, return_inverse=True, return_counts=True)
    return np.zeros_like(kind) if counts.min() < 2 else numbered.astype(np.int64)


def _jackknife(base: Floats, other: Floats, kind: Ints) -> Interval:
    """t over groups: each is left out once, and the spread of what remains is the error."""
    theta = _theta(base, other)
    left = np.log((other.sum() - other) / (base.sum() - base))
    variances = []
    for values in _parted(left, kind):
        count = len(values)
        variances.append((count - 1) / count * float(np.sum((values - values.mean()) ** 2)))
    total = sum(variances)
    if total == 0:
        return Interval(low=theta, high=theta, method="groups_t", units=len(base))
    share = np.maximum(base / base.sum(), other / other.sum())
    weights = [float(np.sum(values**2)) for values in _parted(share, kind)]
    freedoms = [len(values) - 1 for values in _parted(left, kind)]
    freedom = min(_freedom(variances, freedoms), _freedom(weights, freedoms))
    half = float(student.ppf(0.5 + LEVEL / 2, freedom)) * math.sqrt(total)
    return Interval(low=theta - half, high=theta + half, method="groups_t", units=len(base))


def _parted(values: Floats, kind: Ints) -> list[Floats]:
    return [values[kind == one] for one in range(int(kind.max()) + 1)]


def _freedom(variances: list[float], freedoms: list[int]) -> float:
    """Welch and Satterthwaite's degrees of freedom for a sum of variances.

    Two or three groups of a kind estimate their variance too badly to weigh it by itself, so that
    it is also weighed by the groups' shares, and the smaller number counts.
    """
    parts = zip(variances, freedoms, strict=True)
    return sum(variances) ** 2 / sum(one**2 / freedom for one, freedom in parts)


def _theta(base: Floats, other: Floats) -> float:
    return math.log(float(other.sum()) / float(base.sum()))


def _bootstrap(base: Floats, other: Floats, kind: Ints, method: Method) -> Interval:
    """Studentised bootstrap: units drawn within their kind, each draw in its own standard error."""
    theta = _theta(base, other)
    error = math.sqrt(float(_variance(base[None], other[None], kind)[0]))
    if error == 0:
        return Interval(low=theta, high=theta, method=method, units=len(base))
    generator = np.random.default_rng(SEED)
    size = max(1, min(RESAMPLES, 2_000_000 // len(base)))
    scores: list[Floats] = []
    drawn = 0
    while drawn < RESAMPLES:
        rows = min(size, RESAMPLES - drawn)
        chosen = _draw(generator, kind, rows)
        b, o = base[chosen], other[chosen]
        # A draw of nothing but zeros (TPOT of answers that came in one read) has no ratio.
        whole = (b.sum(axis=1) > 0) & (o.sum(axis=1) > 0)
        b, o = b[whole], o[whole]
        errors = np.sqrt(_variance(b, o, kind))
        moved = np.log(o.sum(axis=1) / b.sum(axis=1)) - theta
        scores.append(moved[errors > 0] / errors[errors > 0])
        drawn += rows
    low, high = np.quantile(np.concatenate(scores), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(
        low=theta - float(high) * error,
        high=theta - float(low) * error,
        method=method,
        units=len(base),
    )


def _draw(generator: np.random.Generator, kind: Ints, rows: int) -> Ints:
    """Indices with replacement, every kind's count as it is; columns keep their kind."""
    chosen = np.empty((rows, len(kind)), dtype=np.int64)
    for one in range(int(kind.max()) + 1):
        members = np.flatnonzero(kind == one)
        chosen[:, members] = members[generator.integers(0, len(members), (rows, len(members)))]
    return chosen


def _variance(base: Floats, other: Floats, kind: Ints) -> Floats:
    """Linearised variance of the log ratio per row of draws, summed over kinds."""
    parts = other / other.sum(axis=1, keepdims=True) - base / base.sum(axis=1, keepdims=True)
    total = np.zeros(len(parts))
    for one in range(int(kind.max()) + 1):
        values = parts[:, kind == one]
        count = values.shape[1]
        if count > 1:
            spread = np.sum((values - values.mean(axis=1, keepdims=True)) ** 2, axis=1)
            total += count / (count - 1) * spread
    return total


def _within_strata(rows: Rows, groups: int) -> Within:
    """Under three groups: pairs drawn within their strata, if enough of them can tell anything."""
    if int(rows.informative.sum()) < INFORMATIVE_PAIRS:
        return Within(interval=None, groups=groups, reason="few_pairs")
    _, stratum = np.unique(rows.stratum, return_inverse=True)
    interval = _bootstrap(rows.base, rows.other, stratum.astype(np.int64), "strata")
    return Within(interval=interval, groups=groups)
