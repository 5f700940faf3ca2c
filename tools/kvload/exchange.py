"""What was seen of one request on the wire: stamps and bytes, nothing understood yet."""

from __future__ import annotations

from typing import Literal

from kvpipe.records import Status


class Exchange:
    """One request and its answer. All stamps are absolute, of `time.perf_counter_ns`.

    The client fills in the upper attributes in the event loop, as cheaply as it can; the
    properties are worked out when they are first asked for, which should be later. Of a request
    that was retried everything here is of the second attempt.

    `raw`: one entry for every read of the answer, (kernel stamp or 0, user stamp, body bytes);
    the body bytes are out of their framing, empty for a read of head or framing alone.
    `first_read`, `head_read`: which of them held the first byte, and the end of the head.
    `stamp_source`: `kernel` only if the kernel stamped every read of this answer.
    `ended_ns`: user stamp of the end where no read marks it (an error, or a close).
    `error_kind`: how it failed on the wire; null if a whole answer came, whatever its status.
    """

    __slots__ = (
        "_reads",
        "attempts",
        "body_sent_ns",
        "connection",
        "ended_ns",
        "error",
        "error_kind",
        "first_read",
        "head_read",
        "headers",
        "raw",
        "reason",
        "sent_ns",
        "stamp_source",
        "status",
    )

    def __init__(self) -> None:
        self.attempts = 0
        self.error_kind: Status | None = None
        self.error: str | None = None
        self.connection: Literal["reused", "new"] | None = None
        self.sent_ns: int | None = None
        self.body_sent_ns: int | None = None
        self.begin_attempt()

    def begin_attempt(self) -> None:
        """Forget what an earlier attempt saw."""
        self.sent_ns = None
        self.body_sent_ns = None
        self.ended_ns: int | None = None
        self.raw: list[tuple[int, int, bytes]] = []
        self.first_read: int | None = None
        self.head_read: int | None = None
        self.status: int | None = None
        self.reason = ""
        self.headers: dict[str, str] = {}
        self._reads: list[tuple[int, bytes]] | None = None
        self.stamp_source: Literal["kernel", "user"] = "user"

    @property
    def retries(self) -> int:
        """First attempts that were reset before any byte of an answer: 0 or 1."""
        return max(0, self.attempts - 1)

    @property
    def reads(self) -> list[tuple[int, bytes]]:
        """(stamp, body bytes) of every read, the stamps all from the same source."""
        if self._reads is None:
            if self.stamp_source == "kernel":
                self._reads = [(kernel, body) for kernel, _, body in self.raw]
            else:
                self._reads = [(user, body) for _, user, body in self.raw]
        return self._reads

    def let_bodies_go(self) -> None:
        """Free what the answer said, keep its stamps: there is no memory to read it with."""
        self._reads = None
        for number, (kernel, user, _) in enumerate(self.raw):
            self.raw[number] = (kernel, user, b"")

    @property
    def user_lag_ns(self) -> int | None:
        """The largest delay between kernel and user stamp; null without kernel stamps."""
        if self.stamp_source == "user":
            return None
        return max(user - kernel for kernel, user, _ in self.raw)

    @property
    def first_byte_ns(self) -> int | None:
        """First byte of the answer, interim answers excluded; null: none came."""
        return None if self.first_read is None else self._stamp(self.first_read)

    @property
    def headers_ns(self) -> int | None:
        """The answer's head was complete; null: it never was."""
        return None if self.head_read is None else self._stamp(self.head_read)

    @property
    def end_ns(self) -> int:
        """The answer was complete, or given up."""
        return self._stamp(-1) if self.ended_ns is None else self.ended_ns

    def _stamp(self, read: int) -> int:
        kernel, user, _ = self.raw[read]
        return kernel if self.stamp_source == "kernel" else user
