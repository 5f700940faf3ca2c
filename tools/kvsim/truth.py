"""What really happened, stamped by the server: one JSON line a request.

Stamps are nanoseconds of CLOCK_MONOTONIC (``time.perf_counter_ns``), which every process of one
machine shares: a client's own stamps can be held against them.
"""

import time
from collections import deque
from pathlib import Path
from typing import IO

import msgspec


class Trace(msgspec.Struct, kw_only=True):
    """One request. ``write_ns`` has a stamp for each chunk with a token, taken just before the
    write to the transport; ``end_ns`` is null while the answer is not finished."""

    record: str = "truth"
    request_id: str | None = None
    """The client's X-Request-Id."""
    method: str = "POST"
    path: str = ""
    head_ns: int
    """The head of the request was read."""
    read_ns: int | None = None
    """The request was read completely."""
    first_token_ns: int | None = None
    write_ns: list[int] = msgspec.field(default_factory=list)
    end_ns: int | None = None
    status: int | None = None
    cached_local: int | None = None
    cached_remote: int | None = None
    transfer_s: float | None = None
    """A decoder waited so long for the KV of the prompt."""
    prefilled_ns: int | None = None
    """Of a proxy: the prefiller had answered."""
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    complete: bool = False
    """False: the client went away, or a fault cut the answer short."""

    def stamp(self, count: int = 1) -> None:
        """``count`` chunks with tokens are written now."""
        now = time.perf_counter_ns()
        if self.first_token_ns is None:
            self.first_token_ns = now
        self.write_ns += [now] * count


class TruthLog:
    """The latest traces in memory, all of them in a file if one was named."""

    def __init__(self, path: Path | None, keep: int = 20000) -> None:
        self._kept: deque[bytes] = deque(maxlen=keep)
        self._file: IO[bytes] | None = path.open("wb") if path else None

    def add(self, trace: Trace) -> None:
        line = msgspec.json.encode(trace) + b"\n"
        self._kept.append(line)
        if self._file is not None:
            self._file.write(line)
            self._file.flush()

    def lines(self) -> bytes:
        return b"".join(self._kept)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def new_trace(method: str, path: str, request_id: str | None) -> Trace:
    return Trace(request_id=request_id, method=method, path=path, head_ns=time.perf_counter_ns())
