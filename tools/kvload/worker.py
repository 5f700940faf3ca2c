"""A worker: a process that sends its share of each round and tells its parent what happened.

It writes nothing itself, hears no signals (its parent does, and gives orders), and ends when the
parent's end of its pipe is closed, for whatever reason.
"""

from __future__ import annotations

import asyncio
import os
import threading
from multiprocessing.connection import Connection

from kvload.client import Client, Target
from kvload.drafts import Began, Ended, RoundFacts, draft_of
from kvload.drive import Round, now_ns
from kvload.handover import Handover
from kvload.messages import (
    Begun,
    Done,
    Event,
    Go,
    Over,
    Passed,
    Prepare,
    Ready,
    Stop,
    Tick,
    encode_events,
)

BATCH = 64
TICKS = 5  # of 20 ms each, between two that are told without news


class Mailer:
    """Where a worker's events go: a thread parses answers and posts them in batches."""

    def __init__(self, events: Connection) -> None:
        self._events = events
        self._items: Handover[Began | Ended | int | None] = Handover()
        self._thread = threading.Thread(target=self._post, name="mailer", daemon=True)
        self._facts: RoundFacts | None = None
        self._begun = False  # something has, of which the parent has not heard
        self._ticks = 0

    def start(self, facts: RoundFacts) -> None:
        """The round begins."""
        self._facts = facts
        self._thread.start()

    @property
    def ended(self) -> bool:
        """Whether nothing will be posted any more."""
        return self._facts is not None and not self._thread.is_alive()

    def put(self, item: Began | Ended) -> None:
        """Hand over an event; never blocks. What has begun is posted with the next tick."""
        self._begun = isinstance(item, Began)
        if self._begun:
            self._items.leave(item)
        else:
            self._items.hand(item)

    def tick(self, at_ns: int) -> None:
        """Whatever happened before was put before; told if it is news, or now and then."""
        self._ticks += 1
        if self._begun or self._ticks % TICKS == 0:
            self._begun = False
            self._items.hand(at_ns)

    def drain(self) -> None:
        """Wait until everything is posted."""
        self._items.hand(None)
        if self._facts is not None:
            self._thread.join()

    def _post(self) -> None:
        open_ = True
        while open_:
            items = self._items.take(BATCH)
            open_ = items[-1] is not None  # it is the last one
            batch = [self._event(item) for item in items if item is not None]
            if batch:
                self._events.send_bytes(encode_events(batch))

    def _event(self, item: Began | Ended | int) -> Event:
        assert self._facts is not None
        if isinstance(item, int):
            return Tick(item)
        if isinstance(item, Began):
            return Begun(item.prepared.planned.index, item.at_ns)
        return Over(draft_of(item, self._facts))


class Worker:
    """One worker's life: rounds, one after another."""

    def __init__(self, control: Connection, events: Connection) -> None:
        self._control = control
        self._events = events
        self._clients: dict[tuple[str, str], Client] = {}
        self._driver: Round | None = None
        self._go: asyncio.Future[Go] | None = None
        self._stop: str | None = None
        self._round: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Obey until the parent has gone."""
        loop = asyncio.get_running_loop()
        loop.add_reader(self._control.fileno(), self._on_order)
        await asyncio.Event().wait()

    def _on_order(self) -> None:
        try:
            order = self._control.recv()
        except (EOFError, OSError):
            os._exit(0)  # nobody is there to tell anything
        if isinstance(order, Prepare):
            self._round = asyncio.create_task(self._share(order))
            self._round.add_done_callback(_die_of_a_defect)
        elif isinstance(order, Go) and self._go is not None and not self._go.done():
            self._go.set_result(order)
        elif isinstance(order, Passed) and self._driver is not None:
            self._driver.passed(order.index, order.at_ns)
        elif isinstance(order, Stop) and self._driver is not None:
            self._driver.stop(order.reason)

    async def _share(self, order: Prepare) -> None:
        """One round's share, from opening connections to the last event."""
        share = order.share
        mailer = Mailer(self._events)
        self._go = asyncio.get_running_loop().create_future()
        client = self._client(order)
        await client.refresh()
        await client.open(order.connections)

        def tell(index: int, at_ns: int) -> None:
            if index in share.tells:
                self._control.send(Passed(index=index, at_ns=at_ns))

        async def begin() -> int:
            assert self._go is not None
            self._control.send(Ready())
            go = await self._go
            mailer.start(go.facts)
            return go.at_ns

        self._driver = Round(client, mailer, share.pace, awaits=share.awaits, on_gate=tell)
        fresh = asyncio.create_task(client.keep_fresh())
        outcome = await self._driver.run(share.prepared, begin)
        fresh.cancel()
        outcome.opened = client.opened
        await asyncio.to_thread(mailer.drain)
        self._events.send_bytes(encode_events([Tick(now_ns()), Done(outcome)]))

    def _client(self, order: Prepare) -> Client:
        key = (order.url, order.api)
        if key not in self._clients:
            access = order.access
            target = Target.parse(order.url, order.api, access.headers, access.api_key)
            self._clients[key] = Client(target, timeout_s=access.timeout_s)
        return self._clients[key]


def _die_of_a_defect(task: asyncio.Task[None]) -> None:
    """A share that ends in an exception ends its worker: the parent sees that, and says so."""
    if not task.cancelled() and (error := task.exception()) is not None:
        import traceback

        traceback.print_exception(error)
        os._exit(1)
