"""What a person sees on stderr while a run goes on: calm on a terminal, plain lines in a log."""

from __future__ import annotations

import contextlib
import sys
import time

from kvpipe.process import legible

LOG_EVERY_S = 10.0
LINE = 100


class Console:
    """Rounds, progress and pauses; silent with --quiet."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        self._terminal = sys.stderr.isatty()
        self._open_line = False
        self._shown_at = 0.0
        self._started = 0.0
        self._total = 0

    def say(self, text: str) -> None:
        """One line."""
        if not self._quiet:
            self._end_line()
            self._write(legible(text) + "\n")

    def warn(self, text: str) -> None:
        """One line even with --quiet."""
        self._end_line()
        self._write(f"kvload: {legible(text)}\n")

    def begin(self, total: int) -> None:
        """A round of `total` requests begins."""
        self._total, self._started, self._shown_at = total, time.monotonic(), time.monotonic()

    def progress(self, done: int, failed: int) -> None:
        """So many of the round's requests are over."""
        if self._quiet:
            return
        now = time.monotonic()
        if self._terminal:
            if now - self._shown_at < 0.1 and done < self._total:
                return
            self._shown_at = now
            self._write("\r" + self._line(done, failed, now).ljust(LINE)[:LINE])
            self._open_line = True
        elif now - self._shown_at >= LOG_EVERY_S:
            self._shown_at = now
            self._write(self._line(done, failed, now) + "\n")

    def _line(self, done: int, failed: int, now: float) -> str:
        elapsed = now - self._started
        left = elapsed / done * (self._total - done) if done else None
        eta = f", about {left:.0f} s left" if left is not None and done < self._total else ""
        bad = f", {failed} failed" if failed else ""
        return f"  {done}/{self._total}{bad}, {elapsed:.0f} s{eta}"

    def _end_line(self) -> None:
        if self._open_line:
            self._write("\n")
            self._open_line = False

    def _write(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.write(text)
            sys.stderr.flush()
