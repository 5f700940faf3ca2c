"""What several workers tell, brought into one order: that in which requests ended.

What a perfect cache could have given a request follows from all requests that began before its
first token, whichever worker sent them. So a finished request is held until every worker has told
what it had begun by then; each of them ticks ten times a second and more.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection, wait

from kvload.bodies import Prepared
from kvload.drafts import Draft, RoundFacts
from kvload.drive import Outcome, now_ns
from kvload.ledger import Ledger
from kvload.messages import Begun, Done, Event, Over, decode_events
from kvpipe.records import Request


class Collector:
    """Reads every worker's events until all are done or lost."""

    def __init__(
        self,
        events: Sequence[Connection],
        prepared: Mapping[int, Prepared],
        facts: RoundFacts,
        ledger: Ledger,
        *,
        lost: Callable[[int], str],
        stop: Callable[[str], object],
    ) -> None:
        self._live = dict(enumerate(events))
        self._prepared = prepared
        self._facts = facts
        self._ledger = ledger
        self._lost = lost
        self._stop = stop
        self._told_ns: dict[int, float] = dict.fromkeys(self._live, 0.0)
        self._flying: dict[int, dict[int, int]] = {place: {} for place in self._live}
        self._begun: dict[int, list[int]] = {place: [] for place in self._live}
        self._held: list[tuple[int, int, Draft]] = []
        self._outcomes: list[Outcome] = []

    def run(self) -> list[Outcome]:
        """Write all records; blocks, so it has a thread of its own."""
        while self._live:
            readable = wait(list(self._live.values()))
            for place in [place for place, pipe in self._live.items() if pipe in readable]:
                try:
                    told = decode_events(self._live[place].recv_bytes())
                except (EOFError, OSError):
                    self._bury(place)
                    continue
                for event in told:
                    self._take(place, event)
            self._release()
        return self._outcomes

    def _take(self, place: int, event: Event) -> None:
        if isinstance(event, Begun):
            self._flying[place][event.index] = event.at_ns
            self._begun[place].append(event.index)
            self._ledger.began(self._prepared[event.index].planned, event.at_ns)
        elif isinstance(event, Over):
            self._flying[place].pop(event.draft.record.index, None)
            self._hold(event.draft)
        elif isinstance(event, Done):
            self._finish(place, event.outcome)
        else:
            self._told_ns[place] = event.at_ns

    def _hold(self, draft: Draft) -> None:
        heapq.heappush(
            self._held, (draft.record.end_ns + self._facts.origin_ns, draft.record.index, draft)
        )

    def _release(self) -> None:
        """Write what everything is known about."""
        known_ns = min(self._told_ns.values())
        while self._held and self._held[0][0] <= known_ns:
            _, index, draft = heapq.heappop(self._held)
            self._ledger.ended(self._prepared[index].planned, draft)

    def _finish(self, place: int, outcome: Outcome) -> None:
        del self._live[place]
        self._told_ns[place] = math.inf
        self._outcomes.append(outcome)
        if outcome.stopped is not None:
            self._stop(outcome.stopped)

    def _bury(self, place: int) -> None:
        """A worker is gone: what it had begun is written as cancelled, and the others stop."""
        how = self._lost(place)
        for index, at_ns in self._flying[place].items():
            self._hold(self._orphan(self._prepared[index], at_ns, how))
        self._finish(place, Outcome(stopped=how, begun=self._begun[place], last_end_ns=now_ns()))

    def _orphan(self, item: Prepared, at_ns: int, how: str) -> Draft:
        facts, planned = self._facts, item.planned
        start_ns = at_ns - facts.origin_ns
        record = Request(
            run_id=facts.run_id,
            index=planned.index,
            request_id=item.request_id,
            group=planned.group,
            stratum=planned.stratum,
            turn=planned.turn,
            endpoint_url=facts.endpoint_url,
            scheduled_ns=start_ns,
            start_ns=start_ns,
            end_ns=now_ns() - facts.origin_ns,
            body_bytes=len(item.body),
            floor_tokens=facts.floor_tokens,
            status="cancelled",
            error=f"{how}: whether the request was sent is not known",
        )
        return Draft(record=record, ready_ns=start_ns, stamp_lag_ns=None)
