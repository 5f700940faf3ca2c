"""What makes one of several machines a shard of a fleet; values only."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from kvpipe.process import UsageError
from kvpipe.records import Arrival


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """Number `number` (from 0) of `count`."""

    number: int
    count: int

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"


def shard_named(text: str) -> Shard:
    """The shard of `I/N`; UsageError if it is none."""
    found = re.fullmatch(r"([0-9]{1,5})/([0-9]{1,5})", text)
    if found is None:
        raise UsageError(f"--shard {text}: I/N is wanted, such as 0/4 for the first of four")
    shard = Shard(number=int(found[1]), count=int(found[2]))
    if shard.number >= shard.count:
        last = f"0/{shard.count} to {shard.count - 1}/{shard.count}" if shard.count else "none"
        raise UsageError(f"--shard {text}: shards are counted from 0: {last}")
    return shard


def arrival_in(arrival: Arrival, shard: Shard | None) -> Arrival:
    """The arrival as a shard has it: one of several that send serially is no serial load."""
    if shard is None or shard.count == 1 or arrival.kind != "serial":
        return arrival
    return Arrival(
        kind="closed",
        concurrency=1,
        duration_s=arrival.duration_s,
        think_s=arrival.think_s,
    )


def experiment_of_fleet(*told: object) -> str:
    """An experiment's id that every shard of a fleet arrives at, from what all were told."""
    text = "\n".join(map(repr, told))
    return f"fleet-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
