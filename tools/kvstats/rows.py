"""Facts per request, in columns: exact up to a limit, then a sample that order cannot change.

Beyond the limit the rows with the smallest hashes stay. The hash is of what all rounds of a repeat
share (experiment, plan, repeat) and the index, so that cold and hit keep the *same* requests and
their pairs survive the sampling.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from sys import intern

import numpy as np
from numpy.typing import NDArray

from kvpipe.records import Request, Stratum
from kvstats.lots import Lot

LIMIT = 100_000  # DESIGN: exact per request up to 100k requests
SPARE = 0.2  # of the limit: rows that may wait to be dropped, so that it is done for many at once

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


class Rows:
    """Columns of equal length; a missing number is NaN (whole numbers are exact below 2**53)."""

    def __init__(self, seed: str, limit: int = LIMIT) -> None:
        self._seed = seed.encode()
        self._limit = limit
        self._hashes = array("Q")  # of the rows; filled once there are more than may stay
        self._largest = np.uint64(2**64 - 1)  # hashes above it are out
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
        self.extend(Lot([request]), {name: [value] for name, value in metrics.items()})

    def extend(self, lot: Lot, metrics: Mapping[str, Sequence[float | None]]) -> None:
        """The same for several, with a column for each metric."""
        self.total += len(lot)
        if self.total <= self._limit:
            self._append(lot, metrics)
            return
        if not self._hashes:
            self._hashes.frombytes(self._hashes_of(map(int, self._numbers["index"])).tobytes())
        hashes = self._hashes_of(lot.column("index"))
        near = np.flatnonzero(hashes <= self._largest).tolist()
        if not near:
            return
        self._hashes.frombytes(hashes[near].tobytes())
        picked = {name: [column[place] for place in near] for name, column in metrics.items()}
        self._append(Lot([lot.requests[place] for place in near]), picked)
        if len(self.ok) > self._limit * (1 + SPARE):
            self._drop()

    def _append(self, lot: Lot, metrics: Mapping[str, Sequence[float | None]]) -> None:
        for name, column in self._numbers.items():
            values = metrics[name] if name in METRIC_COLUMNS else lot.column(name)
            column.frombytes(np.array(values, dtype=np.float64).tobytes())  # None becomes NaN
        self.group += [group and intern(group) for group in lot.column("group")]
        self.output_sha256 += lot.column("output_sha256")
        self.stratum += [lot.stratum] * len(lot)
        self.ok += [lot.ok] * len(lot)
        self.run += [intern(lot.like.run_id)] * len(lot)

    def _hashes_of(self, indexes: Iterable[int]) -> NDArray[np.uint64]:
        seed = self._seed
        digests = [blake2b(b"%s/%d" % (seed, one), digest_size=8).digest() for one in indexes]
        return np.frombuffer(b"".join(digests), dtype=">u8").astype(np.uint64)

    def _drop(self) -> None:
        """Those with the largest hashes, down to the limit."""
        if len(self.ok) <= self._limit:
            return
        hashes = np.frombuffer(self._hashes, dtype=np.uint64)
        order = np.argpartition(hashes, self._limit - 1)[: self._limit]
        self._largest = hashes[order].max()
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
            self._hashes = array("Q", [self._hashes[i] for i in order] if self._hashes else [])
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
        return [None if math.isnan(value) else value for value in self.numbers[name].tolist()]

    def told(self, name: str) -> list[int | None]:
        """The same; empty where no row has a value."""
        column = self.numbers[name]
        return [] if np.isnan(column).all() else self.ints(name)

    def ints(self, name: str) -> list[int | None]:
        """A column of whole numbers, missing ones None."""
        return [None if math.isnan(value) else int(value) for value in self.numbers[name].tolist()]
