"""Facts per request, in columns: exact up to a limit, then a sample that order cannot change.

Beyond the limit the rows with the smallest hashes stay. The hash is of what all rounds of a repeat
share (experiment, plan, repeat) and the index, so that cold and hit keep the *same* requests and
their pairs survive the sampling.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from heapq import heapify, heapreplace

import numpy as np
from numpy.typing import NDArray

from kvpipe.records import Request, Stratum

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
        self.total += 1
        if self.total <= self._limit:
            self._append(request, metrics)
            return
        if not self._heap:
            self._heap = [
                (-self._hash(int(index)), slot) for slot, index in enumerate(self._numbers["index"])
            ]
            heapify(self._heap)
        rank = -self._hash(request.index)
        if rank > self._heap[0][0]:
            _, slot = heapreplace(self._heap, (rank, self._heap[0][1]))
            self._overwrite(slot, request, metrics)

    def _hash(self, index: int) -> int:
        digest = blake2b(b"%s/%d" % (self._seed, index), digest_size=8).digest()
        return int.from_bytes(digest, "big")

    def _append(self, request: Request, metrics: Mapping[str, float | None]) -> None:
        for name, value in _numbers_of(request, metrics):
            self._numbers[name].append(value)
        self.group.append(request.group)
        self.stratum.append(request.stratum)
        self.ok.append(request.status == "ok")
        self.output_sha256.append(request.output_sha256)
        self.run.append(request.run_id)

    def _overwrite(self, slot: int, request: Request, metrics: Mapping[str, float | None]) -> None:
        for name, value in _numbers_of(request, metrics):
            self._numbers[name][slot] = value
        self.group[slot] = request.group
        self.stratum[slot] = request.stratum
        self.ok[slot] = request.status == "ok"
        self.output_sha256[slot] = request.output_sha256
        self.run[slot] = request.run_id

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


def _numbers_of(
    request: Request, metrics: Mapping[str, float | None]
) -> Iterator[tuple[str, float]]:
    for name in FACT_COLUMNS:
        value = getattr(request, name)
        yield name, math.nan if value is None else value
    for name in METRIC_COLUMNS:
        number = metrics[name]
        yield name, math.nan if number is None else number


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
