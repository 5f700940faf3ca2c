"""Streams in, rounds out: the grammar `run request* server_metrics* end`, and merging shards.

Records find their run by `run_id`, so shards may be concatenated in any order. What breaks the
grammar is refused with its place.
"""

from __future__ import annotations

import gc
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import msgspec

from kvpipe.jsonl import decode_line
from kvpipe.process import ToolError, complain
from kvpipe.records import AnyRecord, End, Request, Run, ServerMetrics
from kvstats.round import Observe, Round, RoundKey

AT_ONCE = 256  # requests of all rounds together that wait to be added up: some 1 MB


class Rounds:
    """All rounds of the input, in the order in which they first appeared."""

    def __init__(self, slo: Mapping[str, float], observe: Observe | None = None) -> None:
        self._slo = slo
        self._observe = observe
        self._rounds: dict[RoundKey, Round] = {}
        self._by_run: dict[str, Round] = {}
        self._waiting: dict[str, list[Request]] = {}  # by run
        self._room = self._at_once = 1 if observe else AT_ONCE  # it is told in input order

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
                self._take(record)
            case Run():
                self._start(record)
            case ServerMetrics():
                self._round_of(record).add_server(record)
            case End():
                self._round_of(record).add_end(record)
            case _:
                kind = record.__struct_config__.tag
                raise ToolError(
                    f"{kind}: no record of a kvload stream (run request* server_metrics* end)"
                )

    def _take(self, request: Request) -> None:
        self._waiting.setdefault(request.run_id, []).append(request)
        self._room -= 1
        if not self._room:
            self._settle()

    def _settle(self) -> None:
        """Hand over the requests that wait."""
        for run_id, requests in self._waiting.items():
            self._by_run[run_id].add_requests(requests)
        self._waiting.clear()
        self._room = self._at_once

    def _start(self, run: Run) -> None:
        if run.run_id in self._by_run:
            raise ToolError(f"run: run_id {run.run_id} twice: was the same file given twice?")
        key = RoundKey.of(run)
        found = self._rounds.get(key) or Round(key, self._slo, self._observe)
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


def read_into(rounds: Rounds, stream: Iterable[bytes], name: str) -> None:
    """Add every record of a stream; ToolError with file and line at the first that is refused.

    Half a line at the very end is a stream cut short, not a broken one: it is told and left out,
    and the missing `end` says the rest.
    """
    with _no_collection():
        for number, line in enumerate(_lines(stream, name), 1):
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


def _lines(stream: Iterable[bytes], name: str) -> Iterator[bytes]:
    """The lines; compressed data that breaks off is a stream cut short."""
    try:
        yield from stream
    except EOFError:
        complain(f"{name}: the compressed data is cut short", "kvstats")
    except zlib.error as error:
        raise ToolError(f"{name}: broken compressed data: {error}") from error


def _is_json(line: bytes) -> bool:
    try:
        msgspec.json.decode(line)
    except msgspec.DecodeError:
        return False
    return True
