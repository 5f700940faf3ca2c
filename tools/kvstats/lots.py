"""Requests that are alike, taken together: what is equal in all of them is looked at once.

A million requests are read a few hundred at a time and sorted into lots. A sum over a column of a
lot costs a fraction of as many additions one by one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from operator import attrgetter
from typing import Any

from kvpipe.records import Request, Stratum

_ALIKE = attrgetter("run_id", "stratum", "status", "endpoint_url", "stamp_source", "token_source")


class Lot:
    """Requests of one run, stratum, status, endpoint and kind of stamps and counts."""

    def __init__(self, requests: Sequence[Request]) -> None:
        self.requests = requests
        self.like = requests[0]
        self._columns: dict[str, list[Any]] = {}

    def __len__(self) -> int:
        return len(self.requests)

    @property
    def ok(self) -> bool:
        """Whether they succeeded."""
        return self.like.status == "ok"

    @property
    def stratum(self) -> Stratum:
        """Their role in the round."""
        return self.like.stratum

    def column(self, name: str) -> list[Any]:
        """A field of each, in the order of `requests`."""
        found = self._columns.get(name)
        if found is None:
            found = self._columns[name] = list(map(attrgetter(name), self.requests))
        return found

    def known(self, name: str) -> list[Any]:
        """A field of those that have it."""
        return [value for value in self.column(name) if value is not None]


def lots_of(requests: Iterable[Request]) -> Iterator[Lot]:
    """The requests in lots; inside of one their order is kept."""
    lots: dict[Any, list[Request]] = {}
    for request in requests:
        lots.setdefault(_ALIKE(request), []).append(request)
    return map(Lot, lots.values())
