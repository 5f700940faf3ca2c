"""Hit ratios at a block size: without a limit, and under LRU for any capacity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kvplan.analysis.accesses import Accesses, Ints
from kvplan.analysis.distances import NEVER, Order, link_needs


@dataclass(frozen=True, slots=True, kw_only=True)
class Sized:
    """A workload cut into whole blocks of one size.

    What an engine can reuse: whole blocks only, and never the one that holds a prompt's last
    token, which is always computed.
    """

    taken: Accesses
    block_tokens: int
    weight: Ints
    """Per node: blocks that end inside it."""
    order: Order
    need: Ints
    """Per link of a request: blocks of room at which its first block is found."""
    usable: Ints
    """Per link of a request: its blocks, without the one that holds the prompt's last token."""

    @property
    def blocks(self) -> int:
        """Whole blocks of all counted requests."""
        taken = self.taken
        return int((taken.input_tokens // self.block_tokens)[taken.counted].sum())

    @property
    def unique_blocks(self) -> int:
        """Distinct whole blocks of all requests: what a cache without a limit would hold."""
        return int(self.weight.sum())

    def hits(self, capacity: int | None) -> Ints:
        """Per request, the blocks found in an LRU cache of so many blocks; None: no limit."""
        known = self.need != NEVER
        room = self.usable
        if capacity is not None:
            spare = capacity - np.where(known, self.need, 0)
            if self.order == "tail-first":
                room = np.clip(np.minimum(self.usable, spare + 1), 0, None)
            else:
                room = np.where(spare >= 0, self.usable, 0)
        found = np.concatenate(([0], np.cumsum(np.where(known, room, 0))))
        per_request: Ints = found[self.taken.first[1:]] - found[self.taken.first[:-1]]
        return per_request

    def hit_tokens(self, capacity: int | None) -> int:
        """Tokens of all counted requests."""
        return int(self.hits(capacity)[self.taken.counted].sum()) * self.block_tokens

    def enough(self) -> int:
        """The least capacity, in blocks, at which nothing more is lost; 0 where nothing hits."""
        behind = self.usable - 1 if self.order == "tail-first" else 0
        return int((self.need + behind)[self._useful()].max(initial=0))

    def needs(self) -> Ints:
        """One per block that is used again: the room at which it is found."""
        useful = self._useful()
        sizes, need = self.usable[useful], self.need[useful]
        needs: Ints = np.repeat(need, sizes)
        if self.order == "tail-first":
            ends = np.cumsum(sizes)
            needs = needs + np.arange(len(needs)) - np.repeat(ends - sizes, sizes)
        return needs

    def _useful(self) -> npt.NDArray[np.bool_]:
        counted = self.taken.counted[self.taken.request_of]
        useful: npt.NDArray[np.bool_] = (self.need != NEVER) & (self.usable > 0) & counted
        return useful


def sized(taken: Accesses, block_tokens: int, order: Order = "tail-first") -> Sized:
    """The workload in blocks of one size: a block is named by the link that holds its last token,
    which two prompts share exactly if they are equal up to it."""
    start, size = taken.node_start, taken.node_tokens
    weight = (start + size) // block_tokens - start // block_tokens
    usable = weight[taken.nodes]
    whole = (taken.input_tokens > 0) & (taken.input_tokens % block_tokens == 0)
    usable[taken.first[1:][whole] - 1] -= 1
    return Sized(
        taken=taken,
        block_tokens=block_tokens,
        order=order,
        weight=weight,
        need=link_needs(taken, weight, order),
        usable=usable,
    )


def grid(enough: int, least: int = 8) -> Sequence[int]:
    """Capacities for a curve, in blocks: two to the octave, up to the first that loses nothing."""
    points: list[int] = []
    step = 0
    while not points or points[-1] < enough:
        points.append(round(least * 2 ** (step / 2)))
        step += 1
    return points
