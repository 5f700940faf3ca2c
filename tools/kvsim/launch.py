"""Binds, says that it is ready, and ends cleanly when a signal comes."""

import asyncio
import logging
import signal
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from kvpipe.jsonl import write_record
from kvpipe.process import Stopped, ToolError, complain
from kvsim.serving import Handler, application

BACKLOG = 4096
"""Connections that wait to be taken: a load of ten thousand streams begins all at once"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """What is served: the entry of its HTTP API, and what to do before and after."""

    entry: Handler
    start: Callable[[], Awaitable[None]]
    stop: Callable[[], Awaitable[None]]


def bind(host: str, port: int) -> socket.socket:
    """Raises ToolError."""
    try:
        return socket.create_server((host, port), backlog=BACKLOG)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise ToolError(f"{host}:{port}: {reason} (choose another --port, or 0)") from error


async def serve(
    listener: socket.socket, service: Service, role: str, *, keep_alive_s: float, verbose: bool
) -> None:
    """Serves until a signal comes. Raises Stopped."""
    stopped = _on_signals()
    asyncio.get_running_loop().set_exception_handler(_starved_said_once())
    runner = web.AppRunner(
        application(service.entry),
        access_log=logging.getLogger("kvsim.access") if verbose else None,
        handle_signals=False,
        handler_cancellation=True,
        keepalive_timeout=keep_alive_s,
        shutdown_timeout=0.2,
    )
    await runner.setup()
    try:
        await web.SockSite(runner, listener, backlog=BACKLOG).start()
        await service.start()
        host, port = listener.getsockname()[:2]
        url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        write_record({"record": "kvsim", "url": url, "role": role, "port": port})
        signum = await stopped
    finally:
        await runner.cleanup()
        await service.stop()
    raise Stopped(signum)


def _starved_said_once() -> Callable[[asyncio.AbstractEventLoop, dict[str, Any]], None]:
    """Tells once that no more files may be open; asyncio would a thousand times a second."""
    said = False

    def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        nonlocal said
        if context.get("message") != "socket.accept() out of system resource":
            loop.default_exception_handler(context)
        elif not said:
            said = True
            complain("too many open files: connections wait for others to end (ulimit -n)", "kvsim")

    return handle


def _on_signals() -> asyncio.Future[int]:
    """The first SIGINT or SIGTERM; one that the parent has us ignore stays ignored."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[int] = loop.create_future()

    def came(signum: int) -> None:
        if not future.done():
            future.set_result(signum)

    for signum in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(signum) is not signal.SIG_IGN:
            loop.add_signal_handler(signum, came, signum)
    return future
