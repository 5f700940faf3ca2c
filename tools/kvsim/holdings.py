"""Which blocks a sequence holds, and what of its beginning is already there. No clock, no IO."""

from dataclasses import dataclass
from random import Random

from kvsim.cache import Block, BlockPool
from kvsim.faults import FaultSet
from kvsim.sequence import Sequence
from kvsim.shadow import Shadow


@dataclass(frozen=True, slots=True)
class Found:
    """The beginning of a sequence: blocks in the cache, then either blocks that only the fault
    ``persistent`` knows, or blocks in the store."""

    local: list[Block]
    hidden: int
    remote: int


class Holdings:
    """Gives blocks of one pool to sequences and takes them back."""

    def __init__(
        self, pool: BlockPool, block_tokens: int, faults: FaultSet, random: Random
    ) -> None:
        self._pool = pool
        self._size = block_tokens
        self._faults = faults
        self._random = random
        self._shadow = Shadow(faults, block_tokens)

    def local(self, sequence: Sequence) -> int:
        """How many of its leading blocks the cache has."""
        return len(self._pool.match(sequence.findable()))

    def find(self, sequence: Sequence, remote: int) -> Found:
        """What is there now; ``remote`` is how many more blocks the store has."""
        names = sequence.findable()
        local = self._pool.match(names)
        if self._faults.on("evict") and self._random.random() < self._faults.number("evict"):
            self._pool.forget(block for block in local if block.refs == 0)
            return Found([], 0, 0)
        hidden = 0
        if not sequence.admitted:
            hidden = max(0, self._shadow.blocks(sequence.tokens) - len(local))
        most = -(-sequence.given // self._size) or len(names)
        return Found(local, hidden, 0 if hidden else min(remote, most - len(local)))

    def take(self, sequence: Sequence, found: Found, budget: int) -> bool:
        """Holds what was found, if there is room for the next chunk or for the load as well."""
        start = (len(found.local) + found.hidden) * self._size
        chunk = min(len(sequence.tokens) - start, budget)
        needed = found.remote or -(-(start + chunk) // self._size) - len(found.local)
        if needed > self._pool.free - sum(block.refs == 0 for block in found.local):
            return False
        self._pool.take(found.local)
        if any(block.damaged for block in found.local):
            sequence.damage()
        sequence.blocks, sequence.named = list(found.local), len(found.local)
        sequence.computed = start
        if found.remote:
            sequence.blocks += self._pool.allocate(found.remote) or []
        self._shadow.remember(sequence.tokens)
        return True

    def grow(self, sequence: Sequence, count: int) -> bool:
        """Blocks for ``count`` more tokens; the full ones are findable from now on."""
        until = sequence.computed + count
        missing = -(-until // self._size) - len(sequence.blocks)
        if missing > 0:
            blocks = self._pool.allocate(missing)
            if blocks is None:
                return False
            sequence.blocks += blocks
        self._name(sequence, until // self._size)
        return True

    def loaded(self, sequence: Sequence) -> None:
        """All blocks that it holds have come out of the store, or from a prefiller: then the
        last one may be begun only, and the last token is computed all the same."""
        whole = sequence.given // self._size or len(sequence.blocks)
        if self._faults.on("corrupt_load"):
            for block in sequence.blocks[sequence.named :]:
                block.damaged = True
            sequence.damage()
        self._name(sequence, whole)
        sequence.computed = min(sequence.given or whole * self._size, len(sequence.tokens) - 1)
        sequence.given = 0

    def let_go(self, sequence: Sequence) -> None:
        """It begins anew; a step under way no longer counts for it."""
        self._pool.release(sequence.blocks)
        sequence.blocks, sequence.named, sequence.computed = [], 0, 0
        sequence.epoch += 1

    def _name(self, sequence: Sequence, until: int) -> None:
        for at in range(sequence.named, until):
            self._pool.name(sequence.blocks[at], sequence.digest(at))
        sequence.named = max(sequence.named, until)
