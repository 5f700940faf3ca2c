"""Which blocks of a trace come again: the only ones whose past must be remembered.

Most blocks of real traffic are seen once. A first look over the trace leaves a byte for each slot
that a prefix falls into, so that later looks keep state only for what is seen twice. A slot that
two share costs memory and never truth: none that comes again is taken for one that does not.
"""

from __future__ import annotations

from collections.abc import Iterable

SLOTS = 33_554_393
"""A prime below 2**25: 32 MiB, enough for ten million blocks that are seen once."""


class Again:
    """`prefix in again` once every prefix has been counted."""

    def __init__(self, slots: int = SLOTS) -> None:
        self._slots = slots
        self._seen = bytearray(slots)

    def count(self, prefixes: Iterable[int]) -> None:
        """Those of one request."""
        seen, slots = self._seen, self._slots
        for one in prefixes:
            slot = one % slots
            if seen[slot] < 2:
                seen[slot] += 1

    def __contains__(self, one: int) -> bool:
        return self._seen[one % self._slots] > 1
