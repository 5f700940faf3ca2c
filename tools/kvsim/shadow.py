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
        """How many leading blocks of a prompt it has; the prompt is remembered from now on."""
        if not self._faults.on("persistent"):
            return 0
        names = list(chain_all(prompt, self._size, None))
        limit = (len(prompt) - 1) // self._size
        found = 0
        while found < limit and names[found] in self._seen:
            found += 1
        self._seen.update(names)
        return found
