"""Reading a long stream with every processor: others decode and add up, this one keeps and judges.

Blocks are dealt out in turn and answered in turn. A reading process adds the sums of its blocks up
by itself, and hands back at once what has to be in one place: the indexes, which show what came
twice, the rows and the values. All of this is the same whichever lots are taken together and in
which order (`Round.merge`, `Round.take`), so the result is that of one process to the byte.

A block in which anything is out of the common (heads and feet of streams, what is refused) comes
back untouched, and is read here, line by line, when it is its turn: every complaint names the line
that one process would have named.
"""

from __future__ import annotations

import ctypes
import gc
import mmap
import os
import pickle
import signal
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe
from types import TracebackType
from typing import IO, Any, NoReturn, Self

from kvpipe.process import ToolError
from kvpipe.records import Run
from kvstats import blocks
from kvstats.blocks import blocks_of, requests_of
from kvstats.lots import AT_ONCE, Batch
from kvstats.round import Part, Round
from kvstats.streams import Indexes, Rounds, indexes_of, no_collection, read_block

# Bytes that are read by one process: some 2,500 requests, in a few hundredths of a second. What it
# holds by then the others hold with it as long as they live: 16 MB cost a million requests 15 MB.
ALONE = 4 << 20
MOST = 4  # reading processes; with more of them this one is what they wait for
BUSY = 0.75  # of the machine's processors, by the load average of the last minute
AHEAD = 4  # blocks that one has or waits for: where others want the processor, turns are late


@dataclass(frozen=True, slots=True)
class Task:
    """A block to read, and what has become known since the last one."""

    slot: int
    size: int  # bytes
    runs: Sequence[Run]
    largest: Sequence[tuple[str, Any]]  # of each run: hashes above it are not wanted (`Rows`)


@dataclass(frozen=True, slots=True)
class Found:
    """What is in a block of requests; their sums stay where they were made."""

    requests: int
    indexes: Indexes
    parts: Sequence[tuple[str, Part]]  # by run


def processes() -> int:
    """How many may read beside this one: none where there is but one processor for all.

    Nor where others want the processors: several processes do a quarter more work in all, and are
    given no more time than one if the kernel divides it among sessions.
    """
    if not hasattr(os, "sched_getaffinity"):
        return 0
    mine = len(os.sched_getaffinity(0))
    busy = os.getloadavg()[0] / (os.cpu_count() or 1)
    return min(mine, MOST) if mine > 1 and busy < BUSY else 0


class Reading:
    """Reads streams into rounds, alone until that takes long; to be left before they are used."""

    def __init__(self, rounds: Rounds, readers: int | None = None) -> None:
        self._rounds = rounds
        self._wanted = processes() if readers is None else readers
        if not rounds.mergeable:
            self._wanted = 0
        self._alone = ALONE
        self._readers: list[_Reader] = []
        self._turn = 0
        self._asked: deque[tuple[_Reader, int, int]] = deque()  # who, slot and size; oldest first
        self._slots = mmap.mmap(-1, 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None
    ) -> None:
        try:
            for reader in self._readers if kind is None else []:
                for round_ in reader.sums():
                    self._rounds.merge(round_)
        finally:
            for reader in self._readers:
                reader.end()
            self._readers.clear()
            self._slots.close()
            gc.unfreeze()
        self.give_back()

    def give_back(self) -> None:
        """Let the system have what was freed: glibc keeps it, and a long stream leaves 40 MB."""
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if self._alone < 0 else None
        if trim is not None:
            trim(0)

    def read(self, stream: IO[bytes], name: str) -> None:
        """Add every record of a stream, as `streams.read_into` does."""
        before = 0  # lines
        with no_collection():
            for block in blocks_of(stream, name):
                self._alone -= len(block)
                if self._wanted and not self._readers and self._alone < 0:
                    self._start()
                if self._readers and len(block) <= _slot_bytes():
                    if len(self._asked) == AHEAD * len(self._readers):
                        before += self._answer(name, before)
                    self._ask(block)
                    continue
                before += self._answers(name, before)
                before += read_block(self._rounds, block, name, before)
            self._answers(name, before)

    def _start(self) -> None:
        self._slots.close()
        self._slots = mmap.mmap(-1, self._wanted * AHEAD * _slot_bytes())
        gc.freeze()  # pages that nobody touches stay shared
        for _ in range(self._wanted):
            self._readers.append(_Reader(self._rounds, self._slots, self._readers))

    def _ask(self, block: bytes) -> None:
        """Deal a block to whose turn it is."""
        place = self._turn % (AHEAD * len(self._readers))
        self._turn += 1
        reader = self._readers[place % len(self._readers)]
        start = place * _slot_bytes()
        self._slots[start : start + len(block)] = block
        reader.ask(place, len(block))
        self._asked.append((reader, place, len(block)))

    def _answers(self, name: str, before: int) -> int:
        """Take all that is asked for; how many lines it was."""
        lines = 0
        while self._asked:
            lines += self._answer(name, before + lines)
        return lines

    def _answer(self, name: str, before: int) -> int:
        """Take the oldest block that was dealt; how many lines it has."""
        reader, place, size = self._asked.popleft()
        start = place * _slot_bytes()
        found = reader.answer(start + size)
        if found is not None and self._rounds.expect(found.indexes):
            for run_id, part in found.parts:
                self._rounds.take_part(run_id, part)
            return found.requests
        lines = read_block(self._rounds, self._slots[start : start + size], name, before)
        if found is not None:
            raise RuntimeError(f"{name}: what is wrong before line {before + lines} went unseen")
        return lines


def _slot_bytes() -> int:
    """Room for a block: what was left of the one before it, and as much again."""
    return 2 * blocks.BLOCK


class _Reader:
    """A reading process as its parent sees it."""

    def __init__(self, rounds: Rounds, slots: mmap.mmap, sisters: Sequence[_Reader]) -> None:
        self._rounds = rounds
        self._slots = slots
        self._told = 0  # of the runs
        self._pipe, theirs = Pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        with _undisturbed():
            self.pid = os.fork()
            if self.pid == 0:
                for end in (self._pipe, *(sister._pipe for sister in sisters)):
                    end.close()  # else it would not see that its parent is gone
                _live(theirs, slots, rounds)
        theirs.close()

    def ask(self, slot: int, size: int) -> None:
        """Have a block read."""
        runs = self._rounds.runs[self._told :]
        self._told += len(runs)
        with self._alive():
            self._pipe.send(Task(slot, size, runs, self._rounds.largest()))

    def answer(self, behind: int) -> Found | None:
        """What the oldest block holds, which ends there; None if it is for the parent to read."""
        with self._alive():
            size: int = self._pipe.recv()
            data = self._slots[behind : behind + size] if size else self._pipe.recv_bytes()
        found: Found | None = pickle.loads(data)
        return found

    def sums(self) -> Iterator[Round]:
        """Its rounds, with the sums of all that it answered for."""
        with self._alive():
            self._pipe.send(None)
            found: list[Round] = pickle.loads(self._pipe.recv_bytes())
        yield from found

    def end(self) -> None:
        """It has nothing left to do."""
        self._pipe.close()
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)

    @contextmanager
    def _alive(self) -> Iterator[None]:
        try:
            yield
        except (EOFError, OSError) as error:
            raise ToolError(
                f"reading process {self.pid} is gone: was it killed, or is memory short? "
                "(`taskset -c 0 kvstats` reads with one process)"
            ) from error


@contextmanager
def _undisturbed() -> Iterator[None]:
    """No signal between fork and the child's own answer to signals."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _live(pipe: Connection, slots: mmap.mmap, parents: Rounds) -> NoReturn:
    """The life of a reading process. Signals are its parent's, and it does not outlive it."""
    try:
        for signum in (signal.SIGINT, signal.SIGTERM):
            signal.signal(signum, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})
        gc.disable()
        _work(pipe, slots, parents.like())
    except (EOFError, BrokenPipeError, ConnectionResetError):
        os._exit(0)  # the parent is gone
    finally:
        if sys.exc_info()[0] is not None:
            sys.excepthook(*sys.exc_info())
        os._exit(1)  # the parent has what it wants, or sees that there is nothing to come


def _work(pipe: Connection, slots: mmap.mmap, rounds: Rounds) -> None:
    while True:
        task: Task | None = pipe.recv()
        if task is None:
            pipe.send_bytes(pickle.dumps(rounds.sums(), 5))
            return
        for run in task.runs:
            rounds.add(run)
        for run_id, largest in task.largest:
            rounds.narrow(run_id, largest)
        start = task.slot * _slot_bytes()
        stop = start + task.size
        found = pickle.dumps(_found_in(slots[start:stop], rounds), 5)
        if stop + len(found) > start + _slot_bytes():
            pipe.send(0)
            pipe.send_bytes(found)
        else:  # behind the block: in the pipe there is room for one answer, and for no second
            slots[stop : stop + len(found)] = found
            pipe.send(len(found))


def _found_in(block: bytes, rounds: Rounds) -> Found | None:
    requests = requests_of(block)
    if requests is None or any(one.output_text is not None for one in requests):
        return None  # answers are kept in one place
    indexes = indexes_of(requests)
    if not rounds.know(indexes):
        return None
    parts = [
        (lot.like.run_id, rounds.sum_up(lot))
        for start in range(0, len(requests), AT_ONCE)
        for lot in Batch(requests[start : start + AT_ONCE]).lots()
    ]
    return Found(len(requests), indexes, parts)
