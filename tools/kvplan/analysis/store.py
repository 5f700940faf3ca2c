"""A Mooncake store, run over a workload: leases, and a watermark.

What LRU by stack distance leaves out, as master 0.3.13 does it (`EvictionThreadFunc`, `BatchEvict`,
`GrantReadLease` in mooncake-store/src/master_service.cpp of kvcache-ai/Mooncake):

- Above the watermark a share of all objects goes at once, so the room is watermark x capacity or
  less, never the whole.
- Those whose lease ends first go first. Asking whether a key exists gives it a lease; a new object
  has one that ends at once. So what was read outlives what was put by the length of a lease.
- Keys that are asked for together get their leases in the order of the shards that their hashes
  fall into: within a prompt any block may be the oldest.
- What is under lease does not go. If nothing else can, a new object finds no room.

An engine asks for all whole blocks of a prompt when it begins, loads the leading ones that are
there, and puts the others step by step. No clock: when requests come is given.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from kvplan.analysis.accesses import Accesses, Ints


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreRules:
    """The settings of a master, and one of the engine."""

    capacity_blocks: int
    """Of all segments together."""
    lease_s: float = 5.0
    watermark: float = 0.9
    """Mooncake's default since 0.3.8."""
    eviction: float = 0.05
    """Share of the objects that goes at once, at least."""
    step_blocks: int = 16
    """Blocks that the engine puts at a time: a prefill step."""


@dataclass(slots=True)
class _Store:
    rules: StoreRules
    shard: Callable[[int], float] | None
    """In which order blocks get what they get at one time; None: as they were put."""
    lease_end: dict[int, tuple[float, float]] = field(default_factory=dict)
    """Per block, with its place among those that are equal."""
    put_at: dict[int, int] = field(default_factory=dict)
    puts: int = 0
    failed: int = 0
    evicted: int = 0

    def exist(self, blocks: Sequence[int], now_s: float) -> list[bool]:
        """Whether each is there; those that are get a lease."""
        found = [block in self.lease_end for block in blocks]
        for block, there in zip(blocks, found, strict=True):
            if there:
                self.lease_end[block] = (now_s + self.rules.lease_s, self._place(block))
        return found

    def put(self, blocks: Sequence[int], now_s: float) -> None:
        """New objects, one after the other."""
        for block in blocks:
            if len(self.lease_end) >= self.rules.capacity_blocks:
                self.evict(now_s)
            if len(self.lease_end) >= self.rules.capacity_blocks:
                self.failed += 1
                continue
            self.puts += 1
            self.put_at[block] = self.puts
            self.lease_end[block] = (now_s, float(self.puts))
        if len(self.lease_end) > self.rules.watermark * self.rules.capacity_blocks:
            self.evict(now_s)

    def _place(self, block: int) -> float:
        return self.put_at[block] if self.shard is None else self.shard(block)

    def evict(self, now_s: float) -> None:
        rules, held = self.rules, len(self.lease_end)
        above = held / rules.capacity_blocks - rules.watermark
        count = math.ceil(held * max(rules.eviction, above + rules.eviction))
        free = [block for block, end in self.lease_end.items() if end[0] <= now_s]
        free.sort(key=self.lease_end.__getitem__)
        for block in free[:count]:
            del self.lease_end[block]
            self.evicted += 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """What one run over the workload gave."""

    hits: Ints
    """Per request, leading blocks that were found."""
    evicted: int
    failed: int
    """Blocks that found no room."""


def run_store(
    taken: Accesses,
    block_tokens: int,
    rules: StoreRules,
    begun_s: Sequence[float],
    ended_s: Sequence[float],
    seed: int | None,
) -> Stored:
    """Every request in order, one at a time, asked for at `begun_s` and stored by `ended_s`.

    `seed` draws the order of the shards; None: of keys with equal leases the older one goes first.
    """
    names = _block_names(taken, block_tokens)
    shard: Callable[[int], float] | None = None
    if seed is not None:
        drawn = random.Random(seed)
        places = [drawn.random() for _ in range(1 + max(map(max, filter(None, names)), default=0))]
        shard = places.__getitem__
    store = _Store(rules=rules, shard=shard)
    hits = np.zeros(taken.requests, dtype=np.int64)
    for request, blocks in enumerate(names):
        begun, ended = begun_s[request], ended_s[request]
        usable = (int(taken.input_tokens[request]) - 1) // block_tokens
        there = [*store.exist(blocks, begun), False]
        hits[request] = found = min(there.index(False), usable)
        steps = range(found, len(blocks), rules.step_blocks)
        for at, first in enumerate(steps, 1):
            now = begun + (ended - begun) * at / len(steps)
            part = blocks[first : first + rules.step_blocks]
            kept = store.exist(part, now)
            store.put(
                [block for block, is_there in zip(part, kept, strict=True) if not is_there], now
            )
    return Stored(hits=hits, evicted=store.evicted, failed=store.failed)


def _block_names(taken: Accesses, block_tokens: int) -> list[list[int]]:
    """Whole blocks of each request, as numbers that equal prefixes share."""
    start, size = taken.node_start, taken.node_tokens
    count = (start + size) // block_tokens - start // block_tokens
    base = np.concatenate(([0], np.cumsum(count)))
    names: list[list[int]] = []
    for first, end in zip(taken.first[:-1].tolist(), taken.first[1:].tolist(), strict=True):
        nodes = taken.nodes[first:end].tolist()
        names.append([name for node in nodes for name in range(base[node], base[node + 1])])
    return names
