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
from heapq import heapify, heapreplace
from sys import intern

import numpy as np
from numpy.typing import NDArray

from kvpipe.records import Request, Stratum
from kvstats.lots import Lot

LIMIT = 100_000  # DESIGN: exact per request up to 100k requests

METRIC_COLUMNS = ("ttft_s", "ttft_due_s", "tpot_s", "e2e_s", "queue_s", "second_token_s")
FACT_COLUMNS = (
    "index",
    "sent_ns",
    "end_ns",
    "prompt_tokens",
    "output_tokens",
    "cached_tokens",
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
        self._heap: list[tuple[int, int]] = []  # (-hash, slot) once the limit is reached
        self._numbers = {name: array("d") for name in (*FACT_COLUMNS, *METRIC_COLUMNS)}
        self.group: list[str | None] = []
        self.stratum: list[Stratum] = []
        self.ok: list[bool] = []
        self.output_sha256: list[str | None] = []
        self.run: list[str] = []
        self.total = 0

    def __len__(self) -> int:
        return len(self.ok)

    @property
    def sampled(self) -> bool:
        """Whether rows were left out."""
        return self.total > len(self)

    def add(self, request: Request, metrics: Mapping[str, float | None]) -> None:
        """Keep the request, or drop the one with the largest hash."""
        self.extend(Lot([request]), {name: [value] for name, value in metrics.items()})

    def extend(self, lot: Lot, metrics: Mapping[str, Sequence[float | None]]) -> None:
        """The same for several, with a column for each metric."""
        room = max(0, self._limit - self.total)
        self.total += len(lot)
        columns: dict[str, Sequence[float | None]] = {
            name: lot.column(name) for name in FACT_COLUMNS
        }
        columns |= {name: metrics[name] for name in METRIC_COLUMNS}
        if room:
            self._append(lot.requests[:room], {name: columns[name][:room] for name in columns})
        if len(lot) > room:
            self._replace(lot.requests, columns, range(room, len(lot)))

    def _append(
        self, requests: Sequence[Request], columns: Mapping[str, Sequence[float | None]]
    ) -> None:
        for name, column in columns.items():
            self._numbers[name].frombytes(_numbers(column).tobytes())
        self.group += [request.group and intern(request.group) for request in requests]
        self.stratum += [request.stratum for request in requests]
        self.ok += [request.status == "ok" for request in requests]
        self.output_sha256 += [request.output_sha256 for request in requests]
        self.run += [intern(request.run_id) for request in requests]

    def _replace(
        self,
        requests: Sequence[Request],
        columns: Mapping[str, Sequence[float | None]],
        places: Iterable[int],
    ) -> None:
        """Those with smaller hashes than the largest that is kept take its slot."""
        if not self._heap:
            indexes = enumerate(self._numbers["index"])
            self._heap = [(-self._hash(int(index)), slot) for slot, index in indexes]
            heapify(self._heap)
        taken: dict[int, int] = {}  # place by slot: one may be taken several times
        for place in places:
            rank = -self._hash(requests[place].index)
            if rank > self._heap[0][0]:
                slot = self._heap[0][1]
                heapreplace(self._heap, (rank, slot))
                taken[slot] = place
        if not taken:
            return
        slots, picked = list(taken), list(taken.values())
        for name, column in columns.items():
            kept = np.frombuffer(self._numbers[name], dtype=np.float64)
            kept[slots] = _numbers([column[place] for place in picked])
        for slot, place in taken.items():
            request = requests[place]
            self.group[slot] = request.group and intern(request.group)
            self.stratum[slot] = request.stratum
            self.ok[slot] = request.status == "ok"
            self.output_sha256[slot] = request.output_sha256
            self.run[slot] = intern(request.run_id)

    def _hash(self, index: int) -> int:
        digest = blake2b(b"%s/%d" % (self._seed, index), digest_size=8).digest()
        return int.from_bytes(digest, "big")

    def sorted(self) -> Table:
        """The rows by index."""
        order = np.argsort(np.frombuffer(self._numbers["index"]), kind="stable")
        picked = order.tolist()
        return Table(
            numbers={
                name: np.frombuffer(column)[order] if len(self) else np.empty(0)
                for name, column in self._numbers.items()
            },
            group=[self.group[i] for i in picked],
            stratum=[self.stratum[i] for i in picked],
            ok=[self.ok[i] for i in picked],
            output_sha256=[self.output_sha256[i] for i in picked],
            run=[self.run[i] for i in picked],
            total=self.total,
        )


def _numbers(column: Sequence[float | None]) -> NDArray[np.float64]:
    """A column of numbers; None becomes NaN."""
    return np.array(column, dtype=np.float64)


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

    def ints(self, name: str) -> list[int | None]:
        """A column of whole numbers, missing ones None."""
        return [None if math.isnan(value) else int(value) for value in self.numbers[name].tolist()]
