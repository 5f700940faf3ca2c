"""Streams in, rounds out: the grammar `run request* server_metrics* end`, and merging shards.

Records find their run by `run_id`, so shards may be concatenated in any order. What breaks the
grammar is refused with its place.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO
from typing import IO, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from kvpipe.jsonl import NOT_JSON, decode_line
from kvpipe.process import ToolError, complain
from kvpipe.records import AnyRecord, End, Request, Run, ServerMetrics
from kvstats.blocks import blocks_of, lines_of, requests_of
from kvstats.lots import AT_ONCE, Batch, Lot
from kvstats.round import Part, Round, RoundKey, Told

Indexes = Mapping[str, NDArray[Any]]
"""Of requests by run."""

Observe = Callable[[Sequence[tuple[Lot, Run, Told]]], None]
"""Told of every batch of requests: its lots, their runs, and what they were found to be."""

Listen = Callable[[Request | End], None]
"""Told of every request, and of every stream's end."""


class Rounds:
    """All rounds of the input, in the order in which they first appeared."""

    def __init__(
        self,
        slo: Mapping[str, float],
        observe: Observe | None = None,
        listen: Listen | None = None,
        keep: Callable[[Request], None] | None = None,
    ) -> None:
        self._listen = listen
        self._keep = keep  # told of requests whose answer was kept
        self._slo = slo
        self._observe = observe
        self._rounds: dict[RoundKey, Round] = {}
        self._by_run: dict[str, Round] = {}
        self._waiting: list[Request] = []

    def __iter__(self) -> Iterator[Round]:
        self._settle()
        return iter(self._rounds.values())

    def finished(self) -> Iterator[Round]:
        """The rounds, each let go when the next is asked for."""
        self._settle()
        self._by_run.clear()
        while self._rounds:
            yield self._rounds.pop(next(iter(self._rounds)))

    def __len__(self) -> int:
        return len(self._rounds)

    def add(self, record: AnyRecord) -> None:
        """Take a record; ToolError without its place if it does not belong here."""
        match record:
            case Request():
                self._round_of(record).expect(record)
                self._waiting.append(record)
                if len(self._waiting) == AT_ONCE:
                    self._settle()
            case Run():
                self._start(record)
            case ServerMetrics():
                self._round_of(record).add_server(record)
            case End():
                self._round_of(record).add_end(record)
                if self._listen is not None:
                    self._listen(record)
            case _:
                kind = record.__struct_config__.tag
                raise ToolError(
                    f"{kind}: no record of a kvload stream (run request* server_metrics* end)"
                )

    def take(self, requests: Sequence[Request]) -> bool:
        """Take many requests; False, and nothing has happened, if one of them does not belong here.

        `add` can tell which, and why.
        """
        if not self.expect(indexes_of(requests)):
            return False
        self._settle()
        for start in range(0, len(requests), AT_ONCE):
            self._add(requests[start : start + AT_ONCE])
        return True

    def expect(self, indexes: Indexes) -> bool:
        """Before requests are taken; False if a run is not open or an index was there before."""
        rounds: dict[RoundKey, list[NDArray[Any]]] = {}
        for run_id, mine in indexes.items():
            found = self._by_run.get(run_id)
            if found is None or found.streams[run_id].end is not None:
                return False
            rounds.setdefault(found.key, []).append(mine)
        every = [(self._rounds[key], np.concatenate(mine)) for key, mine in rounds.items()]
        if not all(round_.is_new(mine) for round_, mine in every):
            return False
        for round_, mine in every:
            round_.see(mine)
        return True

    # What a reading process does (`readers.py`), and what its parent does with it.

    @property
    def mergeable(self) -> bool:
        """Whether nobody wants to be told of single requests."""
        return self._observe is None and self._listen is None

    @property
    def runs(self) -> list[Run]:
        """Every run so far, in the order of their heads."""
        return [round_.streams[run_id].run for run_id, round_ in self._by_run.items()]

    def like(self) -> Rounds:
        """None yet, for the same purpose."""
        return Rounds(self._slo)

    def know(self, run_ids: Iterable[str]) -> bool:
        """Whether all of these have begun."""
        return all(run_id in self._by_run for run_id in run_ids)

    def sum_up(self, lot: Lot) -> Part:
        """Take the sums of a lot; what else there is to keep of it."""
        _, part = self._by_run[lot.like.run_id].sum_up(lot)
        return part

    def sums(self) -> list[Round]:
        """Rounds that were only summed up."""
        return list(self._rounds.values())

    def take_part(self, run_id: str, part: Part) -> None:
        """Keep what was found elsewhere."""
        self._by_run[run_id].take(part)

    def merge(self, sums: Round) -> None:
        """Take the sums that were made elsewhere."""
        self._rounds[sums.key].merge(sums)

    def largest(self) -> list[tuple[str, np.uint64]]:
        """Of runs that go on: rows with a larger hash are not wanted."""
        return [
            (run_id, round_.rows.largest)
            for run_id, round_ in self._by_run.items()
            if round_.rows.sampled and round_.streams[run_id].end is None
        ]

    def narrow(self, run_id: str, largest: np.uint64) -> None:
        """Pick no rows with a larger hash."""
        self._by_run[run_id].rows.largest = largest

    def _settle(self) -> None:
        """Hand over the requests that wait."""
        waiting, self._waiting = self._waiting, []
        self._add(waiting)

    def _add(self, requests: Sequence[Request]) -> None:
        """Add up requests whose place was checked."""
        if self._listen is not None:
            for one in requests:
                self._listen(one)
        if self._keep is not None:
            for one in requests:
                if one.output_text is not None:
                    self._keep(one)
        found = []
        for lot in Batch(requests).lots():
            round_ = self._by_run[lot.like.run_id]
            found.append((lot, round_.streams[lot.like.run_id].run, round_.add(lot)))
        if self._observe is not None and found:
            self._observe(found)

    def _start(self, run: Run) -> None:
        if run.run_id in self._by_run:
            raise ToolError(f"run: run_id {run.run_id} twice: was the same file given twice?")
        key = RoundKey.of(run)
        found = self._rounds.get(key) or Round(key, self._slo)
        self._rounds[key] = found
        found.add_run(run)
        self._by_run[run.run_id] = found

    def _round_of(self, record: Request | ServerMetrics | End) -> Round:
        found = self._by_run.get(record.run_id)
        if found is None:
            kind = str(record.__struct_config__.tag)
            raise ToolError(
                f"{kind}: run_id {record.run_id} has no `run` line before it "
                "(is the head of the stream missing?)"
            )
        if found.streams[record.run_id].end is not None:
            kind = str(record.__struct_config__.tag)
            raise ToolError(f"{kind}: run_id {record.run_id} has ended before this line")
        return found


def indexes_of(requests: Sequence[Request]) -> Indexes:
    """Of each run."""
    indexes: dict[str, list[int]] = {}
    for one in requests:
        indexes.setdefault(one.run_id, []).append(one.index)
    return {run_id: np.array(mine) for run_id, mine in indexes.items()}


def read_into(rounds: Rounds, stream: IO[bytes], name: str) -> None:
    """Add every record of a stream; ToolError with file and line at the first that is refused.

    Half a line at the very end is a stream cut short, not a broken one: it is told and left out,
    and the missing `end` says the rest.
    """
    before = 0  # lines
    with no_collection():
        for block in blocks_of(stream, name):
            before += read_block(rounds, block, name, before)


def read_block(rounds: Rounds, block: bytes, name: str, before: int) -> int:
    """Add every record of a block, with so many lines `before` it; how many lines it has."""
    requests = requests_of(block)
    if requests is None or not rounds.take(requests):
        _read_lines(rounds, block, name, before)
    return lines_of(block)


def _read_lines(rounds: Rounds, block: bytes, name: str, before: int) -> None:
    """One line after the other."""
    for number, line in enumerate(BytesIO(block), before + 1):
        if line.isspace():
            continue
        if not line.endswith(b"\n") and not _is_json(line):
            complain(f"{name}:{number}: the last line is cut short and was left out", "kvstats")
            return
        place = f"{name}:{number}"
        record = decode_line(line, place)
        try:
            rounds.add(record)
        except ToolError as error:
            raise ToolError(f"{place}: {error}", error.status) from error


@contextmanager
def no_collection() -> Iterator[None]:
    """Records hold no cycles: to look for some takes a sixth of the time."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def _is_json(line: bytes) -> bool:
    try:
        msgspec.json.decode(line)
    except NOT_JSON:
        return False
    return True
