"""A beginning that several machines have in common: an instant of the wall clock.

Only the beginning needs clocks that agree, and to a second or so: every duration comes from one
machine's own clock.
"""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime

from kvpipe.process import ToolError, UsageError

LEAD_S = 2.0  # for connections and counters, after everybody's warm-up and before the first request
LATE_S = 0.5
STEP_S = 1.0  # a wall clock may be set while one waits for it


def instant(text: str) -> datetime:
    """The instant of `--start-at`; UsageError if it is none, or means several."""
    if text.isdigit():
        return datetime.fromtimestamp(int(text), UTC)
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(
            f"--start-at {text}: 2026-11-20T17:00:00Z, or seconds since 1970 (date -d '+2 min'"
            " +%s), is wanted"
        ) from None
    if found.tzinfo is None:
        raise UsageError(
            f"--start-at {text}: without a zone it is another instant on each machine: add Z"
        )
    return found


class Start:
    """The common beginning of the first round."""

    def __init__(self, at: datetime) -> None:
        self.at = at
        self.passed = False

    def check(self) -> None:
        """ToolError if it is over: alone, a shard offers no common load."""
        late_s = -self._left_s()
        if late_s > 0:
            raise ToolError(
                f"--start-at {self.at.isoformat()} was {late_s:.1f} s ago, and nothing was sent:"
                " a later time leaves room for the plan and the warm-up"
            )

    async def near(self) -> None:
        """Wait until shortly before it."""
        await self._until(LEAD_S)

    async def come(self) -> float:
        """Wait for it; by how many seconds it was missed."""
        await self._until(0.0)
        self.passed = True
        return -self._left_s()

    async def _until(self, before_s: float) -> None:
        while (left_s := self._left_s() - before_s) > 0:
            await asyncio.sleep(min(left_s, STEP_S))

    def _left_s(self) -> float:
        return self.at.timestamp() - time.time()
