"""Whether the ground moved between the rounds: the control that a verdict must pass.

Serial runs: the sentinels' change, requests that nobody can have cached. Load runs: the change
between rounds without reuse before and after, since under load a sentinel queues behind cold
prefills and its change is the treatment. Across nodes under load: the nodes' own difference.
The far end of the control's interval must be below a quarter of the effect.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import pairwise
from typing import Literal

import msgspec
import numpy as np

from kvreport.effects import Comparison, Effect
from kvreport.experiments import Experiment
from kvreport.inference import Interval, over_repeats, over_units
from kvreport.pairs import Floats, Metric, sentinel_pairs
from kvreport.rounds import Round

QUARTER = 0.25
DECODING = ("tpot_s", "second_token_s")
Source = Literal["sentinels", "no_reuse", "nodes"]


class Drift(msgspec.Struct, frozen=True, kw_only=True):
    """Change of what should not change, as a ratio; null ratio: there was no control.

    `units` is how many sentinels, or pairs of rounds, stand behind it.
    """

    source: Source
    ratio: float | None = None
    interval: Interval | None = None
    units: int = 0

    @property
    def far(self) -> float | None:
        """The far end of the interval as |log ratio|; None: it could be anything."""
        if self.interval is None:
            return None
        return max(abs(self.interval.low), abs(self.interval.high))

    def bounds(self) -> tuple[float, float]:
        """The interval as ratios; the ratio itself where there is none."""
        if self.interval is None:
            return (self.ratio or 1.0, self.ratio or 1.0)
        return math.exp(self.interval.low), math.exp(self.interval.high)

    @property
    def shown(self) -> bool:
        """Whether something did move: the whole interval lies on one side."""
        return self.interval is not None and not self.interval.low <= 0 <= self.interval.high

    @property
    def cause(self) -> str:
        """Why it withholds a verdict: it was not checked, was seen, or could not be excluded."""
        if self.interval is None:
            return "drift_unchecked"
        return "drift" if self.shown else "drift_open"

    def allows(self, effect: Effect) -> bool:
        return self.far is not None and self.far < QUARTER * abs(effect.theta)


def drift_of(
    experiment: Experiment, comparison: Comparison, nodes: Effect | None, metric: Metric
) -> Drift:
    """The control that fits a comparison, by the metric in which the ground is looked at.

    Between nodes under load only their TTFT is compared, so that TPOT has no control there.
    """
    if experiment.kind != "load":
        return sentinel_drift(comparison, metric)
    decoding = metric in DECODING
    if experiment.nodes and comparison.base == "cold":
        return _of_nodes(None if decoding else nodes)
    return load_drift(experiment, metric if decoding else "ttft_s")


def sentinel_drift(comparison: Comparison, metric: Metric) -> Drift:
    """Sentinels of the other round against those of the base; by repeats, or within one run."""
    each = [sentinel_pairs(one.bases[0], one.other, metric) for one in comparison.matches]
    found = [values for values in each if values]
    if not found:
        return Drift(source="sentinels")
    thetas = [_theta(one, two) for one, two in found]
    interval = over_repeats(thetas, comparison.staged([one is not None for one in each]))
    if len(found) == 1:
        interval = over_units(*found[0])
    return Drift(
        source="sentinels",
        ratio=math.exp(float(np.mean(thetas))),
        interval=interval,
        units=sum(len(one) for one, _ in found),
    )


def load_drift(experiment: Experiment, metric: Metric) -> Drift:
    """Rounds without reuse, each against the next in time."""
    rounds = sorted(
        (one for one in experiment if one.number == 0 and one.arm == "no_reuse"), key=_when
    )
    changes = [values for one, two in pairwise(rounds) if (values := _whole(one, two, metric))]
    if not changes:
        return Drift(source="no_reuse")
    thetas = [_theta(one, two) for one, two in changes]
    interval = over_repeats(thetas) or _widest([over_units(*values) for values in changes])
    return Drift(
        source="no_reuse",
        ratio=math.exp(float(np.mean(thetas))),
        interval=interval,
        units=len(changes),
    )


def _of_nodes(nodes: Effect | None) -> Drift:
    if nodes is None:
        return Drift(source="nodes")
    return Drift(
        source="nodes", ratio=nodes.ratio, interval=nodes.interval, units=len(nodes.thetas)
    )


def _theta(base: Floats, other: Floats) -> float:
    return math.log(float(other.sum()) / float(base.sum()))


def _widest(intervals: Sequence[Interval | None]) -> Interval | None:
    """From the lowest to the highest end; None as soon as one is unknown."""
    known = [one for one in intervals if one]
    if len(known) < len(intervals):
        return None
    return Interval(
        low=min(one.low for one in known),
        high=max(one.high for one in known),
        method=known[0].method,
        units=sum(one.units for one in known),
    )


def _when(one: Round) -> datetime:
    started = one.started or datetime.min
    return started if started.tzinfo else started.replace(tzinfo=UTC)


def _whole(one: Round, two: Round, metric: Metric) -> tuple[Floats, Floats] | None:
    """Values by index of what succeeded in both; the shape is the same, the text need not be."""
    samples = one.stats.samples, two.stats.samples
    if samples[0] is None or samples[1] is None:
        return None
    left, right = (
        {
            index: value
            for index, ok, stratum, value in zip(
                part.index, part.ok, part.stratum, getattr(part, metric), strict=True
            )
            if ok and value and stratum != "sentinel"
        }
        for part in samples
        if part
    )
    common = sorted(left.keys() & right.keys())
    if not common:
        return None
    return np.array([left[at] for at in common]), np.array([right[at] for at in common])
