"""When a round gives up: nobody is there any more. A server that serves others is there."""

from __future__ import annotations

from typing import Any, cast

from kvload.client import Client, Exchange
from kvload.drafts import Began, Ended
from kvload.drive import HOPELESS_FAILURES, Round
from kvload.pacing import Pace


class Serving:
    """A client with so many requests under way."""

    busy = 0


class Nowhere:
    ended = False

    def put(self, item: Began | Ended) -> None: ...

    def tick(self, at_ns: int) -> None: ...


def failed(*, attempts: int) -> Exchange:
    exchange = Exchange()
    exchange.attempts = attempts
    exchange.error_kind, exchange.error = "connect_error", "no connection within 30 s"
    return exchange


def stopped_after(busy: int, attempts: int) -> int | None:
    """How many failures in a row it took; null: fifty were not enough."""
    client = Serving()
    client.busy = busy
    a_round: Any = Round(cast(Client, client), Nowhere(), Pace(due_ns=None, slots=1))
    for number in range(1, 51):
        a_round._judge(failed(attempts=attempts))
        if a_round._stop is not None:
            return number
    return None


def test_connections_that_fail_end_a_round_unless_others_are_served() -> None:
    assert stopped_after(busy=0, attempts=0) == HOPELESS_FAILURES
    assert stopped_after(busy=3, attempts=0) is None
    assert stopped_after(busy=3, attempts=2) == HOPELESS_FAILURES  # it was there, and hung up
