"""When the requests of a trace are due in the plan: from the window's first, faster, or spread.

Public traces are bucketed: Mooncake's conversation trace stands on a grid of three seconds, with
up to 28 requests at one stamp. Sent as it stands it makes bursts that never were. `--spread` puts
each request of a bucket at a place of its own inside it, drawn from the seed.
"""

from __future__ import annotations

import random
import statistics
from array import array
from collections.abc import Iterable, Iterator
from itertools import groupby

from kvplan.trace import TraceLine

_GAPS = 10_000
"""Gaps between stamps that are kept to find the usual one."""


class Stamps:
    """What a look over the requests shows of their times."""

    def __init__(self) -> None:
        self.distinct = 0
        self.crowd = 0
        """Most requests at one stamp."""
        self._latest_s: float | None = None
        self._at_this = 0
        self._gaps = array("d")

    def looked(self, lines: Iterable[TraceLine]) -> Iterator[TraceLine]:
        """The lines, each looked at as it goes by."""
        for line in lines:
            self._look(line)
            yield line

    def _look(self, line: TraceLine) -> None:
        if line.at_s != self._latest_s:
            if self._latest_s is not None and len(self._gaps) < _GAPS:
                self._gaps.append(line.at_s - self._latest_s)
            self.distinct += 1
            self._at_this = 0
        self._latest_s = line.at_s
        self._at_this += 1
        self.crowd = max(self.crowd, self._at_this)

    @property
    def usual_gap_s(self) -> float:
        """The median gap between stamps; 0 where there is one stamp."""
        return statistics.median(self._gaps) if self._gaps else 0.0


def due(
    lines: Iterable[TraceLine], stamps: Stamps, *, speedup: float, spread_seed: int | None
) -> Iterator[tuple[TraceLine, float]]:
    """Each request and when it is due, in seconds from the first; never falls."""
    placed = (
        ((line, line.at_s) for line in lines)
        if spread_seed is None
        else _spread(lines, stamps.usual_gap_s, spread_seed)
    )
    start: float | None = None
    for line, at_s in placed:
        start = at_s if start is None else start
        yield line, round((at_s - start) / speedup, 6)


def _spread(
    lines: Iterable[TraceLine], usual_s: float, seed: int
) -> Iterator[tuple[TraceLine, float]]:
    """Uniform between a stamp and the next one, but over no more than the usual gap."""
    rng = random.Random(f"spread|{seed}")
    held: list[TraceLine] = []
    for _, bucket in groupby(lines, key=lambda line: line.at_s):
        found = list(bucket)
        if held:
            yield from _placed(held, min(usual_s, found[0].at_s - held[0].at_s), rng)
        held = found
    yield from _placed(held, usual_s, rng)


def _placed(
    bucket: list[TraceLine], width_s: float, rng: random.Random
) -> Iterator[tuple[TraceLine, float]]:
    places = sorted(rng.random() * width_s for _ in bucket)
    for line, place_s in zip(bucket, places, strict=True):
        yield line, line.at_s + place_s
