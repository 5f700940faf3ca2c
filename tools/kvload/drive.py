"""Send one round: in order, on time, and with nothing else on the event loop.

The loop does three things while a round runs: it starts requests when they are due, stamps what
comes in (client), and hands finished exchanges to the writer's thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field

from kvload.bodies import Prepared
from kvload.client import Client, Exchange
from kvload.writer import Began, Ended, Served, Writer
from kvpipe.records import Arrival

LAG_TICK_S = 0.02
TICK_NS = 1_000_000
HOPELESS_FAILURES = 5  # connections refused in a row: nobody is there any more

Observe = Callable[[], Awaitable[Served | None]]


@dataclass(slots=True)
class Outcome:
    """What the driver saw of a round."""

    stopped: str | None = None
    first_due_ns: int | None = None
    last_end_ns: int | None = None
    cpu_s: float = 0.0
    loop_lag_s: list[float] = field(default_factory=list)


class Round:
    """One round in flight."""

    def __init__(
        self,
        client: Client,
        writer: Writer,
        arrival: Arrival,
        due_s: Sequence[float] | None,
        observe: Observe | None,
    ) -> None:
        self._client = client
        self._writer = writer
        self._arrival = arrival
        self._due_s = due_s
        self._observe = observe
        self._ended: dict[int, asyncio.Event] = {}
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

    async def run(self, prepared: Sequence[Prepared]) -> Outcome:
        """Send every request and wait for every answer."""
        self._ended = {item.planned.index: asyncio.Event() for item in prepared}
        cpu = time.process_time()
        lag = asyncio.create_task(self._watch_loop())
        with garbage_kept():
            origin = time.perf_counter_ns()
            self.outcome.first_due_ns = origin
            self._dispatcher = asyncio.create_task(self._dispatch(prepared, origin))
            await asyncio.wait([self._dispatcher])
            while self._flying:
                await asyncio.wait(self._flying)
        lag.cancel()
        self.outcome.cpu_s = time.process_time() - cpu
        self.outcome.stopped = self._stop
        dispatcher = self._dispatcher
        if not dispatcher.cancelled() and (error := dispatcher.exception()) is not None:
            raise error
        return self.outcome

    async def _dispatch(self, prepared: Sequence[Prepared], origin_ns: int) -> None:
        limit = self._arrival.concurrency
        slots = asyncio.Semaphore(limit) if limit is not None else None
        for number, item in enumerate(prepared):
            due_ns = None
            if self._due_s is not None:
                due_ns = origin_ns + round(self._due_s[number] * 1e9)
                await sleep_until(due_ns)
            after = item.planned.after
            if after is not None and after in self._ended:
                await self._ended[after].wait()
            if slots is not None:
                await slots.acquire()
            if self._stop is not None:
                return
            task = asyncio.create_task(self._one(item, due_ns, slots))
            self._flying.add(task)
            task.add_done_callback(self._flying.discard)
            if self._arrival.kind == "serial":
                await asyncio.wait([task])

    async def _one(
        self, item: Prepared, due_ns: int | None, slots: asyncio.Semaphore | None
    ) -> None:
        try:
            start_ns = time.perf_counter_ns()
            self._writer.put(Began(prepared=item, at_ns=start_ns))
            exchange = await self._client.send(item.body, item.request_id)
            self.outcome.last_end_ns = max(self.outcome.last_end_ns or 0, exchange.end_ns)
            served = None
            if self._observe is not None and self._stop is None:
                with contextlib.suppress(asyncio.CancelledError):  # a stop must not cost the record
                    served = await self._observe()
            self._writer.put(
                Ended(
                    prepared=item,
                    exchange=exchange,
                    scheduled_ns=due_ns if due_ns is not None else start_ns,
                    start_ns=start_ns,
                    served=served,
                )
            )
            self._judge(exchange)
        finally:
            self._ended[item.planned.index].set()
            if slots is not None:
                slots.release()

    def _judge(self, exchange: Exchange) -> None:
        """Stop where going on makes no sense: nobody listens, or nobody reads our records."""
        self._refused = self._refused + 1 if exchange.error_kind == "connect_error" else 0
        if self._refused >= HOPELESS_FAILURES:
            self.stop(f"{self._refused} connections failed in a row: {exchange.error}")
        if self._writer.ended:
            self.stop("the records can no longer be written")

    async def _watch_loop(self) -> None:
        """How late the loop wakes a sleeper: its own lag, sampled every 20 ms."""
        while True:
            asked = time.perf_counter() + LAG_TICK_S
            await asyncio.sleep(LAG_TICK_S)
            self.outcome.loop_lag_s.append(max(0.0, time.perf_counter() - asked))


async def sleep_until(due_ns: int) -> None:
    """Sleep to an absolute instant of perf_counter_ns; the last stretch by yielding.

    The loop's selector rounds a wait up to the next millisecond: it is asked to wake one early.
    """
    while (left_ns := due_ns - time.perf_counter_ns()) > 0:
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
