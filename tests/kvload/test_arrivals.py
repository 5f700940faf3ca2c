"""Schedules are absolute, seeded, whole nanoseconds, and have the rate that was asked for."""

from __future__ import annotations

import itertools
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvload import drive
from kvload.arrivals import NS, arrivals, due_times, expected, length_s, mean_rate
from kvload.stages import stages_of
from kvpipe.process import UsageError
from kvpipe.records import Arrival, Planned, Stage

REQUESTS = [Planned(index=index, stratum="unique", max_tokens=1) for index in range(2000)]


def gaps_of(times: list[int]) -> list[int]:
    return [after - before for before, after in itertools.pairwise(times)]


def spread_of(times: list[int]) -> float:
    """Coefficient of variation of the gaps."""
    gaps = gaps_of(times)
    return statistics.pstdev(gaps) / statistics.mean(gaps)


def test_a_closed_loop_has_no_schedule() -> None:
    assert due_times(REQUESTS, Arrival(kind="serial"), 1) is None
    assert due_times(REQUESTS, Arrival(kind="closed", concurrency=4), 1) is None


def test_constant_arrivals_stand_on_a_grid() -> None:
    times = due_times(REQUESTS, Arrival(kind="constant", rate_rps=200.0), 1)
    assert times == [number * 5_000_000 for number in range(2000)]


def test_an_hour_of_schedule_adds_nothing_up() -> None:
    """A third of a second has no end in ns: rounded gaps would be 240 microseconds off by now."""
    hour = Arrival(kind="constant", rate_rps=200 / 3, duration_s=3600.0)
    times = list(arrivals(hour, 1))
    assert len(times) == 240_000
    assert all(type(time) is int for time in times[:10])
    assert max(abs(200 * time - 3 * NS * number) for number, time in enumerate(times)) <= 200
    assert set(gaps_of(times)) == {15_000_000}


async def test_late_wakings_of_an_hour_do_not_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a clock of our own every sleep is late by 0.4 ms: the last request is as late as one."""
    clock = 0

    async def sleep(seconds: float) -> None:
        nonlocal clock
        clock += round(seconds * NS) + 400_000

    monkeypatch.setattr(drive, "now_ns", lambda: clock)
    monkeypatch.setattr(drive.asyncio, "sleep", sleep)
    worst = number = 0
    for due in arrivals(Arrival(kind="constant", rate_rps=200.0, duration_s=3600.0), 1):
        await drive.sleep_until(due)
        assert clock >= due
        worst = max(worst, clock - due)
        number += 1
    assert number == 720_000
    assert worst <= 400_000


def test_poisson_arrivals_have_the_asked_mean_and_the_seeds_own_gaps() -> None:
    arrival = Arrival(kind="poisson", rate_rps=50.0)
    one, same, other = (due_times(REQUESTS, arrival, seed) for seed in (7, 7, 8))
    assert one == same != other
    assert one is not None and one == sorted(one)
    assert len(one) / one[-1] * NS == pytest.approx(50.0, rel=0.1)
    assert spread_of(one) == pytest.approx(1.0, abs=0.15)  # of an exponential


@pytest.mark.parametrize("shape", [0.25, 1.0, 4.0])
def test_gamma_arrivals_keep_the_rate_and_vary_as_their_shape_says(shape: float) -> None:
    """The coefficient of variation of a gamma distribution is 1 / sqrt(shape)."""
    arrival = Arrival(kind="gamma", rate_rps=50.0, burstiness=shape, duration_s=400.0)
    times = list(arrivals(arrival, 3))
    assert len(times) == pytest.approx(20_000, rel=0.1)
    assert spread_of(times) == pytest.approx(shape**-0.5, rel=0.1)


def test_gamma_of_shape_1_is_poisson() -> None:
    poisson = due_times(REQUESTS, Arrival(kind="poisson", rate_rps=9.0), 5)
    assert due_times(REQUESTS, Arrival(kind="gamma", rate_rps=9.0, burstiness=1.0), 5) == poisson


def test_planned_times_are_kept() -> None:
    timed = [
        Planned(index=0, stratum="unique", max_tokens=1, at_s=0.5),
        Planned(index=1, stratum="unique", max_tokens=1),
    ]
    assert due_times(timed, Arrival(kind="planned"), 1) == [500_000_000, 0]


def test_a_duration_ends_the_schedule_before_it() -> None:
    arrival = Arrival(kind="constant", rate_rps=10.0, duration_s=2.0)
    assert list(arrivals(arrival, 1))[-2:] == [1_800_000_000, 1_900_000_000]
    assert expected(arrival) == 20.0


def test_stages_have_their_rates_one_after_another() -> None:
    """30 s at 1/s, then 5 to 20/s, then 20/s: 30, 750 and 600 arrivals."""
    arrival = Arrival(kind="constant", stages=stages_of("30s@1,60s@5..20,30s@20"))
    times = [time / NS for time in arrivals(arrival, 1)]
    assert [sum(a <= time < b for time in times) for a, b in ((0, 30), (30, 90), (90, 120))] == [
        30,
        750,
        600,
    ]
    assert length_s(arrival) == 120.0 and mean_rate(arrival) == pytest.approx(11.5)
    # 5 + 15 * t / 60 per second: at its middle a ramp has the rate in the middle.
    assert sum(59 <= time < 61 for time in times) == pytest.approx(25, abs=1)


def test_a_ramp_from_nothing_begins_slowly() -> None:
    arrival = Arrival(kind="constant", stages=stages_of("10s@0..20"))
    times = [time / NS for time in arrivals(arrival, 1)]
    assert len(times) == 100 and times[0] == 0.0
    assert times[25] == pytest.approx(5.0)  # half the time, a quarter of the arrivals
    assert spread_of([round(t * NS) for t in times[-20:]]) < 0.1


def test_a_pause_has_no_arrivals() -> None:
    arrival = Arrival(kind="poisson", stages=stages_of("5s@20,10s@0,5s@20"))
    times = [time / NS for time in arrivals(arrival, 2)]
    assert not [time for time in times if 5 <= time < 15]
    assert min(sum(time < 5 for time in times), sum(time >= 15 for time in times)) > 50


STAGE = st.builds(
    Stage,
    duration_s=st.floats(0.5, 20),
    from_rps=st.floats(0, 40),
    to_rps=st.floats(0, 40),
)


@given(stages=st.lists(STAGE, min_size=1, max_size=4))
def test_any_stages_give_as_many_arrivals_as_the_area_under_them(stages: list[Stage]) -> None:
    arrival = Arrival(kind="constant", stages=stages)
    times = list(arrivals(arrival, 1))
    assert times == sorted(times)
    assert abs(len(times) - expected(arrival)) <= 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "DURATION@RATE"),
        ("30s", "'30s': DURATION@RATE"),
        ("30s@x", "'30s@x'"),
        ("30s@1;30s@2", "commas"),
        ("30d@1", "'30d@1'"),
        ("0s@1", "longer than 0 s"),
        ("30s@-1", "'30s@-1'"),
        ("5s@1,30s@1...2", "'30s@1...2'"),
        ("30s@0,1m@0", "no stage has a rate above 0"),
    ],
)
def test_stages_that_cannot_be_read_are_named(text: str, words: str) -> None:
    with pytest.raises(UsageError, match="--stages") as refused:
        stages_of(text)
    assert words in str(refused.value)


def test_durations_have_units() -> None:
    lengths = [stage.duration_s for stage in stages_of("500ms@1, 1m@5..20,0.5h@2,3@1")]
    assert lengths == [0.5, 60.0, 1800.0, 3.0]
