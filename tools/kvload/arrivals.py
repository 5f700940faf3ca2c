"""When requests are due: an absolute schedule in whole nanoseconds, so that nothing adds up.

An arrival process of rate 1 (constant, Poisson or gamma) is stretched to the asked rate: arrival
number i is due when the expected number of arrivals has reached the process's i-th point. At a
constant rate that is a division, on a ramp the root of a quadratic; never a sum of rounded gaps.
The schedule depends on the seed alone: it is the same in every round.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator, Sequence

from kvpipe.records import Arrival, Planned, Stage

NS = 1_000_000_000


def due_times(planned: Sequence[Planned], arrival: Arrival, seed: int) -> list[int] | None:
    """Nanoseconds from the round's start at which each request is due; None in a closed loop.

    `planned`: the requests' own `at_s` (those without one are due at once). Fewer than there are
    requests where the stages or the duration end before.
    """
    if arrival.kind == "planned":
        return [round((request.at_s or 0.0) * NS) for request in planned]
    if arrival.kind in ("serial", "closed"):
        return None
    return list(itertools.islice(arrivals(arrival, seed), len(planned)))


def arrivals(arrival: Arrival, seed: int) -> Iterator[int]:
    """Every arrival of an open loop, in nanoseconds, until its end; for ever without one."""
    end_s = length_s(arrival)
    end_ns = None if end_s is None else round(end_s * NS)
    for due_ns in _stretched(_points(arrival, seed), arrival):
        if end_ns is not None and due_ns >= end_ns:
            return
        yield due_ns


def length_s(arrival: Arrival) -> float | None:
    """When the last request may be sent; null: whenever the plan ends."""
    ends = [] if arrival.duration_s is None else [arrival.duration_s]
    if arrival.stages:
        ends.append(sum(stage.duration_s for stage in arrival.stages))
    return min(ends, default=None)


def mean_rate(arrival: Arrival) -> float | None:
    """Asked arrivals per second, over all stages; null in a closed loop and for planned times."""
    if not arrival.stages:
        return arrival.rate_rps
    return sum(map(_area, arrival.stages)) / sum(stage.duration_s for stage in arrival.stages)


def expected(arrival: Arrival) -> float:
    """How many arrivals an open loop with an end has in the mean."""
    return (mean_rate(arrival) or 0.0) * (length_s(arrival) or 0.0)


def _points(arrival: Arrival, seed: int) -> Iterator[float]:
    """Points of a process with one arrival per unit in the mean; the first one at 0."""
    if arrival.kind == "constant":
        yield from itertools.count(0.0)
    chance = random.Random(f"arrivals:{seed}")
    # Shape B and scale 1/B, so that the mean is 1: what vLLM's bench calls burstiness. Shape 1 is
    # the exponential.
    shape = arrival.burstiness if arrival.kind == "gamma" and arrival.burstiness else 1.0
    now = 0.0
    while True:
        yield now
        now += chance.expovariate(1.0) if shape == 1.0 else chance.gammavariate(shape, 1.0 / shape)


def _stretched(points: Iterator[float], arrival: Arrival) -> Iterator[int]:
    """The points at the asked rate, in nanoseconds."""
    if not arrival.stages:
        rate = arrival.rate_rps or 1.0
        for point in points:
            yield round(point * NS / rate)
        return
    before_s = before = 0.0
    point = next(points)
    for stage in arrival.stages:
        area = _area(stage)
        while point - before < area:
            yield round((before_s + _time_of(point - before, stage)) * NS)
            point = next(points)
        before_s += stage.duration_s
        before += area


def _area(stage: Stage) -> float:
    """Expected arrivals of a stage."""
    return (stage.from_rps + stage.to_rps) / 2 * stage.duration_s


def _time_of(arrived: float, stage: Stage) -> float:
    """Seconds into a stage at which so many arrivals are expected.

    from * t + slope / 2 * t^2 = arrived, solved in the form that does not cancel.
    """
    slope = (stage.to_rps - stage.from_rps) / stage.duration_s
    root = math.sqrt(max(0.0, stage.from_rps**2 + 2 * slope * arrived))
    return 2 * arrived / (stage.from_rps + root) if arrived else 0.0
