"""Which indexes of a plan were seen, in pages, so that gaps cost nothing and full ones little."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

PAGE = 65_536
_FULL = np.ones(PAGE, dtype=bool)  # stands in for every page of which all were seen


class Indexes:
    """A set of whole numbers from 0."""

    def __init__(self) -> None:
        self._pages: dict[int, NDArray[np.bool_]] = {}

    def add(self, index: int) -> bool:
        """Put `index` in; False if it was there."""
        indexes = np.array([index])
        if not self.is_new(indexes):
            return False
        self.put(indexes)
        return True

    def is_new(self, indexes: NDArray[Any]) -> bool:
        """Whether none of them is in, and none is among them twice."""
        return len(np.unique(indexes)) == len(indexes) and not any(
            self._pages[number][places].any()
            for number, places in _by_page(indexes)
            if number in self._pages
        )

    def put(self, indexes: NDArray[Any]) -> None:
        """Put all of them in."""
        for number, places in _by_page(indexes):
            page = self._pages.get(number)
            if page is _FULL:
                continue
            if page is None:
                page = self._pages[number] = np.zeros(PAGE, dtype=bool)
            page[places] = True
            if page.all():
                self._pages[number] = _FULL


def _by_page(indexes: NDArray[Any]) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """The indexes of each page, as places in it."""
    numbers = indexes // PAGE
    places = (indexes % PAGE).astype(np.int64)
    first, last = numbers.min(), numbers.max()
    if first == last:
        yield int(first), places
        return
    for number in set(numbers.tolist()):
        yield number, places[numbers == number]
