"""Schedules are absolute, seeded, and have the rate that was asked for."""

from __future__ import annotations

import itertools

import pytest

from kvload.arrivals import due_times
from kvpipe.records import Arrival, Planned

REQUESTS = [Planned(index=index, stratum="unique", max_tokens=1) for index in range(2000)]


def test_a_closed_loop_has_no_schedule() -> None:
    assert due_times(REQUESTS, Arrival(kind="serial"), 1) is None
    assert due_times(REQUESTS, Arrival(kind="closed", concurrency=4), 1) is None


def test_constant_arrivals_stand_on_a_grid_that_does_not_drift() -> None:
    times = due_times(REQUESTS, Arrival(kind="constant", rate_rps=200.0), 1)
    assert times is not None
    assert times[0] == 0.0 and times[1000] == 5.0 and times[-1] == pytest.approx(9.995)


def test_poisson_arrivals_have_the_asked_mean_and_the_seeds_own_gaps() -> None:
    arrival = Arrival(kind="poisson", rate_rps=50.0)
    one, same, other = (due_times(REQUESTS, arrival, seed) for seed in (7, 7, 8))
    assert one == same != other
    assert one is not None and one == sorted(one)
    assert len(one) / one[-1] == pytest.approx(50.0, rel=0.1)
    gaps = [after - before for before, after in itertools.pairwise(one)]
    mean = sum(gaps) / len(gaps)
    variance = sum((gap - mean) ** 2 for gap in gaps) / len(gaps)
    assert variance**0.5 / mean == pytest.approx(1.0, abs=0.15)  # of an exponential


def test_planned_times_are_kept() -> None:
    timed = [
        Planned(index=0, stratum="unique", max_tokens=1, at_s=0.5),
        Planned(index=1, stratum="unique", max_tokens=1),
    ]
    assert due_times(timed, Arrival(kind="planned"), 1) == [0.5, 0.0]
