"""Facts per request, in columns: exact up to a limit, then a sample that order cannot change.

Beyond the limit the rows with the smallest hashes stay. The hash is of what all rounds of a repeat
share (experiment, plan, repeat) and the index, so that cold and hit keep the *same* requests and
their pairs survive the sampling.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from sys import intern
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvpipe.records import Request, Stratum
from kvstats.lots import Lot, lots_of
from kvstats.metrics import Column

LIMIT = 100_000  # exact per request up to 100k requests
SPARE = 0.1  # of the limit: rows that may wait to be dropped, so that it is done for many at once

METRIC_COLUMNS = ("ttft_s", "ttft_due_s", "tpot_s", "e2e_s", "queue_s", "second_token_s")
FACT_COLUMNS = (
    "index",
    "sent_ns",
    "end_ns",
    "prompt_tokens",
    "output_tokens",
    "cached_tokens",
    "cached_local_tokens",
    "cached_remote_tokens",
    "new_tokens",
    "floor_tokens",
    "ideal_in_round_lo",
    "ideal_in_round_hi",
    "ideal_prior_tokens",
    "retries",
)
_MIX = (
    (np.uint64(30), np.uint64(0xBF58476D1CE4E5B9)),
    (np.uint64(27), np.uint64(0x94D049BB133111EB)),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Picked:
    """Rows of one lot, in columns."""

    of: int  # how many requests the lot has
    hashes: NDArray[np.uint64]
    numbers: NDArray[np.float64]  # a row for each of FACT_COLUMNS, METRIC_COLUMNS
    group: list[str | None]
    output_sha256: list[str | None]
    stratum: Stratum
    ok: bool
    run: str


class Rows:
    """Columns of equal length; a missing number is NaN (whole numbers are exact below 2**53)."""

    def __init__(self, seed: str, limit: int = LIMIT) -> None:
        self._salt = np.frombuffer(blake2b(seed.encode(), digest_size=8).digest(), dtype="<u8")
        self._limit = limit
        self._hashes = array("Q")  # of the rows
        self.largest = np.uint64(2**64 - 1)  # hashes above it are out
        self._numbers = {name: array("d") for name in (*FACT_COLUMNS, *METRIC_COLUMNS)}
        self.group: list[str | None] = []
        self.stratum: list[Stratum] = []
        self.ok: list[bool] = []
        self.output_sha256: list[str | None] = []
        self.run: list[str] = []
        self.total = 0

    def __len__(self) -> int:
        return min(self.total, self._limit)

    @property
    def sampled(self) -> bool:
        """Whether rows were left out."""
        return self.total > len(self)

    def add(self, request: Request, metrics: Mapping[str, float | None]) -> None:
        """Keep the request, or drop the one with the largest hash."""
        (lot,) = lots_of([request])
        self.extend(lot, {name: np.array([value], float) for name, value in metrics.items()})

    def extend(self, lot: Lot, metrics: Mapping[str, Column]) -> None:
        """The same for several, with a column for each metric."""
        self.take(self.pick(lot, metrics))

    def pick(self, lot: Lot, metrics: Mapping[str, Column]) -> Picked:
        """Those of the lot that may stay, as far as is known."""
        hashes = self._hashes_of(lot.numbers("index").values)
        near = hashes <= self.largest
        found = np.array([metrics[name] for name in METRIC_COLUMNS])
        groups, outputs = lot.column("group"), lot.column("output_sha256")
        if not near.all():
            places = np.flatnonzero(near)
            hashes = hashes[places]
            found = found.take(places, axis=1)
            groups = [groups[at] for at in places.tolist()]
            outputs = [outputs[at] for at in places.tolist()]
        return Picked(
            of=len(lot),
            hashes=hashes,
            numbers=np.concatenate([lot.floats(FACT_COLUMNS, near), found]),
            group=groups,
            output_sha256=outputs,
            stratum=lot.stratum,
            ok=lot.ok,
            run=lot.like.run_id,
        )

    def take(self, picked: Picked) -> None:
        """Keep what was picked, or of all there is the rows with the smallest hashes."""
        self.total += picked.of
        self._hashes.frombytes(picked.hashes.tobytes())
        for column, values in zip(self._numbers.values(), picked.numbers, strict=True):
            column.frombytes(values.tobytes())
        more = len(picked.group)
        self.group += [group and intern(group) for group in picked.group]
        self.output_sha256 += picked.output_sha256
        self.stratum += [picked.stratum] * more
        self.ok += [picked.ok] * more
        self.run += [intern(picked.run)] * more
        if len(self.ok) > self._limit * (1 + SPARE):
            self._drop()

    def _hashes_of(self, indexes: NDArray[Any]) -> NDArray[np.uint64]:
        """Of each index and the seed 64 bits, by the finalizer of SplitMix64."""
        if indexes.dtype == object:
            indexes = np.array([one % 2**64 for one in indexes], dtype=np.uint64)
        mixed = indexes.astype(np.uint64) + self._salt
        for shift, factor in _MIX:
            mixed = (mixed ^ (mixed >> shift)) * factor
        hashes: NDArray[np.uint64] = mixed ^ (mixed >> np.uint64(31))
        return hashes

    def _drop(self) -> None:
        """Those with the largest hashes, down to the limit."""
        if len(self.ok) <= self._limit:
            return
        hashes = np.frombuffer(self._hashes, dtype=np.uint64)
        order = np.argpartition(hashes, self._limit - 1)[: self._limit]
        self.largest = hashes[order].max()
        self._hashes = array("Q", hashes[order].tobytes())
        self._keep(order)

    def _keep(self, order: NDArray[np.intp]) -> None:
        """These rows in this order."""
        for name, column in self._numbers.items():
            self._numbers[name] = array("d", np.frombuffer(column)[order].tobytes())
        picked = order.tolist()
        self.group = [self.group[i] for i in picked]
        self.stratum = [self.stratum[i] for i in picked]
        self.ok = [self.ok[i] for i in picked]
        self.output_sha256 = [self.output_sha256[i] for i in picked]
        self.run = [self.run[i] for i in picked]

    def sorted(self) -> Table:
        """The rows by index; the table stands on them, so none may be added while it is in use."""
        self._drop()
        if len(self):
            order = np.argsort(np.frombuffer(self._numbers["index"]), kind="stable")
            self._hashes = array("Q", np.frombuffer(self._hashes, np.uint64)[order].tobytes())
            self._keep(order)
        return Table(
            numbers={
                name: np.frombuffer(column) if len(self) else np.empty(0)
                for name, column in self._numbers.items()
            },
            group=self.group,
            stratum=self.stratum,
            ok=self.ok,
            output_sha256=self.output_sha256,
            run=self.run,
            total=self.total,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """The rows of a finished round, by index; NaN is missing."""

    numbers: Mapping[str, NDArray[np.float64]]
    group: list[str | None]
    stratum: list[Stratum]
    ok: list[bool]
    output_sha256: list[str | None]
    run: list[str]
    total: int

    def __len__(self) -> int:
        return len(self.ok)

    def floats(self, name: str) -> list[float | None]:
        """A column of seconds, missing ones None."""
        return _with_none(self.numbers[name], self.numbers[name])

    def told(self, name: str) -> list[int | None]:
        """The same; empty where no row has a value."""
        column = self.numbers[name]
        return [] if np.isnan(column).all() else self.ints(name)

    def ints(self, name: str) -> list[int | None]:
        """A column of whole numbers, missing ones None."""
        column = self.numbers[name]
        filled = np.nan_to_num(column)
        if np.abs(filled).max(initial=0.0) < 2**63:
            return _with_none(column, _shared(filled.astype(np.int64)))
        return [None if math.isnan(value) else int(value) for value in column.tolist()]


def _shared(values: NDArray[np.int64]) -> NDArray[Any]:
    """As Python's integers, equal ones the same object where few differ: token counts mostly do."""
    different, places = np.unique(values, return_inverse=True)
    if len(different) > len(values) // 2:
        return values
    return np.array(different.tolist(), dtype=object)[places]


def _with_none(column: NDArray[np.float64], values: NDArray[Any]) -> list[Any]:
    """The values as a list, None where the column has none."""
    listed: list[Any] = values.tolist()
    for place in np.flatnonzero(np.isnan(column)).tolist():
        listed[place] = None
    return listed
