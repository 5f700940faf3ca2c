"""When requests are due: an absolute schedule, so that sleeping late never adds up."""

from __future__ import annotations

import random
from collections.abc import Sequence

from kvpipe.records import Arrival, Planned


def due_times(planned: Sequence[Planned], arrival: Arrival, seed: int) -> list[float] | None:
    """Seconds from the round's start at which each request is due; None in a closed loop.

    `constant`: i / rate. `poisson`: sums of exponential gaps, the same for every round of a seed.
    `planned`: the requests' own `at_s` (those without one are due at once).
    """
    if arrival.kind == "planned":
        return [request.at_s or 0.0 for request in planned]
    if arrival.rate_rps is None or arrival.kind in ("serial", "closed"):
        return None
    if arrival.kind == "constant":
        return [number / arrival.rate_rps for number in range(len(planned))]
    chance = random.Random(f"arrivals:{seed}")
    times, now = [], 0.0
    for _ in planned:
        times.append(now)
        now += chance.expovariate(arrival.rate_rps)
    return times
