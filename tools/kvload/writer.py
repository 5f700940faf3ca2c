"""Records are made and written off the event loop: a thread parses, a stream gets lines.

While answers stream in, the loop only stamps reads. What a finished answer said is read here, in
order of ending, so that every request's record is out well within a second of its end.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor

from kvload.drafts import Began, Ended, RoundFacts, draft_of
from kvload.handover import Handover
from kvload.ledger import Ledger


class Writer:
    """Turns exchanges into request records; use as a context manager around a round."""

    def __init__(self, facts: RoundFacts, ledger: Ledger) -> None:
        self._facts = facts
        self._ledger = ledger
        self._events: Handover[Began | Ended | None] = Handover()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="writer")
        self._work: Future[None]

    def __enter__(self) -> Writer:
        self._work = self._thread.submit(self._until_none)
        return self

    def __exit__(self, *_: object) -> None:
        self.drain()

    @property
    def ended(self) -> bool:
        """Whether nothing will be written any more: before `drain` that is a failure."""
        return self._work.done()

    def put(self, item: Began | Ended) -> None:
        """Hand over an event; never blocks."""
        if isinstance(item, Began):
            self._events.leave(item)
        else:
            self._events.hand(item)

    def tick(self, at_ns: int) -> None:
        """One process puts everything in order: nothing has to be known of the time."""

    def drain(self) -> None:
        """Wait until everything handed over is written; raise what stopped the writing."""
        self._events.hand(None)
        self._thread.shutdown()
        self._work.result()

    def _until_none(self) -> None:
        # Whatever is raised here is raised again by `drain`: no round may end as if it had been
        # written when it was not.
        while True:
            for item in self._events.take(1):
                if item is None:
                    return
                planned = item.prepared.planned
                if isinstance(item, Began):
                    self._ledger.began(planned, item.at_ns)
                else:
                    self._ledger.ended(planned, draft_of(item, self._facts))
