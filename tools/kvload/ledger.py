"""Where all requests of a round are known: ideals are filled in, records counted and written."""

from __future__ import annotations

from collections.abc import Callable
from typing import BinaryIO

import msgspec

from kvload.drafts import Draft
from kvload.ideals import RoundIdeals
from kvload.tally import Tally
from kvpipe.jsonl import encode
from kvpipe.records import Planned, Request


class Ledger:
    """Takes requests as they begin and end, in the order of either; writes their records."""

    def __init__(
        self,
        out: BinaryIO,
        origin_ns: int,
        ideals: RoundIdeals,
        on_written: Callable[[Tally], None],
        on_record: Callable[[Request], None] | None = None,
    ) -> None:
        self._out = out
        self._origin_ns = origin_ns
        self._ideals = ideals
        self._on_written = on_written
        self._on_record = on_record
        self.tally = Tally()

    def began(self, planned: Planned, at_ns: int) -> None:
        """A request is about to be sent."""
        self._ideals.began(planned, at_ns)

    def ended(self, planned: Planned, draft: Draft) -> None:
        """A request is over; whatever began before its first token must be known by now."""
        record, origin_ns = draft.record, self._origin_ns
        first_ns, sent_ns = record.first_token_ns, record.sent_ns
        ideal = self._ideals.of(
            planned,
            began_ns=record.start_ns + origin_ns,
            sent_ns=None if sent_ns is None else sent_ns + origin_ns,
            first_token_ns=None if first_ns is None else first_ns + origin_ns,
            prompt_tokens=record.prompt_tokens,
        )
        self.tally.count(draft)
        if record.status == "ok":
            self._ideals.ended(planned, record.end_ns + origin_ns)
        whole = msgspec.structs.replace(
            record,
            new_tokens=ideal.new_tokens,
            ideal_in_round_lo=ideal.lo,
            ideal_in_round_hi=ideal.hi,
            ideal_prior_tokens=ideal.prior,
        )
        if self._on_record is not None:
            self._on_record(whole)
        self._out.write(encode(whole))
        self._out.flush()
        self._on_written(self.tally)
