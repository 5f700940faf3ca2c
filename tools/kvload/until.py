"""`--until W%`: the first repeats fix how many there are in all, by their spread alone.

The rule and its source stand in `kvpipe.stein`. A number that followed from the effect, or from
whether it is significant yet, would favour a result.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from kvpipe.process import ToolError
from kvpipe.records import Request, Until

Ttfts = dict[int, int]  # ns by index of the request


@dataclass(frozen=True, slots=True, kw_only=True)
class Total:
    """Repeats that the wished width needs, and how many are run."""

    needed: int
    total: int


@dataclass(slots=True, kw_only=True)
class Stages:
    """The TTFTs of cold and hit, repeat by repeat, and what they fix."""

    until: Until
    maximum: int
    rounds: dict[tuple[int, int], Ttfts] = field(default_factory=dict)

    def note(self, repeat: int, round_num: int) -> Ttfts:
        """Where the TTFTs of a round go."""
        return self.rounds.setdefault((repeat, round_num), {})

    def fixed(self) -> Total:
        """What the first stage fixes; ToolError if its spread is not known."""
        from kvpipe import stein  # brings scipy, which runs without --until do without

        thetas = []
        for repeat in range(1, self.until.first_repeats + 1):
            theta = log_ratio(self.note(repeat, 1), self.note(repeat, 2))
            if theta is None:
                raise ToolError(
                    f"--until: in repeat {repeat} no request was answered both cold and hit, so how"
                    " much repeats differ is not known"
                )
            thetas.append(theta)
        stage = stein.first_stage(thetas)
        assert stage is not None  # three repeats or more were asked for
        needed = stage.needed(self.until.half_width)
        return Total(needed=needed, total=stein.total(needed, self.maximum))


def take(ttfts: Ttfts, record: Request) -> None:
    """Note a success; sentinels show drift and are in no mean."""
    if record.status != "ok" or record.stratum == "sentinel":
        return
    if record.first_token_ns is not None and record.sent_ns is not None:
        ttfts[record.index] = record.first_token_ns - record.sent_ns


def log_ratio(cold: Mapping[int, int], hit: Mapping[int, int]) -> float | None:
    """log of the sums' ratio over complete pairs, hit by cold; null without pairs."""
    pairs = cold.keys() & hit.keys()
    base, other = sum(cold[index] for index in pairs), sum(hit[index] for index in pairs)
    return math.log(other / base) if base > 0 and other > 0 else None
