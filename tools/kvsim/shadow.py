"""The fault ``persistent``: a cache that nobody clears and no salt divides."""

from kvsim.cache import chain_all
from kvsim.faults import FaultSet


class Shadow:
    """Remembers every block of every prompt for ever, while the fault is on."""

    def __init__(self, faults: FaultSet, block_tokens: int) -> None:
        self._faults = faults
        self._size = block_tokens
        self._seen: set[bytes] = set()

    def blocks(self, prompt: list[int]) -> int:
        """How many leading blocks of a prompt it has, the one of its last token never."""
        if not self._faults.on("persistent"):
            return 0
        found = 0
        for name in chain_all(prompt[:-1], self._size, None):
            if name not in self._seen:
                break
            found += 1
        return found

    def remember(self, prompt: list[int]) -> None:
        if self._faults.on("persistent"):
            self._seen.update(chain_all(prompt, self._size, None))
