"""Ctrl-C and SIGTERM: the first one drains, a second one is immediate."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, TypeVar

from kvload.console import Console
from kvpipe.process import die_of

T = TypeVar("T")

# timeout(1) signals its child and then its process group, in which the child is too: that is one
# order to stop, and a person cannot press a key twice in this time.
ECHO_S = 0.1


class Interrupted(Exception):
    """A signal came while nothing was being measured."""


class Stopping:
    """Whether a signal asked us to stop, and what is to be given up then."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._waiting: asyncio.Task[Any] | None = None
        self._on_stop: Callable[[str], object] | None = None
        self.signum: int | None = None
        self._came = 0.0

    def listen(self) -> None:
        """Take the two signals over from the running loop."""
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(signum, self._on_signal, signum)

    @property
    def reason(self) -> str | None:
        """Name of the signal that came, if one did."""
        return None if self.signum is None else signal.Signals(self.signum).name

    async def unless(self, work: Coroutine[Any, Any, T]) -> T:
        """Await `work`, but give it up when a signal comes; Interrupted then."""
        if self.signum is not None:
            work.close()
            raise Interrupted
        task = asyncio.ensure_future(work)
        self._waiting = task
        try:
            return await task
        except asyncio.CancelledError:
            raise Interrupted from None
        finally:
            self._waiting = None

    @contextlib.contextmanager
    def while_sending(self, stop: Callable[[str], object]) -> Iterator[None]:
        """Call `stop` when a signal comes, at once if one has come already."""
        self._on_stop = stop
        if self.reason is not None:
            stop(self.reason)
        try:
            yield
        finally:
            self._on_stop = None

    def _on_signal(self, signum: int) -> None:
        if self.signum is not None:
            if signum == self.signum and time.monotonic() - self._came < ECHO_S:
                return
            die_of(signum)
        self.signum, self._came = signum, time.monotonic()
        self._console.say("stopping: what was measured is being written (again: at once)")
        if self._on_stop is not None:
            self._on_stop(signal.Signals(signum).name)
        elif self._waiting is not None:
            self._waiting.cancel()
