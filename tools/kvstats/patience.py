"""Signals while reading a pipe: the producer decides when the data ends.

Ctrl-C reaches every process of a pipeline. kvload then writes its `end` and stops; if kvstats died
of the same signal, what was measured would be lost. So the first SIGINT or SIGTERM is only
remembered, the second one kills, and after the summary is written the tool dies of the first.
"""

from __future__ import annotations

import os
import signal
import stat
import sys
from types import FrameType

from kvpipe.process import Stopped, die_of


class Patience:
    """Remembers the first signal; `settle` ends the process by it when all is written."""

    def __init__(self) -> None:
        self._signum: int | None = None

    def listen(self) -> None:
        """Install the handlers; a signal that is ignored (a job in the background) stays so."""
        for signum in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(signum) is not signal.SIG_IGN:
                signal.signal(signum, self._heard)

    def _heard(self, signum: int, _: FrameType | None) -> None:
        if self._signum is not None:
            die_of(signum)
        self._signum = signum

    def settle(self) -> None:
        """Raise Stopped if a signal came while the input was read."""
        if self._signum is not None:
            raise Stopped(self._signum)


def reads_a_pipe() -> bool:
    """Whether stdin is fed by another process, which will hear of the signal too."""
    try:
        mode = os.fstat(sys.stdin.fileno()).st_mode
    except (OSError, ValueError):
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)
