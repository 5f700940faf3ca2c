"""The prefix cache: blocks of tokens named by a chain of hashes, kept until they are needed.

As in vLLM's block pool: a block is full or it has no name; a named block that nobody uses stays
findable until it is the oldest of the free ones and its place is wanted. A block without a name is
given out again before any of those. No clock, no IO.
"""

from array import array
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from hashlib import sha256

ROOT = b"kvsim"


class Block:
    """Room for one block of tokens; ``digest`` is None while it is not full or not findable."""

    __slots__ = ("damaged", "digest", "number", "refs")

    def __init__(self, number: int) -> None:
        self.number = number
        self.digest: bytes | None = None
        self.refs = 0
        self.damaged = False  # by the fault ``corrupt_load``


def chain(parent: bytes, tokens: Sequence[int], salt: str | None = None) -> bytes:
    """The name of a block: its parent's name, its tokens and, in the first block, the salt."""
    payload = array("Q", tokens).tobytes()
    extra = b"\0" + salt.encode("utf-8", "surrogatepass") if salt is not None else b""
    return sha256(parent + payload + extra).digest()


def chain_all(tokens: Sequence[int], size: int, salt: str | None) -> Iterator[bytes]:
    """Names of all full blocks of a prompt, in order."""
    parent = ROOT
    for start in range(0, len(tokens) - size + 1, size):
        parent = chain(parent, tokens[start : start + size], salt if start == 0 else None)
        yield parent


class BlockPool:
    """A fixed number of blocks. One is never given out, as vLLM's null block."""

    def __init__(self, capacity: int) -> None:
        if capacity < 2:
            raise ValueError("a pool needs at least two blocks")
        self.capacity = capacity
        self.evicted = 0
        self._free = OrderedDict((n, Block(n)) for n in range(1, capacity))
        self._named: dict[bytes, Block] = {}

    @property
    def used(self) -> int:
        """Blocks that a running request, a load or a save holds."""
        return self.capacity - 1 - len(self._free)

    @property
    def free(self) -> int:
        return len(self._free)

    @property
    def named(self) -> int:
        """Blocks that can be found."""
        return len(self._named)

    def match(self, digests: Iterable[bytes]) -> list[Block]:
        """The longest findable run of blocks from the start."""
        found: list[Block] = []
        for digest in digests:
            block = self._named.get(digest)
            if block is None:
                break
            found.append(block)
        return found

    def take(self, blocks: Iterable[Block]) -> None:
        """Hold blocks that were found, so that nobody evicts them."""
        for block in blocks:
            if block.refs == 0:
                del self._free[block.number]
            block.refs += 1

    def allocate(self, count: int) -> list[Block] | None:
        """The oldest free blocks, their old content forgotten; None if there are too few."""
        if count > len(self._free):
            return None
        taken = [self._free[number] for number in _first(self._free, count)]
        for block in taken:
            del self._free[block.number]
            self._forget(block)
            block.refs = 1
            block.damaged = False
        return taken

    def name(self, block: Block, digest: bytes) -> None:
        """Make a full block findable. A second block of the same content stays nameless."""
        if block.digest is None and digest not in self._named:
            block.digest = digest
            self._named[digest] = block

    def release(self, blocks: Sequence[Block]) -> None:
        """Let go, the tail first: of one prompt the tail is evicted before the head, and what has
        no name before everything (`free_blocks` of vLLM 0.32)."""
        for block in reversed(blocks):
            block.refs -= 1
            if block.refs == 0:
                self._free[block.number] = block
                if block.digest is None:
                    self._free.move_to_end(block.number, last=False)

    def forget(self, blocks: Iterable[Block]) -> None:
        """Make blocks unfindable, as an eviction does."""
        for block in blocks:
            self._forget(block)

    def clear(self) -> bool:
        """Forget everything; False, and nothing done, while a block is held."""
        if self.used:
            return False
        for block in self._free.values():
            block.digest = None
        self._named.clear()
        return True

    def _forget(self, block: Block) -> None:
        if block.digest is not None:
            del self._named[block.digest]
            block.digest = None
            self.evicted += 1


def _first(numbers: Iterable[int], count: int) -> list[int]:
    found: list[int] = []
    for number in numbers:
        if len(found) == count:
            break
        found.append(number)
    return found
