"""Events on their way from the loop to a thread, which is woken only for what is work.

Waking a thread for every request that begins would cost the loop a switch each, and the thread has
nothing to do before one ends.
"""

from __future__ import annotations

import queue
from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class Handover(Generic[T]):
    """A queue in order of putting; for one taker."""

    def __init__(self) -> None:
        self._items: deque[T] = deque()
        self._woken: queue.SimpleQueue[None] = queue.SimpleQueue()

    def leave(self, item: T) -> None:
        """Put an item that can wait until the taker is woken."""
        self._items.append(item)

    def hand(self, item: T) -> None:
        """Put an item and wake the taker."""
        self._items.append(item)
        self._woken.put(None)

    def take(self, most: int) -> list[T]:
        """Wait to be woken; what was put so far, up to `most` items and at least one."""
        while True:
            if not self._items:
                self._woken.get()
            taken: list[T] = []
            while self._items and len(taken) < most:
                taken.append(self._items.popleft())
            if taken:
                return taken
