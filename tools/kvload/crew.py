"""Several processes that send one round: the parent's side.

Workers are forked before any loop or thread exists. They share the parent's clock (CLOCK_MONOTONIC
is one for all processes of a host), so their stamps need no translation, and follow slices of one
schedule.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe
from typing import NoReturn

from kvload.collector import Collector
from kvload.drafts import RoundFacts
from kvload.drive import Outcome, now_ns
from kvload.job import Job
from kvload.ledger import Ledger
from kvload.messages import Go, Passed, Prepare, Ready, Stop
from kvload.slices import Slice, slices
from kvload.stopping import Stopping
from kvload.worker import Worker
from kvpipe.process import ToolError, UsageError

START_NS = 50_000_000  # from the order to begin to the beginning, so that it reaches everybody
PATIENCE_S = 5.0


@dataclass(slots=True, kw_only=True)
class Hand:
    """One worker as its parent sees it. `lost`: how it ended, once it has."""

    number: int
    pid: int
    control: Connection
    events: Connection
    ready: asyncio.Event | None = None
    lost: str | None = None


class Crew:
    """Forks `size` workers at once; rounds are sent by all of them together."""

    def __init__(self, size: int) -> None:
        if not hasattr(os, "fork"):
            raise UsageError("--workers needs fork(), which this system does not have")
        self._reason: str | None = None
        self._burying = threading.Lock()
        self._shares: list[Slice] = []
        self._hands: list[Hand] = []
        gc.freeze()  # pages that the collector does not touch stay shared
        for number in range(1, size + 1):
            self._hands.append(self._forked(number))

    def _forked(self, number: int) -> Hand:
        ours, theirs = Pipe()
        events, posting = Pipe(duplex=False)
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid == 0:
            for end in (ours, events, *(e for h in self._hands for e in (h.control, h.events))):
                end.close()  # else a worker would keep its sisters' pipes open
            _live(theirs, posting)
        theirs.close()
        posting.close()
        return Hand(number=number, pid=pid, control=ours, events=events)

    async def ready(self, job: Job) -> None:
        """Deal out the requests and have connections opened; ToolError if a worker is gone."""
        self._reason = None
        self._shares = slices(job.prepared, job.pace, len(self._hands))
        loop = asyncio.get_running_loop()
        for hand, share in zip(self._hands, self._shares, strict=True):
            hand.ready = asyncio.Event()
            loop.add_reader(hand.control.fileno(), self._on_answer, hand)
            order = Prepare(
                url=job.url,
                api=job.api,
                access=job.access,
                share=share,
                connections=min(len(share.prepared), share.pace.slots or job.connections),
            )
            await asyncio.to_thread(self._tell, hand, order)
        for hand in self._hands:
            assert hand.ready is not None
            await hand.ready.wait()
            if hand.lost is not None:
                raise ToolError(hand.lost)

    async def send(
        self, job: Job, facts: RoundFacts, ledger: Ledger, stopping: Stopping
    ) -> Outcome:
        """Send the round that was made ready."""
        cpu = time.process_time()
        loop = asyncio.get_running_loop()
        collector = Collector(
            [hand.events for hand in self._hands],
            {item.planned.index: item for item in job.prepared},
            facts,
            ledger,
            lost=lambda place: self._how(self._hands[place]),
            stop=lambda reason: loop.call_soon_threadsafe(self.stop, reason),
        )
        with ThreadPoolExecutor(1, "collector") as thread, self._told_of(stopping):
            go = Go(facts=facts, at_ns=now_ns() + START_NS)
            for hand in self._hands:
                self._tell(hand, go)
            work = loop.run_in_executor(thread, collector.run)
            try:
                outcomes = await work
            except BaseException:
                self._kill()  # nobody reads what they post
                raise
        merged = _merged(outcomes, self._reason)
        merged.cpu_s += time.process_time() - cpu
        return merged

    def stop(self, reason: str) -> None:
        """Have all workers send nothing more and give up what is in flight."""
        if self._reason is None:
            self._reason = reason
            for hand in self._hands:
                self._tell(hand, Stop(reason=reason))

    def close(self) -> None:
        """Let the workers end, and see to it that they do."""
        for hand in self._hands:
            hand.control.close()
            hand.events.close()
        deadline = time.monotonic() + PATIENCE_S
        for hand in self._hands:
            while hand.lost is None and time.monotonic() < deadline:
                if _reaped(hand.pid) is not None:
                    hand.lost = "closed"
                else:
                    time.sleep(0.005)
        self._kill()

    @contextlib.contextmanager
    def _told_of(self, stopping: Stopping) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        with stopping.while_sending(self.stop):
            try:
                yield
            finally:
                for hand in self._hands:
                    loop.remove_reader(hand.control.fileno())

    def _on_answer(self, hand: Hand) -> None:
        try:
            answer = hand.control.recv()
        except (EOFError, OSError):
            asyncio.get_running_loop().remove_reader(hand.control.fileno())
            self._how(hand)
            if hand.ready is not None:
                hand.ready.set()
            return
        if isinstance(answer, Ready) and hand.ready is not None:
            hand.ready.set()
        elif isinstance(answer, Passed):
            for other, share in zip(self._hands, self._shares, strict=True):
                if answer.index in share.awaits:
                    self._tell(other, answer)

    def _tell(self, hand: Hand, order: object) -> None:
        with contextlib.suppress(OSError):  # it is gone: its events say so
            hand.control.send(order)

    def _how(self, hand: Hand) -> str:
        """How a worker ended whose pipe is closed, in words."""
        deadline = time.monotonic() + PATIENCE_S
        with self._burying:  # the collector's thread may ask at the same time
            while hand.lost is None:
                status = _reaped(hand.pid)
                if status is None and time.monotonic() < deadline:
                    time.sleep(0.005)
                    continue
                hand.lost = f"worker {hand.number} of {len(self._hands)} {_ended(status)}"
            return hand.lost

    def _kill(self) -> None:
        for hand in self._hands:
            if hand.lost is None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(hand.pid, signal.SIGKILL)
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(hand.pid, 0)
                hand.lost = f"worker {hand.number} was no longer needed"


def _live(control: Connection, events: Connection) -> NoReturn:
    """The forked process."""
    status = 1
    try:
        for signum in (signal.SIGINT, signal.SIGTERM):
            signal.signal(signum, signal.SIG_IGN)
        asyncio.run(Worker(control, events).run())
        status = 0
    finally:
        os._exit(status)


def _reaped(pid: int) -> int | None:
    """Wait status of a child that has ended; null: it has not."""
    try:
        found, status = os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return 0
    return status if found else None


def _ended(status: int | None) -> str:
    if status is None:
        return "closed its pipe"
    code = os.waitstatus_to_exitcode(status)
    return f"was killed ({signal.Signals(-code).name})" if code < 0 else f"ended (status {code})"


def _merged(outcomes: list[Outcome], reason: str | None) -> Outcome:
    """What all workers saw: the worst lag, the sum of the work."""
    stopped = reason or next((one.stopped for one in outcomes if one.stopped), None)
    return Outcome(
        stopped=stopped,
        ran_out=bool(outcomes) and all(one.ran_out for one in outcomes),
        begun=[index for one in outcomes for index in one.begun],
        last_end_ns=max((one.last_end_ns for one in outcomes if one.last_end_ns), default=None),
        cpu_s=sum(one.cpu_s for one in outcomes),
        lag_p99_s=max((one.lag_p99_s for one in outcomes if one.lag_p99_s), default=None),
        lag_max_s=max((one.lag_max_s for one in outcomes if one.lag_max_s), default=None),
        opened=sum(one.opened for one in outcomes),
    )
