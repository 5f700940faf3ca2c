"""A server that replays given bytes and breaks connections: captures, malformed streams, faults.

It has no cache and no idea of time (that is kvsim). An answer is a sequence of steps: bytes are
written as one piece, the others do what they say. The server runs in a thread of its own:

    with FakeServer(chunked_answer(body)) as server:
        ... server.url, server.received, server.connections

The n-th request gets the n-th answer, and the last one is repeated; or a function of the request
chooses. Requests of one connection are answered in order.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, field
from types import TracebackType

import pytest


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait so many seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Close:
    """Close the connection in good order (FIN)."""


@dataclass(frozen=True, slots=True)
class Reset:
    """Break the connection off (RST)."""


@dataclass(frozen=True, slots=True)
class Hang:
    """Say nothing more until the client closes."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Wait until the test sets the event."""

    event: threading.Event


Step = bytes | Pause | Close | Reset | Hang | Wait
Reply = Sequence[Step]


@dataclass(frozen=True, slots=True)
class Received:
    """A request as it came. `connection` counts the server's connections from 1."""

    line: str
    headers: dict[str, str]
    body: bytes
    connection: int


class _Ended(Exception):
    """This connection serves no more requests."""


@dataclass
class FakeServer:
    """See the module. `before_body` is done between a request's head and its body."""

    replies: Reply | Sequence[Reply] | Callable[[Received], Reply]
    host: str = "127.0.0.1"
    tls: ssl.SSLContext | None = None
    before_body: Reply = ()
    receive_buffer: int | None = None
    received: list[Received] = field(default_factory=list)
    connections: int = 0
    port: int = 0

    @property
    def url(self) -> str:
        scheme = "https" if self.tls else "http"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{scheme}://{host}:{self.port}"

    def __enter__(self) -> FakeServer:
        self._loop = asyncio.new_event_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fakeserver")
        self._thread.start()
        self._run(self._start())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._run(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, work: Coroutine[None, None, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    async def _start(self) -> None:
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        listening = socket.socket(family, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if self.receive_buffer is not None:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self.receive_buffer)
        listening.bind((self.host, self.port))
        self.port = listening.getsockname()[1]
        self._server = await asyncio.start_server(
            self._serve, sock=listening, ssl=self.tls, backlog=1024
        )

    async def _stop(self) -> None:
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.sleep(0.01)  # transports close in later turns of the loop

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        number = self.connections
        try:
            while True:
                await self._serve_one(number, reader, writer)
        except (_Ended, OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await writer.wait_closed()

    async def _serve_one(
        self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        line, *rest = head.rstrip("\r\n").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in _pairs(rest)}
        for step in self.before_body:
            await self._do(step, reader, writer)
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        request = Received(line, headers, body, number)
        self.received.append(request)
        for step in self._reply(request):
            await self._do(step, reader, writer)

    def _reply(self, request: Received) -> Reply:
        if callable(self.replies):
            return self.replies(request)
        first = self.replies[0] if self.replies else b""
        if isinstance(first, Sequence) and not isinstance(first, bytes):
            return self.replies[min(len(self.received), len(self.replies)) - 1]  # type: ignore[return-value]
        return self.replies  # type: ignore[return-value]

    async def _do(
        self, step: Step, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        match step:
            case bytes():
                writer.write(step)
                await writer.drain()
            case Pause(seconds):
                await asyncio.sleep(seconds)
            case Wait(event):
                while not event.is_set():
                    await asyncio.sleep(0.002)
            case Hang():
                while await reader.read(65536):
                    pass
                raise _Ended
            case Reset():
                sock = writer.get_extra_info("socket")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                writer.transport.abort()
                raise _Ended
            case Close():
                raise _Ended


def head(status: str = "200 OK", *lines: str, content_type: str = "text/event-stream") -> bytes:
    """An answer's head, as vLLM's server writes it."""
    all_lines = (f"HTTP/1.1 {status}", "server: uvicorn", f"content-type: {content_type}", *lines)
    return ("\r\n".join(all_lines) + "\r\n\r\n").encode("latin-1")


def chunk(data: bytes) -> bytes:
    """`data` as one chunk."""
    return b"%x\r\n%b\r\n" % (len(data), data)


LAST_CHUNK = b"0\r\n\r\n"


def chunked_answer(body: bytes, *, at_once: bool = False, pause_s: float = 0.0) -> list[Step]:
    """A stream as vLLM sends it: each event a chunk and a write, or everything `at_once`."""
    start = head("200 OK", "transfer-encoding: chunked")
    chunks = [chunk(event) for event in _events(body)]
    if at_once:
        return [b"".join((start, *chunks, LAST_CHUNK))]
    paused: list[Step] = []
    for piece in chunks:
        paused += [piece, Pause(pause_s)] if pause_s else [piece]
    return [start, *paused, LAST_CHUNK]


def sized_answer(
    body: bytes, status: str = "200 OK", *lines: str, content_type: str = "application/json"
) -> list[Step]:
    """An answer with a Content-Length."""
    length = f"content-length: {len(body)}"
    return [head(status, length, *lines, content_type=content_type) + body]


def _events(body: bytes) -> Iterator[bytes]:
    for event in body.split(b"\n\n"):
        if event.strip():
            yield event + b"\n\n"


def _pairs(lines: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    return (line.partition(":") for line in lines)


@pytest.fixture
def fake_server() -> Iterator[Callable[..., FakeServer]]:
    """`fake_server(replies, ...)` starts one; all are stopped after the test."""
    with contextlib.ExitStack() as running:
        yield lambda *args, **kwargs: running.enter_context(FakeServer(*args, **kwargs))
