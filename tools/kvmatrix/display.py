"""Where progress goes: one line on a terminal that is drawn in place, or plain lines in a log.

What the recipes write goes on: into a log all of it; onto a terminal what a person must see, since
the rest stands in each attempt's own log.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass

DRAW_S = 0.5
PLAIN_S = 60.0
CLEAR = "\r\x1b[K"
CHATTER = re.compile(
    r"  |Round \d|Control  |Warm-up$|Repeat \d|kvplan: "
    r"|\S*/report\.part/|matrix: \d+/\d+: repeat |matrix: isolated by |matrix: kvclear is at work"
)
FALLBACK_CELLS = 80


@dataclass(slots=True)
class Display:
    """Writes to one descriptor. `terminal`: may be drawn on."""

    descriptor: int
    terminal: bool
    shown: str = ""
    drawn_s: float = float("-inf")
    gone: bool = False

    def pass_on(self, line: bytes, *, running: bool) -> None:
        """A line of make, as it is; while a step runs a terminal is spared its details."""
        text = line.decode(errors="replace")
        if self.terminal and running and CHATTER.match(text) and " failed" not in text:
            return
        self._above(line if line.endswith(b"\n") else line + b"\n")

    def say(self, text: str) -> None:
        """A line of our own."""
        self._above(text.encode() + b"\n")

    def _above(self, line: bytes) -> None:
        shown, self.shown = self.shown, ""
        self._write((CLEAR.encode() if shown else b"") + line + shown.encode())
        self.shown = shown

    def draw(self, make: Callable[[int], str], now_s: float) -> None:
        """The state, at most twice a second on a terminal and once a minute in a log."""
        if now_s - self.drawn_s < (DRAW_S if self.terminal else PLAIN_S):
            return
        self.drawn_s = now_s
        if not self.terminal:
            self.say(f"matrix: {make(1_000)}")
            return
        text = make(self.cells() - 1)  # a full last column makes some terminals wrap
        if text != self.shown:
            self._write((CLEAR + text).encode())
            self.shown = text

    def clear(self) -> None:
        """Take the line away."""
        if self.shown:
            self._write(CLEAR.encode())
            self.shown = ""

    def cells(self) -> int:
        """Width of the terminal, which may have changed since."""
        try:
            return os.get_terminal_size(self.descriptor).columns or FALLBACK_CELLS
        except OSError:
            return FALLBACK_CELLS

    def _write(self, data: bytes) -> None:
        """All of it; a terminal that has gone is no reason to stop what it showed."""
        while data and not self.gone:
            try:
                data = data[os.write(self.descriptor, data) :]
            except BlockingIOError:
                continue
            except OSError:
                self.gone = True


def is_terminal(descriptor: int) -> bool:
    """Whether lines may be drawn in place there."""
    with contextlib.suppress(OSError):
        dumb = os.environ.get("TERM", "dumb") == "dumb" or bool(os.environ.get("CI"))
        return os.isatty(descriptor) and not dumb
    return False
