"""One plan for several workers: who sends what, and who has to hear of whom."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from kvload.bodies import Prepared
from kvload.pacing import Pace


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """What one worker sends, in the plan's order.

    `awaits`: requests of other workers that some of its own must wait for. `tells`: its own that
    others wait for.
    """

    prepared: list[Prepared]
    pace: Pace
    awaits: frozenset[int]
    tells: frozenset[int]


def slices(prepared: Sequence[Prepared], pace: Pace, workers: int) -> list[Slice]:
    """The plan dealt out: in turn, a conversation whole to one worker.

    The schedule is one: each request keeps the time that it has in the whole plan. The slots of a
    closed loop, or of a cap, are split; there must be one for each worker.
    """
    owner = _owners(prepared, workers)
    cross = [
        (owner[after], after, owner[item.planned.index])
        for item in prepared
        if (after := item.planned.after) is not None
        and owner.get(after) not in (None, owner[item.planned.index])
    ]
    dealt: list[Slice] = []
    for worker in range(workers):
        places = [n for n, item in enumerate(prepared) if owner[item.planned.index] == worker]
        dealt.append(
            Slice(
                prepared=[_lean(prepared[n]) for n in places],
                pace=_pace(pace, places, worker, workers),
                awaits=frozenset(index for _, index, taker in cross if taker == worker),
                tells=frozenset(index for giver, index, _ in cross if giver == worker),
            )
        )
    return dealt


def _lean(item: Prepared) -> Prepared:
    """Without what only the body was made from, and only ideals need."""
    planned = msgspec.structs.replace(item.planned, messages=None, prompt=None, blocks=[], body={})
    return dataclasses.replace(item, planned=planned)


def _owners(prepared: Sequence[Prepared], workers: int) -> dict[int, int]:
    """Worker of each request: the one that has the fewest so far, or that has its conversation."""
    owner: dict[int, int] = {}
    conversations: dict[str, int] = {}
    load = [0] * workers
    sizes = Counter(item.planned.group for item in prepared if item.planned.turn is not None)
    for item in prepared:
        planned = item.planned
        talk = planned.group if planned.turn is not None else None
        if talk is not None and talk in conversations:
            owner[planned.index] = conversations[talk]
            continue
        worker = min(range(workers), key=load.__getitem__)
        owner[planned.index] = worker
        load[worker] += 1
        if talk is not None:
            conversations[talk] = worker
            load[worker] += sizes[talk] - 1
    return owner


def _pace(pace: Pace, places: Sequence[int], worker: int, workers: int) -> Pace:
    slots = None
    if pace.slots is not None:
        slots = pace.slots // workers + (worker < pace.slots % workers)
    return dataclasses.replace(
        pace,
        due_ns=None if pace.due_ns is None else [pace.due_ns[n] for n in places],
        slots=slots,
        first_ns=worker * pace.stagger_ns,
        stagger_ns=workers * pace.stagger_ns,
    )
