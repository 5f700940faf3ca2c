"""Exchanges as the client would have made them, for tests of what is read out of them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from typing import Any

from hypothesis import settings

from kvload.answer import Answer
from kvload.exchange import Exchange
from kvpipe.records import Status

# A slow machine is no failure.
patient = settings(deadline=None)

STAMPED = {
    "first_chunk_ns",
    "first_token_ns",
    "first_content_ns",
    "second_token_ns",
    "last_token_ns",
    "chunk_ns",
    "merged_reads",
    "reads",
}


def exchange_of(
    reads: Iterable[bytes],
    *,
    status: int | None = 200,
    error_kind: Status | None = None,
    error: str | None = None,
    headers: dict[str, str] | None = None,
    reason: str = "OK",
) -> Exchange:
    """The n-th read (from 0) has the stamp (n + 1) * 1000."""
    exchange = Exchange()
    exchange.status, exchange.reason = status, reason
    exchange.error_kind, exchange.error = error_kind, error
    exchange.headers = headers or {}
    exchange.raw = [(0, (n + 1) * 1000, data) for n, data in enumerate(reads)]
    return exchange


def untimed(answer: Answer) -> dict[str, Any]:
    """The answer without its stamps, and with how many of them there were."""
    kept = {
        field.name: getattr(answer, field.name)
        for field in dataclasses.fields(answer)
        if field.name not in STAMPED
    }
    return kept | {
        "token events": len(answer.chunk_ns),
        "nulls": {name for name in STAMPED if getattr(answer, name) is None},
    }


def sse(*chunks: dict[str, Any] | str, end: str = "\n\n") -> list[bytes]:
    """One read for each event."""
    texts = [chunk if isinstance(chunk, str) else json.dumps(chunk) for chunk in chunks]
    return [f"data: {text}{end}".encode() for text in texts]


def delta(finish: str | None = None, index: int = 0, **fields: Any) -> dict[str, Any]:
    """A chat chunk of one choice."""
    choice = {"index": index, "delta": fields, "finish_reason": finish}
    return {"id": "chatcmpl-1", "choices": [choice]}


ROLE = delta(role="assistant", content="")
DONE = "[DONE]"


def usage(completion: int, **more: Any) -> dict[str, Any]:
    """The chunk without choices that carries usage."""
    counts = {"prompt_tokens": 10, "completion_tokens": completion, **more}
    return {"id": "chatcmpl-1", "choices": [], "usage": counts}
