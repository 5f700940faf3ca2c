"""HTTP manners common to nodes and stores: routing, errors, headers, idle connections."""

import asyncio
import logging
import socket
import struct
from collections.abc import Awaitable, Callable
from weakref import WeakKeyDictionary

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Routes = dict[str, dict[str, Handler]]

SERVER = "kvsim"
METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def json_answer(
    body: bytes, status: int = 200, headers: dict[str, str] | None = None
) -> web.Response:
    return web.Response(
        body=body, status=status, headers={"content-type": "application/json", **(headers or {})}
    )


def text_answer(text: str, content_type: str, status: int = 200) -> web.Response:
    return web.Response(body=text.encode(), status=status, headers={"content-type": content_type})


def empty_answer(status: int = 200) -> web.Response:
    """No body, and no type of a body."""
    return web.Response(status=status)


async def _sign(request: web.Request, response: web.StreamResponse) -> None:
    """Every answer names the simulator; an empty one has no content type."""
    response.headers["server"] = SERVER
    response.headers.setdefault("vary", "Origin")
    if isinstance(response, web.Response) and not response.body:
        response.headers.popall("content-type", None)


def reset_connection(request: web.Request) -> None:
    """Ends the connection with a TCP reset."""
    transport = request.transport
    if transport is None:
        return
    sock: socket.socket | None = transport.get_extra_info("socket")
    if sock is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


class Connections:
    """How many requests each connection has carried, and when to close an idle one."""

    def __init__(self) -> None:
        self._counts: WeakKeyDictionary[asyncio.Transport, int] = WeakKeyDictionary()
        self._timers: WeakKeyDictionary[asyncio.Transport, asyncio.TimerHandle] = (
            WeakKeyDictionary()
        )

    def begin(self, request: web.Request) -> bool:
        """Counts a request; True if its connection has carried one before."""
        transport = request.transport
        if transport is None:
            return False
        timer = self._timers.pop(transport, None)
        if timer is not None:
            timer.cancel()
        count = self._counts[transport] = self._counts.get(transport, 0) + 1
        return count > 1

    def end(self, request: web.Request, idle_s: float) -> None:
        """Closes the connection if nothing follows within ``idle_s``."""
        transport = request.transport
        if transport is not None:
            loop = asyncio.get_running_loop()
            self._timers[transport] = loop.call_later(idle_s, transport.close)


def _is_ours(record: logging.LogRecord) -> bool:
    """Bytes that are no HTTP are answered by 400; what a client did wrong is no trace of ours."""
    return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))


def application(entry: Handler) -> web.Application:
    """One handler for every path: routing is ours, so that 404 and 405 are the engine's."""
    logging.getLogger("aiohttp.server").addFilter(_is_ours)
    app = web.Application(client_max_size=1 << 28)
    app.router.add_route("*", "/{path:.*}", entry)
    app.on_response_prepare.append(_sign)
    return app
