"""One connection, one request at a time: bytes out, stamped bytes in.

The protocol does as little as it can while others stream: it keeps each read with its stamp and
walks the framing just far enough to know the end. The waiting task is woken once, at the end.
"""

from __future__ import annotations

import asyncio
import errno
import os
import ssl
import time
from socket import gaierror

from kvload.exchange import Exchange
from kvload.http1 import AnswerFraming, BadFraming
from kvload.sockets import StampedSocket
from kvpipe.records import Status

_perf_ns = time.perf_counter_ns


class Connection(asyncio.Protocol):
    """A connection to the target. `usable` is false once it must not carry another request."""

    __slots__ = (
        "_done",
        "_exchange",
        "_framing",
        "_in_head",
        "_loop",
        "_max_bytes",
        "_raw",
        "_room",
        "_sock",
        "_taken_ns",
        "_transport",
        "_written_ns",
        "idle_since",
        "unanswered",
        "usable",
    )

    def __init__(
        self, sock: StampedSocket, loop: asyncio.AbstractEventLoop, max_answer_bytes: int
    ) -> None:
        self._sock = sock
        self._loop = loop
        self._max_bytes = max_answer_bytes
        self._transport: asyncio.Transport | None = None
        self._exchange: Exchange | None = None
        self._raw: list[tuple[int, int, bytes]] = []
        self._framing = AnswerFraming()
        self._room = 0  # bytes that the answer may still have
        self._in_head = True
        self._written_ns = 0  # used where the loop writes past our socket
        self._taken_ns: int | None = None
        self._done: asyncio.Future[None] | None = None
        self.idle_since = loop.time()
        self.usable = True
        self.unanswered = False  # the last attempt ended before any byte of an answer

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def start(self, payload: bytes, exchange: Exchange) -> asyncio.Future[None]:
        """Write a request in one piece; the future is done when `exchange` is complete."""
        assert self._exchange is None and self._transport is not None
        self._exchange = exchange
        self._raw = exchange.raw
        self._framing.release()
        self._framing = AnswerFraming()
        self._room = self._max_bytes
        self._in_head = True
        self._taken_ns = None
        self._done = self._loop.create_future()
        self.unanswered = False
        sock = self._sock
        sock.mark()
        self._written_ns = _perf_ns()
        self._transport.write(payload)
        if not sock.first_send_ns and not self._transport.get_write_buffer_size():
            self._taken_ns = _perf_ns()
        return self._done

    def data_received(self, data: bytes) -> None:
        try:
            self._take(data)
        except MemoryError:  # this answer alone pays, and at once: the others need what it holds
            self._closed_by_peer(OSError(errno.ENOMEM, "no memory for what was received"))

    def _take(self, data: bytes) -> None:
        # Called for every chunk of every stream, with all the others waiting.
        sock = self._sock
        user = sock.user_ns
        if user:
            kernel = sock.kernel_ns
        else:  # our recv() was not called: this loop reads the descriptor itself, or it is TLS
            user = _perf_ns()
            kernel = 0
            sock.unstamped = True
        if self._exchange is None:
            self.close()  # nothing was asked: whatever this is, it is not ours
            return
        framing = self._framing
        try:
            body = framing.walk(data)
        except BadFraming as problem:
            self._raw.append((kernel, user, problem.body))
            self._note_head()
            self.give_up("stream_error", str(problem), user)
            return
        self._raw.append((kernel, user, body))
        if self._in_head:
            self._note_head()
        if framing.complete:
            self._finish()
            return
        self._room -= len(data)
        if self._room < 0:
            self.give_up("stream_error", f"the answer exceeds {self._max_bytes} bytes", user)

    def eof_received(self) -> None:
        self._closed_by_peer(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self._closed_by_peer(exc)
        self.usable = False
        # Nothing is collected while a round runs: whatever holds itself would be kept to its end,
        # and asyncio's transport, with our socket, holds a method of its own.
        self._framing.release()
        if self._transport is not None and hasattr(self._transport, "_read_ready_cb"):
            self._transport._read_ready_cb = None
        self._transport = None

    def give_up(self, kind: Status, message: str, at_ns: int | None = None) -> None:
        """End the request in flight, if any, with an error, and the connection with it."""
        exchange = self._exchange
        if exchange is not None:
            exchange.error_kind, exchange.error = kind, message
            exchange.ended_ns = at_ns or _perf_ns()
            self._settle(exchange)
        self.close()

    def close(self) -> None:
        """Close at once: nothing that is still unsent or unread is wanted."""
        self.usable = False
        if self._transport is not None:
            self._transport.abort()

    def _note_head(self) -> None:
        exchange, framing = self._exchange, self._framing
        assert exchange is not None
        if exchange.first_read is None and framing.begun:
            exchange.first_read = len(self._raw) - 1
        if framing.status is not None:
            self._in_head = False
            exchange.head_read = len(self._raw) - 1

    def _closed_by_peer(self, exc: Exception | None) -> None:
        self.usable = False
        exchange, framing = self._exchange, self._framing
        if exchange is None:
            return
        if exc is None and framing.end_of_stream():
            exchange.ended_ns = _perf_ns()
            self._settle(exchange)
            return
        if isinstance(exc, OSError) and exc.errno == errno.ENOMEM:
            exchange.let_bodies_go()
        what = "connection closed" if exc is None else f"connection lost ({plain(exc)})"
        self.unanswered = not self._raw
        kind: Status = "connect_error" if self.unanswered else "truncated"
        if self._raw and exc is None and framing.status is None:
            kind = "stream_error"
        self.give_up(kind, f"{what} {framing.where()}")

    def _finish(self) -> None:
        exchange = self._exchange
        assert exchange is not None and self._transport is not None
        early = self._unsent()  # it was answered before it was read
        if early or not self._framing.keep_alive or self._transport.is_closing():
            self.usable = False
        self._settle(exchange)
        if not self.usable:
            self.close()

    def _settle(self, exchange: Exchange) -> None:
        """Hand the exchange over; the connection is free, or was given up."""
        framing, sock = self._framing, self._sock
        exchange.status, exchange.reason = framing.status, framing.reason
        exchange.headers = framing.headers
        exchange.stamp_source = "user" if sock.unstamped or not self._raw else "kernel"
        self._stamp_sending(exchange, sock)
        self._exchange = None
        self._raw = []
        self.idle_since = self._loop.time()
        done, self._done = self._done, None
        if done is not None and not done.done():
            done.set_result(None)

    def _unsent(self) -> bool:
        """Whether a part of the request waits: under TLS there is a second buffer, which only the
        socket tells of."""
        assert self._transport is not None
        return self._sock.blocked or self._transport.get_write_buffer_size() > 0

    def _stamp_sending(self, exchange: Exchange, sock: StampedSocket) -> None:
        if sock.first_send_ns:
            exchange.sent_ns = sock.first_send_ns
            if not self._unsent():
                exchange.body_sent_ns = sock.last_send_ns
        elif self._raw:
            exchange.sent_ns = self._written_ns
            exchange.body_sent_ns = self._taken_ns


def plain(exc: Exception) -> str:
    """The reason alone, without the numbers and addresses that asyncio puts around it."""
    if isinstance(exc, ssl.SSLCertVerificationError):
        return f"certificate not accepted: {exc.verify_message}"
    if isinstance(exc, ssl.SSLError):
        return f"tls: {(exc.reason or str(exc)).lower().replace('_', ' ')}"
    # The numbers of a gaierror are not those of errno.
    if isinstance(exc, OSError) and exc.errno is not None and not isinstance(exc, gaierror):
        return os.strerror(exc.errno).lower()
    if isinstance(exc, OSError) and exc.strerror:
        return exc.strerror.lower()
    return str(exc) or type(exc).__name__
