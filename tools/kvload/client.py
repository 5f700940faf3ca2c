"""The HTTP client of the measured path: a pool of connections to one target.

Nothing is parsed here beyond the framing, and no failure is an exception: what came of a request
is an `Exchange`, always. Redirects are not followed, so that a key never goes elsewhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import time
from typing import Any

from kvload.connection import Connection, plain
from kvload.exchange import Exchange
from kvload.sockets import StampedSocket, kernel_stamps_come
from kvload.target import Target
from kvpipe.records import Status

__all__ = ["Client", "Exchange", "Target"]

MAX_IDLE_S = 4.0  # servers close idle connections from 5 s on (uvicorn's keep-alive timeout)
MAX_ANSWER_BYTES = 256 * 1024 * 1024
CONNECT_TIMEOUT_S = 30.0
_CONNECTING_AT_ONCE = 64  # below the usual backlog of a listening socket


class Client:
    """Sends requests to `target`, each on a connection of its own while it lasts.

    A connection is `reused` when it was open before the request (pre-opened, or used before) and
    idle for less than 4 s, `new` when it had to be opened for it. `opened` counts connections.
    """

    def __init__(
        self,
        target: Target,
        *,
        timeout_s: float,
        kernel_stamps: bool = True,
        max_answer_bytes: int = MAX_ANSWER_BYTES,
    ) -> None:
        self.target = target
        self.opened = 0
        self._timeout_s = timeout_s
        self._kernel_stamps = kernel_stamps and target.tls is None and kernel_stamps_come()
        self._max_answer_bytes = max_answer_bytes
        self._idle: list[Connection] = []  # the last one was used last
        self._busy: set[Connection] = set()
        self._addresses: list[tuple[int, Any]] = []
        self._gate = asyncio.Semaphore(_CONNECTING_AT_ONCE)

    @property
    def busy(self) -> int:
        """Connections that carry a request now."""
        return len(self._busy)

    async def open(self, n: int) -> int:
        """Have `n` fresh connections ready; returns how many there are.

        It is fewer where connecting failed: the request that needs the next one will say why.
        """
        await self.refresh()
        missing = max(0, n - len(self._idle))
        self._idle += [c for c in await self._connect_many(missing) if c is not None]
        return len(self._idle)

    async def refresh(self, idle_s: float = 1.0) -> int:
        """Replace the connections that are closed or were idle for `idle_s`; returns how many.

        For the time before a round, off the measured path.
        """
        now = asyncio.get_running_loop().time()
        stale = [c for c in self._idle if not c.usable or now - c.idle_since >= idle_s]
        fresh = await self._connect_many(len(stale))
        for old, new in zip(stale, fresh, strict=True):
            if old in self._idle:  # else a request took it meanwhile
                self._idle.remove(old)
                old.close()
            if new is not None:
                self._idle.insert(0, new)
        return len(stale)

    async def keep_fresh(self, every_s: float = 0.5) -> None:
        """Until cancelled: replace connections before they have been idle for too long."""
        while True:
            await asyncio.sleep(every_s)
            await self.refresh(MAX_IDLE_S - 2 * every_s)

    async def send(self, body: bytes, request_id: str) -> Exchange:
        """POST `body` and wait for the whole answer, an error, or the time limit.

        Never raises for what happens on the wire. A cancelled task gets its exchange too (with
        `error_kind` `cancelled`, unless the answer was whole already) and goes on: whoever loops
        over requests must look at the task's `cancelling()`.
        """
        exchange = Exchange()
        payload = self.target.request(body, request_id)
        deadline = asyncio.get_running_loop().time() + self._timeout_s
        try:
            connection = self._take_idle()
            if connection is not None:
                exchange.connection = "reused"
                await self._attempt(connection, payload, exchange, deadline)
                if not connection.unanswered:
                    return exchange
                exchange.error_kind = exchange.error = None
            exchange.connection = None
            connection = await self._connect_for(exchange, deadline)
            if connection is not None:
                exchange.connection = "new"
                await self._attempt(connection, payload, exchange, deadline)
        except asyncio.CancelledError:
            _fail(exchange, "cancelled", "cancelled by the client")
        return exchange

    async def close(self) -> None:
        """Close every connection; requests in flight end as cancelled."""
        for connection in self._busy.copy():
            connection.give_up("cancelled", "the client was closed")
        for connection in self._idle:
            connection.close()
        self._idle.clear()
        await asyncio.sleep(0)  # transports close their sockets in the loop's next turn

    def _take_idle(self) -> Connection | None:
        now = asyncio.get_running_loop().time()
        while self._idle:
            connection = self._idle.pop()
            if connection.usable and now - connection.idle_since < MAX_IDLE_S:
                return connection
            connection.close()
        return None

    async def _attempt(
        self, connection: Connection, payload: bytes, exchange: Exchange, deadline: float
    ) -> None:
        loop = asyncio.get_running_loop()
        exchange.begin_attempt()
        exchange.attempts += 1
        self._busy.add(connection)
        done = connection.start(payload, exchange)
        limit = f"no complete answer within {self._timeout_s:g} s"
        timer = loop.call_at(deadline, connection.give_up, "timeout", limit)
        try:
            await done
        except asyncio.CancelledError:
            if done.cancelled():
                connection.give_up("cancelled", "cancelled by the client")
                raise
        finally:
            timer.cancel()
            self._busy.discard(connection)
        if connection.usable:
            self._idle.append(connection)

    async def _connect_for(self, exchange: Exchange, deadline: float) -> Connection | None:
        """A connection opened for this request, or null with the reason in `exchange`."""
        loop = asyncio.get_running_loop()
        try:
            # Ten thousand at once are more than a listening socket takes: those it drops are asked
            # for again after 1, 3, 7 and 15 s. Waiting for a turn is not the server's time.
            async with asyncio.timeout_at(deadline), self._gate, asyncio.timeout(CONNECT_TIMEOUT_S):
                return await self._connect()
        except TimeoutError as problem:
            if loop.time() >= deadline:
                _fail(exchange, "timeout", f"no connection within {self._timeout_s:g} s")
            else:
                _fail(exchange, "connect_error", self._why(problem))
        except OSError as problem:
            _fail(exchange, "connect_error", self._why(problem))
        return None

    async def _connect_many(self, n: int) -> list[Connection | None]:
        async def one() -> Connection | None:
            with contextlib.suppress(OSError, TimeoutError):
                async with self._gate, asyncio.timeout(CONNECT_TIMEOUT_S):
                    return await self._connect()
            return None

        if n and not self._addresses:
            with contextlib.suppress(OSError):
                await self._resolve()
        return await asyncio.gather(*(one() for _ in range(n)))

    async def _resolve(self) -> None:
        found = await asyncio.get_running_loop().getaddrinfo(
            self.target.host, self.target.port, type=socket.SOCK_STREAM
        )
        self._addresses = [(family, address) for family, _, _, _, address in found]

    async def _connect(self) -> Connection:
        """Try the target's addresses in turn; OSError with the last one's reason."""
        if not self._addresses:
            await self._resolve()
        problem: OSError = OSError("no address")
        for family, address in list(self._addresses):
            try:
                connection = await self._connect_to(family, address)
            except ssl.SSLError:
                raise
            except OSError as failed:
                problem = failed
                continue
            if (family, address) != self._addresses[0]:
                # The one that works goes first: localhost may mean ::1 where nobody listens.
                self._addresses.sort(key=lambda one: one != (family, address))
            return connection
        raise problem

    async def _connect_to(self, family: int, address: Any) -> Connection:
        loop = asyncio.get_running_loop()
        sock = StampedSocket(family, kernel_stamps=self._kernel_stamps)
        try:
            await loop.sock_connect(sock, address)
            _, connection = await loop.create_connection(
                lambda: Connection(sock, loop, self._max_answer_bytes),
                sock=sock,
                ssl=self.target.tls,
                server_hostname=self.target.host if self.target.tls else None,
            )
        except BaseException:
            sock.close()
            raise
        self.opened += 1
        return connection

    def _why(self, problem: OSError) -> str:
        """One line for a person: what, where, and why."""
        ours = isinstance(problem, TimeoutError) and problem.errno is None
        reason = f"no connection within {CONNECT_TIMEOUT_S:g} s" if ours else plain(problem)
        return f"cannot connect to {self.target.place}: {reason}"


def _fail(exchange: Exchange, kind: Status, message: str) -> None:
    exchange.error_kind, exchange.error = kind, message
    if exchange.ended_ns is None:
        exchange.ended_ns = time.perf_counter_ns()
