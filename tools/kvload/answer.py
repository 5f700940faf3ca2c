"""An exchange understood: when tokens came, what the server counted, and how it ended.

Pure, and meant for later: nothing here runs while other answers stream.

Token events. A chunk carries tokens if it has a non-empty content, text, reasoning, tool call or
list of token ids; never the chunk that only opens a choice with its role. Where `usage` reports
more completion tokens than there are such chunks, the chunks behind the opening one whose content
is present but empty carried them too: an engine sends those for tokens without text (half a
character, a control token). Without `usage` nothing tells, and they are not counted.

Several events that were whole with the same read have the same stamp: `merged_reads` counts them.
Of an answer with several choices all events count, whichever choice they belong to.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from kvengine.urls import redact
from kvload.exchange import Exchange
from kvload.transcript import Transcript, shortened
from kvpipe.records import Status

MOST = 2**53
"""Tokens that no answer has: what counts more counts something else."""
_BLANK = b"\xef\xbb\xbf \t\r\n"  # a byte order mark, and blanks


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What one request's answer amounts to. Stamps are absolute, of `time.perf_counter_ns`.

    The fields are those of the `request` record; all stamps of tokens are null, and `chunk_ns` is
    empty, for an answer that was not streamed. `logprobs` is as the server sent it, the lists of
    a chat's chunks joined. `output_text` holds reasoning, content and tool calls as they came.
    """

    status: Status
    error: str | None = None
    first_chunk_ns: int | None = None
    first_token_ns: int | None = None
    first_content_ns: int | None = None
    second_token_ns: int | None = None
    last_token_ns: int | None = None
    chunk_ns: list[int]
    merged_reads: int | None = None
    reads: int | None = None
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    created_cache_tokens: int | None = None
    token_source: Literal["usage", "token_ids", "chunks"] | None = None
    usage: dict[str, Any] | None = None
    server_timings: dict[str, Any] | None = None
    server_request_id: str | None = None
    finish_reason: str | None = None
    output_text: str | None = None
    logprobs: list[Any] | None = None


def parse_answer(exchange: Exchange) -> Answer:
    """Works for both APIs, whichever was asked: proxies mix their chunks. Never raises.

    An answer that there is no memory to read is let go, so that the requests after it are not
    lost with it; its stamps and how it ended stay.
    """
    try:
        return _parsed(exchange)
    except MemoryError:
        exchange.let_bodies_go()
    return Answer(
        status=exchange.error_kind or "stream_error",
        error=exchange.error or "no memory to read the answer",
        chunk_ns=[],
        reads=len(exchange.raw) or None,
    )


def _parsed(exchange: Exchange) -> Answer:
    reads = exchange.reads
    if exchange.status is None or exchange.status >= 300 or _encoded(exchange):
        status, error = _failed(exchange)
        return Answer(status=status, error=error, chunk_ns=[], reads=len(reads) or None)
    bodies = [data for _, data in reads]
    transcript = Transcript()
    streamed = not _starts(bodies).startswith((b"{", b"["))
    if streamed:
        transcript.read_stream(bodies, whole=exchange.error_kind is None)
    else:
        transcript.read_object(len(reads) - 1, b"".join(bodies).lstrip(_BLANK))
    status, error = _verdict(exchange, transcript)
    return _answer(exchange, transcript, status, error, streamed=streamed)


def _answer(
    exchange: Exchange, said: Transcript, status: Status, error: str | None, *, streamed: bool
) -> Answer:
    stamps = [stamp for stamp, _ in exchange.reads]
    at = _token_events(said) if streamed else []
    tokens = [stamps[read] for read in at]
    output, source = _output_tokens(said, len(at))
    first = min(said.choices, default=None)
    return Answer(
        status=status,
        error=error,
        first_chunk_ns=_stamp(stamps, said.first_chunk),
        first_token_ns=tokens[0] if tokens else None,
        first_content_ns=_stamp(stamps, said.first_content) if streamed else None,
        second_token_ns=tokens[1] if len(tokens) > 1 else None,
        last_token_ns=tokens[-1] if tokens else None,
        chunk_ns=tokens,
        merged_reads=len(at) - len(set(at)) if streamed else None,
        reads=len(stamps),
        prompt_tokens=_prompt_tokens(said),
        output_tokens=output,
        cached_tokens=_cached_tokens(said),
        created_cache_tokens=_count(_details(said), "created_cache_tokens"),
        token_source=source,
        usage=said.usage,
        server_timings=said.timings,
        server_request_id=said.id,
        finish_reason=None if first is None else said.choices[first].finish_reason,
        output_text=said.text(),
        logprobs=said.logprobs or None,
    )


def _token_events(said: Transcript) -> list[int]:
    """Reads with which the token events were whole, in order; the rule is the module's."""
    told = [mark for mark in said.marks if mark >= 0]
    counted = _count(said.usage, "completion_tokens")
    if len(told) == len(said.marks) or counted is None or counted <= len(told):
        return told
    return [mark if mark >= 0 else ~mark for mark in said.marks]


def _output_tokens(
    said: Transcript, events: int
) -> tuple[int | None, Literal["usage", "token_ids", "chunks"] | None]:
    counted = _count(said.usage, "completion_tokens")
    if counted is not None:
        return counted, "usage"
    if said.token_ids:
        return said.token_ids, "token_ids"
    return (events, "chunks") if events else (None, None)


def _prompt_tokens(said: Transcript) -> int | None:
    counted = _count(said.usage, "prompt_tokens")
    if counted is not None:
        return counted
    # llama.cpp: prompt_n is what was processed, cache_n what was not (tools/server/README.md)
    computed, cached = _count(said.timings, "prompt_n"), _count(said.timings, "cache_n")
    return None if computed is None or cached is None else computed + cached


def _cached_tokens(said: Transcript) -> int | None:
    """As the server reported it: OpenAI's place, DeepSeek's, llama.cpp's; null is not 0."""
    for counts, key in (
        (_details(said), "cached_tokens"),
        (said.usage, "prompt_cache_hit_tokens"),
        (said.timings, "cache_n"),
    ):
        if (count := _count(counts, key)) is not None:
            return count
    return None


def _details(said: Transcript) -> dict[str, Any] | None:
    details = (said.usage or {}).get("prompt_tokens_details")
    return details if isinstance(details, dict) else None


def _count(counts: dict[str, Any] | None, key: str) -> int | None:
    value = (counts or {}).get(key)
    whole = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < MOST
    return value if whole else None


def _stamp(stamps: list[int], read: int | None) -> int | None:
    return None if read is None else stamps[read]


def _starts(bodies: list[bytes]) -> bytes:
    """The first read's bytes that are not blank; empty for an empty answer."""
    return next((start for data in bodies if (start := data.lstrip(_BLANK))), b"")


def _verdict(exchange: Exchange, said: Transcript) -> tuple[Status, str | None]:
    """How an answer of 2xx ended. What the server says of an error comes before what we saw."""
    kind = exchange.error_kind
    if kind in ("timeout", "cancelled"):
        return kind, exchange.error
    if said.error is not None:
        return "stream_error", said.error
    if kind == "truncated" and not said.done:
        return kind, exchange.error
    if kind not in (None, "truncated"):
        return kind, exchange.error
    if said.garbled is not None:
        return "stream_error", f"the stream holds what is {said.garbled}"
    if not said.choices:
        seen = shortened(b"".join(data for _, data in exchange.reads), 80)
        return "stream_error", f"the answer has no choices: {seen}" if seen else "an empty answer"
    if said.done or said.finished():
        return "ok", None
    return "truncated", "the stream ended without [DONE] or a finish_reason"


def _encoded(exchange: Exchange) -> bool:
    return exchange.headers.get("content-encoding", "identity").strip().lower() != "identity"


def _failed(exchange: Exchange) -> tuple[Status, str | None]:
    """How a request ended that got no answer of 2xx that we can read."""
    status, kind = exchange.status, exchange.error_kind
    if status is None or kind in ("timeout", "cancelled"):
        return kind or "stream_error", exchange.error
    if status < 300:
        coding = shortened(exchange.headers["content-encoding"], 40)
        return "stream_error", f"the answer is compressed ({coding}) although identity was asked"
    where = f"HTTP {status} {exchange.reason}".rstrip()
    location = exchange.headers.get("location")
    if status < 400:
        to = f" to {shortened(redact(location))}" if location else ""
        return "http_error", f"{where}: redirected{to}; give the final URL"
    said = _refusal(b"".join(data for _, data in exchange.reads))
    return "http_error", f"{where}: {said}" if said else where


def _refusal(body: bytes) -> str:
    """The server's own words, from JSON in the manners of OpenAI and FastAPI, or as they are."""
    transcript = Transcript()
    transcript.read_object(0, body)
    if transcript.error is not None:
        return transcript.error
    return shortened(body)
