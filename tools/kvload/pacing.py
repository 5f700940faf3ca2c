"""What sets the pace of a round: a schedule, slots, think time, an end. Plain values, no clock."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kvload.arrivals import NS, due_times, length_s
from kvpipe.records import Arrival, Planned


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """When the requests of a round may go. Times in ns from the round's start.

    `due_ns`: one per request; null: a closed loop, where a free slot is what a request waits for.
    `slots`: requests in flight at most; null: no limit. `first_ns`, `stagger_ns`: when the first
    slot of a closed loop starts, and how long after it the next one. `until_ns`: nothing is begun
    after it.
    """

    due_ns: Sequence[int] | None
    slots: int | None
    first_ns: int = 0
    stagger_ns: int = 0
    think_ns: int = 0
    until_ns: int | None = None


def pace_of(
    arrival: Arrival, planned: Sequence[Planned], seed: int, others: Sequence[Planned] = ()
) -> Pace:
    """The pace that an arrival asks for; `others` have their times in the same schedule.

    In an open loop the end is already in the schedule: what was due before it is sent, however long
    it has to wait for a slot, or the wait would be hidden.
    """
    whole = sorted([*planned, *others], key=lambda one: one.index) if others else planned
    due = due_times(whole, arrival, seed)
    if due is not None and others:
        own = {one.index for one in planned}
        due = [at_ns for at_ns, one in zip(due, whole, strict=True) if one.index in own]
    end_s = length_s(arrival) if due is None else None
    return Pace(
        due_ns=due,
        slots=1 if arrival.kind == "serial" else arrival.concurrency,
        stagger_ns=round((arrival.stagger_s or 0.0) * NS),
        think_ns=round((arrival.think_s or 0.0) * NS),
        until_ns=None if end_s is None else round(end_s * NS),
    )
