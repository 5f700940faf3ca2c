"""Requests that are alike, taken together: what is equal in all of them is looked at once.

A million requests are read some hundreds at a time and sorted into lots. Their numbers stand in
columns of numpy: a sum over one costs a fraction of as many additions one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import attrgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvpipe.process import ToolError
from kvpipe.records import Request, Stratum

AT_ONCE = 1_024  # requests of one batch
# So large a number can be added up AT_ONCE times in 64 bits. Larger ones, which no clock and no
# tokenizer makes but a record may hold, are Python's own integers: exact, and slow.
LARGEST = 2**52

ENDLESS = 10**100
"""Beyond it squares do not fit into a float."""

_ALIKE = attrgetter("run_id", "stratum", "status", "endpoint_url", "stamp_source", "token_source")


@dataclass(frozen=True, slots=True)
class Numbers:
    """A column of whole numbers; where one is not `known` its value is 0."""

    values: NDArray[Any]  # int64, or objects where one is beyond LARGEST
    known: NDArray[np.bool_]

    @classmethod
    def of(cls, column: Sequence[int | None]) -> Numbers:
        """The numbers of a list; None is not known."""
        missing = column.count(None)
        if missing == len(column):
            return cls(np.zeros(missing, dtype=np.int64), np.zeros(missing, dtype=bool))
        known = np.ones(len(column), dtype=bool)
        if missing:
            known = np.array([value is not None for value in column], dtype=bool)
            column = [0 if value is None else value for value in column]
        try:
            values = np.array(column, dtype=np.int64)
        except OverflowError:
            return cls(np.array(column, dtype=object), known)
        if values.min() >= -LARGEST and values.max() <= LARGEST:
            return cls(values, known)
        return cls(values.astype(object), known)

    def at(self, mask: NDArray[np.bool_]) -> Numbers:
        """Some of them."""
        return Numbers(self.values[mask], self.known[mask])

    def take(self, places: NDArray[np.intp]) -> Numbers:
        """Some of them, by place."""
        return Numbers(self.values.take(places), self.known.take(places))

    def floats(self) -> NDArray[np.float64]:
        """As floats, NaN where not known; exact below 2**53."""
        floats = self.values.astype(np.float64)
        floats[~self.known] = np.nan
        return floats

    @property
    def total(self) -> int:
        """The sum of those that are known."""
        return int(self.values.sum())

    @property
    def count(self) -> int:
        """How many are known."""
        return int(np.count_nonzero(self.known))


class Batch:
    """Requests read together, at most AT_ONCE."""

    def __init__(self, requests: Sequence[Request]) -> None:
        self.requests = requests
        self._columns: dict[str, list[Any]] = {}
        self._numbers: dict[str, Numbers] = {}
        self._floats: dict[tuple[str, ...], NDArray[np.float64]] = {}

    def column(self, name: str) -> list[Any]:
        """A field of each, in their order."""
        found = self._columns.get(name)
        if found is None:
            found = self._columns[name] = list(map(attrgetter(name), self.requests))
        return found

    def numbers(self, name: str) -> Numbers:
        """A field of whole numbers of each."""
        found = self._numbers.get(name)
        if found is None:
            found = self._numbers[name] = Numbers.of(self.column(name))
            if found.values.dtype == object:
                self._refuse_endless(name)
        return found

    def _refuse_endless(self, name: str) -> None:
        """ToolError for what is too large even for a float, and so for any metric."""
        for request, value in zip(self.requests, self.column(name), strict=True):
            if value is not None and abs(value) > ENDLESS:
                raise ToolError(
                    f"request {request.index} of run {request.run_id}: '{name}': a number of more"
                    " than a hundred digits"
                )

    def floats(self, names: tuple[str, ...]) -> NDArray[np.float64]:
        """Fields as floats, one a row; NaN where not known."""
        found = self._floats.get(names)
        if found is None:
            found = np.array([self.numbers(name).floats() for name in names])
            self._floats[names] = found
        return found

    def lots(self) -> list[Lot]:
        """The requests in lots; inside of one their order is kept."""
        lots: dict[Any, list[int]] = {}
        for place, alike in enumerate(map(_ALIKE, self.requests)):
            lots.setdefault(alike, []).append(place)
        return [Lot(self, places) for places in lots.values()]


class Lot:
    """Requests of one run, stratum, status, endpoint and kind of stamps and counts."""

    def __init__(self, batch: Batch, places: list[int]) -> None:
        self.places = places
        self.like = batch.requests[places[0]]
        self._batch = batch
        self._numbers: dict[str, Numbers] = {}

    def __len__(self) -> int:
        return len(self.places)

    @property
    def ok(self) -> bool:
        """Whether they succeeded."""
        return self.like.status == "ok"

    @property
    def stratum(self) -> Stratum:
        """Their role in the round."""
        return self.like.stratum

    @cached_property
    def requests(self) -> list[Request]:
        """The requests, in input order."""
        return [self._batch.requests[place] for place in self.places]

    def column(self, name: str) -> list[Any]:
        """A field of each, in the order of `requests`."""
        column = self._batch.column(name)
        if len(column) == len(self.places):
            return column
        return [column[place] for place in self.places]

    def known(self, name: str) -> list[Any]:
        """A field of those that have it."""
        return [value for value in self.column(name) if value is not None]

    def numbers(self, name: str) -> Numbers:
        """A field of whole numbers of each, in the order of `requests`."""
        found = self._numbers.get(name)
        if found is None:
            found = self._batch.numbers(name)
            if len(found.values) != len(self.places):
                found = found.take(self._at)
            self._numbers[name] = found
        return found

    def floats(self, names: tuple[str, ...], mask: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Fields of some of them as floats, one a row; NaN where not known."""
        return self._batch.floats(names).take(self._at[mask], axis=1)

    @cached_property
    def _at(self) -> NDArray[np.intp]:
        return np.array(self.places, dtype=np.intp)


def lots_of(requests: Sequence[Request]) -> list[Lot]:
    """The requests in lots, AT_ONCE of them at a time."""
    return [
        lot
        for start in range(0, len(requests), AT_ONCE)
        for lot in Batch(requests[start : start + AT_ONCE]).lots()
    ]
