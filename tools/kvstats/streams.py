"""Streams in, rounds out: the grammar `run request* server_metrics* end`, and merging shards.

Records find their run by `run_id`, so shards may be concatenated in any order. What breaks the
grammar is refused with its place.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BufferedIOBase, BytesIO
from typing import IO, cast

import msgspec
import numpy as np

from kvpipe.jsonl import decode_line
from kvpipe.process import ToolError, complain
from kvpipe.records import AnyRecord, End, Request, Run, ServerMetrics
from kvstats.blocks import blocks_of, lines_of, requests_of
from kvstats.lots import AT_ONCE, Batch, Lot
from kvstats.round import Round, RoundKey, Told

Observe = Callable[[Sequence[tuple[Lot, Run, Told]]], None]
"""Told of every batch of requests: its lots, their runs, and what they were found to be."""


class Rounds:
    """All rounds of the input, in the order in which they first appeared."""

    def __init__(
        self,
        slo: Mapping[str, float],
        observe: Observe | None = None,
        listen: Callable[[Request | End], None] | None = None,
    ) -> None:
        self._listen = listen
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
        indexes: dict[str, list[int]] = {}
        for one in requests:
            indexes.setdefault(one.run_id, []).append(one.index)
        if len(indexes) > 1:
            return False  # shards line by line: one round may have some of their indexes already
        for run_id, mine in indexes.items():
            found = self._open(run_id)
            if found is None or not found.expect_all(np.array(mine)):
                return False
        self._settle()
        for start in range(0, len(requests), AT_ONCE):
            self._add(requests[start : start + AT_ONCE])
        return True

    def _settle(self) -> None:
        """Hand over the requests that wait."""
        waiting, self._waiting = self._waiting, []
        self._add(waiting)

    def _add(self, requests: Sequence[Request]) -> None:
        """Add up requests whose place was checked."""
        if self._listen is not None:
            for one in requests:
                self._listen(one)
        found = []
        for lot in Batch(requests).lots():
            round_ = self._by_run[lot.like.run_id]
            found.append((lot, round_.streams[lot.like.run_id].run, round_.add(lot)))
        if self._observe is not None and found:
            self._observe(found)

    def _open(self, run_id: str) -> Round | None:
        """The round of a run that has begun and not ended."""
        found = self._by_run.get(run_id)
        return None if found is None or found.streams[run_id].end is not None else found

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


def read_into(rounds: Rounds, stream: IO[bytes], name: str) -> None:
    """Add every record of a stream; ToolError with file and line at the first that is refused.

    Half a line at the very end is a stream cut short, not a broken one: it is told and left out,
    and the missing `end` says the rest.
    """
    before = 0  # lines
    with _no_collection():
        for block in blocks_of(cast("BufferedIOBase", stream), name):
            requests = requests_of(block)
            if requests is None or not rounds.take(requests):
                _read_lines(rounds, block, name, before)
            before += lines_of(block)


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
def _no_collection() -> Iterator[None]:
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
    except msgspec.DecodeError:
        return False
    return True
