"""Which indexes of a plan were seen: one bit each, in pages, so that gaps cost nothing."""

from __future__ import annotations

PAGE_BITS = 8_192


class Indexes:
    """A set of whole numbers from 0."""

    def __init__(self) -> None:
        self._pages: dict[int, bytearray] = {}

    def add(self, index: int) -> bool:
        """Put `index` in; False if it was there."""
        page = self._pages.setdefault(index // PAGE_BITS, bytearray(PAGE_BITS // 8))
        byte, bit = divmod(index % PAGE_BITS, 8)
        if page[byte] >> bit & 1:
            return False
        page[byte] |= 1 << bit
        return True
