"""Counts of a round as its records are written."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field

from kvload.drafts import Draft


@dataclass(slots=True)
class Tally:
    """Counts of a round as its records are written."""

    done: int = 0  # sentinels apart, as a person counts the scenario's requests
    sent: int = 0
    ok: int = 0
    failed: int = 0
    retried: int = 0
    merged_reads: int = 0
    last_error: str | None = None
    # An array holds 8 bytes a request, and a long run has many.
    lateness_s: array[float] = field(default_factory=lambda: array("d"))
    stamp_lag_s: array[float] = field(default_factory=lambda: array("d"))
    in_flight_ns: int = 0
    first_sent_ns: int | None = None
    last_sent_ns: int | None = None

    def count(self, draft: Draft) -> None:
        """One more request is over."""
        record = draft.record
        self.done += record.stratum != "sentinel"
        self.sent += record.sent_ns is not None
        self.ok += record.status == "ok"
        self.failed += record.status != "ok"
        self.retried += record.retries
        self.merged_reads += record.merged_reads or 0
        self.in_flight_ns += record.end_ns - record.start_ns
        if record.error is not None:
            self.last_error = record.error
        if record.sent_ns is not None:
            self._note_sent(record.sent_ns)
            self.lateness_s.append((record.sent_ns - draft.ready_ns) / 1e9)
        if draft.stamp_lag_ns is not None:
            self.stamp_lag_s.append(draft.stamp_lag_ns / 1e9)

    def _note_sent(self, at_ns: int) -> None:
        """A request left, in whatever order they are told of."""
        self.first_sent_ns = min(at_ns, self.first_sent_ns or at_ns)
        self.last_sent_ns = max(at_ns, self.last_sent_ns or at_ns)

    @property
    def sent_rps(self) -> float | None:
        """Requests per second from the first one sent to the last one; null below two."""
        if self.first_sent_ns is None or self.last_sent_ns is None:
            return None
        window_ns = self.last_sent_ns - self.first_sent_ns
        return (self.sent - 1) / window_ns * 1e9 if window_ns > 0 else None
