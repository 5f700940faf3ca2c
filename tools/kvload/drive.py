"""Send one round: in order, on time, and with nothing else on the event loop.

The loop does three things while a round runs: it starts requests when they are due, stamps what
comes in (client), and hands finished exchanges to the writer's thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import time
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from kvload.bodies import Prepared
from kvload.client import Client, Exchange
from kvload.drafts import Began, Ended, Served
from kvload.pacing import Pace
from kvload.quantiles import quantile

LAG_TICK_S = 0.02
TICK_NS = 1_000_000
HOPELESS_FAILURES = 5  # connections refused in a row: nobody is there any more

now_ns = time.perf_counter_ns

Begin = Callable[[], Awaitable[int]]
Observe = Callable[[], Awaitable[Served | None]]


class Sink(Protocol):
    """Where events of requests go; neither call may block."""

    def put(self, item: Began | Ended, /) -> None:
        """Take an event."""

    def tick(self, at_ns: int, /) -> None:
        """Whatever happened before was put before."""

    @property
    def ended(self) -> bool:
        """Whether nothing that is put will be written any more."""


@dataclass(slots=True)
class Outcome:
    """What the driver saw of a round. `ran_out`: the plan ended before its time did."""

    stopped: str | None = None
    ran_out: bool = False
    begun: list[int] = field(default_factory=list)
    last_end_ns: int | None = None
    cpu_s: float = 0.0
    lag_p99_s: float | None = None
    lag_max_s: float | None = None
    opened: int = 0


class Gate:
    """A request that others wait for: open once it has ended."""

    __slots__ = ("_open", "ended_ns")

    def __init__(self) -> None:
        self._open = asyncio.Event()
        self.ended_ns = 0

    def open(self, ended_ns: int) -> None:
        """It has ended, or will never be sent."""
        self.ended_ns = ended_ns
        self._open.set()

    async def passed(self) -> int:
        """Wait until it is open; when it was opened."""
        await self._open.wait()
        return self.ended_ns


class Round:
    """One round in flight, or one worker's share of it.

    `awaits`: requests of other workers that some of ours wait for; `passed` says that one has
    ended. `on_gate` is called with each ended request of ours that somebody may wait for.
    """

    def __init__(
        self,
        client: Client,
        sink: Sink,
        pace: Pace,
        observe: Observe | None = None,
        *,
        awaits: Collection[int] = (),
        on_gate: Callable[[int, int], None] | None = None,
    ) -> None:
        self._client = client
        self._sink = sink
        self._pace = pace
        self._observe = observe
        self._on_gate = on_gate
        self._lag_s: list[float] = []
        self._until_ns: int | None = None
        self._gates: dict[int, Gate] = {index: Gate() for index in awaits}
        self._slots = None if pace.slots is None else asyncio.Semaphore(pace.slots)
        self._freed_ns = 0
        self._refused = 0
        self._stop: str | None = None
        self._dispatcher: asyncio.Task[None] | None = None
        self._flying: set[asyncio.Task[None]] = set()
        self.outcome = Outcome()

    def stop(self, reason: str) -> None:
        """Send nothing more and give up what is in flight; its records say `cancelled`."""
        if self._stop is None:
            self._stop = reason
            if self._dispatcher is not None:
                self._dispatcher.cancel()
            for task in self._flying:
                task.cancel()

    def passed(self, index: int, at_ns: int) -> None:
        """Another worker's request has ended."""
        if index in self._gates:
            self._gates[index].open(at_ns)

    async def run(self, prepared: Sequence[Prepared], begin: Begin | None = None) -> Outcome:
        """Send every request and wait for every answer.

        The schedule begins at once, or when `begin` says, which is asked when all is prepared.
        """
        known = {item.planned.index for item in prepared}
        awaited = {item.planned.after for item in prepared}
        self._gates |= {after: Gate() for after in awaited if after in known}
        cpu = time.process_time()
        lag = asyncio.create_task(self._watch_loop())
        dispatch = self._closed if self._pace.due_ns is None else self._open
        with garbage_kept():
            origin_ns = now_ns() if begin is None else await begin()
            self._dispatcher = asyncio.create_task(dispatch(prepared, origin_ns))
            await asyncio.wait([self._dispatcher])
            while self._flying:
                await asyncio.wait(self._flying)
        lag.cancel()
        self.outcome.cpu_s = time.process_time() - cpu
        self.outcome.stopped = self._stop
        self.outcome.lag_p99_s = quantile(self._lag_s, 0.99)
        self.outcome.lag_max_s = max(self._lag_s, default=None)
        dispatcher = self._dispatcher
        if not dispatcher.cancelled() and (error := dispatcher.exception()) is not None:
            raise error
        return self.outcome

    async def _closed(self, prepared: Sequence[Prepared], origin_ns: int) -> None:
        """In the plan's order: what is not ready holds up what stands behind it."""
        pace, slots = self._pace, self._slots
        if pace.until_ns is not None:
            self._until_ns = origin_ns + pace.until_ns
        for number, item in enumerate(prepared):
            if pace.stagger_ns and pace.slots is not None and number < pace.slots:
                await sleep_until(origin_ns + pace.first_ns + number * pace.stagger_ns)
            if await self._free(item) is None:
                return
            if slots is not None:
                await slots.acquire()
            if self._stop is not None or self._left_s() == 0:
                return
            self._start(self._one(item, None, None))
        self.outcome.ran_out = self._until_ns is not None

    async def _open(self, prepared: Sequence[Prepared], origin_ns: int) -> None:
        """Each at its time; what has to wait then waits alone."""
        assert self._pace.due_ns is not None
        for due_ns, item in in_time(self._pace.due_ns, prepared):
            await sleep_until(origin_ns + due_ns)
            if self._stop is not None:
                return
            self._start(self._when_free(item, origin_ns + due_ns))

    async def _when_free(self, item: Prepared, due_ns: int) -> None:
        """A request that is due: what it waits for is the load's lateness, and not the client's."""
        free_ns = await self._free(item) or 0
        if item.planned.turn is not None:
            due_ns = max(due_ns, free_ns)  # nobody types the next turn before he has read this one
        ready_ns = max(due_ns, free_ns)
        if self._slots is not None:
            full = self._slots.locked()
            await self._slots.acquire()
            ready_ns = max(ready_ns, self._freed_ns) if full else ready_ns
        await self._one(item, due_ns, ready_ns)

    async def _free(self, item: Prepared) -> int | None:
        """Wait for the request that must have ended, and for think time; since when it is so.

        None: it was not so before the round's time was over.
        """
        after = item.planned.after
        if after is None or after not in self._gates:
            return 0
        try:
            free_ns = await asyncio.wait_for(self._gates[after].passed(), self._left_s())
        except TimeoutError:
            return None
        if self._pace.think_ns and item.planned.turn is not None:
            free_ns += self._pace.think_ns
            await sleep_until(free_ns)
        return free_ns

    def _left_s(self) -> float | None:
        """Seconds until nothing may be begun any more; null: there is no end."""
        return None if self._until_ns is None else max(0, self._until_ns - now_ns()) / 1e9

    def _start(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._flying.add(task)
        task.add_done_callback(self._flying.discard)

    async def _one(self, item: Prepared, due_ns: int | None, ready_ns: int | None) -> None:
        """Send one request; a closed loop's is due when its task begins."""
        index = item.planned.index
        try:
            start_ns = now_ns()
            self.outcome.begun.append(index)
            self._sink.put(Began(prepared=item, at_ns=start_ns))
            exchange = await self._client.send(item.body, item.request_id)
            self.outcome.last_end_ns = max(self.outcome.last_end_ns or 0, exchange.end_ns)
            served = None
            if self._observe is not None and self._stop is None:
                with contextlib.suppress(asyncio.CancelledError):  # a stop must not cost the record
                    served = await self._observe()
            self._sink.put(
                Ended(
                    prepared=item,
                    exchange=exchange,
                    scheduled_ns=start_ns if due_ns is None else due_ns,
                    ready_ns=start_ns if ready_ns is None else ready_ns,
                    start_ns=start_ns,
                    served=served,
                )
            )
            self._judge(exchange)
        finally:
            self._freed_ns = now_ns()
            if index in self._gates:
                self._gates[index].open(self._freed_ns)
            if self._on_gate is not None:
                self._on_gate(index, self._freed_ns)
            if self._slots is not None:
                self._slots.release()

    def _judge(self, exchange: Exchange) -> None:
        """Stop where going on makes no sense: nobody listens, or nobody reads our records."""
        if exchange.error_kind != "connect_error":
            self._refused = 0
        elif exchange.attempts or not self._client.busy:  # a server that serves others is there
            self._refused += 1
        if self._refused >= HOPELESS_FAILURES:
            self.stop(f"{self._refused} connections failed in a row: {exchange.error}")
        if self._sink.ended:
            self.stop("the records can no longer be written")

    async def _watch_loop(self) -> None:
        """How late the loop wakes a sleeper: its own lag, sampled every 20 ms."""
        while True:
            asked = time.perf_counter() + LAG_TICK_S
            await asyncio.sleep(LAG_TICK_S)
            self._lag_s.append(max(0.0, time.perf_counter() - asked))
            self._sink.tick(now_ns())


def in_time(due_ns: Sequence[int], prepared: Sequence[Prepared]) -> list[tuple[int, Prepared]]:
    """Requests as they are due; the plan's order where that is at the same time."""
    return sorted(zip(due_ns, prepared, strict=True), key=lambda pair: pair[0])


async def sleep_until(due_ns: int) -> None:
    """Sleep to an absolute instant of perf_counter_ns; the last stretch by yielding.

    The loop's selector rounds a wait up to the next millisecond: it is asked to wake one early.
    """
    while (left_ns := due_ns - now_ns()) > 0:
        await asyncio.sleep(max(0, left_ns - TICK_NS) / 1e9)


@contextlib.contextmanager
def garbage_kept() -> Iterator[None]:
    """No collector pauses while stamps are taken: what exists is frozen, the rest waits."""
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()
