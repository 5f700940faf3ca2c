"""From a finished exchange to the record of its request: all but what other requests decide.

What a perfect cache could have given follows from every request of the round; it is filled in
where all of them are known (`ledger`), which may be another process.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass, field

import msgspec

from kvengine.access import without
from kvload.answer import Answer, parse_answer
from kvload.bodies import Prepared
from kvload.exchange import Exchange
from kvpipe.records import Request

_MEMORY_TRIES = 20
_MEMORY_PAUSE_S = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Began:
    """A request is about to be sent."""

    prepared: Prepared
    at_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """What the server's counters said of one request, serially: tokens by source."""

    prompt_tokens: float | None
    local: float | None
    external: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """A request is over, well or badly.

    `ready_ns`: since when it was due and had nothing left to wait for.
    """

    prepared: Prepared
    exchange: Exchange
    scheduled_ns: int
    ready_ns: int
    start_ns: int
    served: Served | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundFacts:
    """What is the same for every record of a round. `origin_ns`: their 0 ns, on our clock."""

    run_id: str
    endpoint_url: str
    origin_ns: int
    floor_tokens: int | None
    keep_output: bool
    secrets: tuple[str, ...] = field(default=(), repr=False)
    """What no record may quote, whatever the server does."""


class Draft(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """A request's record without its ideals, and what the tally wants besides.

    `ready_ns`: as the record's stamps, since when nothing was left to wait for. `stamp_lag_ns`:
    the largest delay between kernel and user stamp; null without kernel stamps.
    """

    record: Request
    ready_ns: int
    stamp_lag_ns: int | None


def draft_of(item: Ended, facts: RoundFacts) -> Draft:
    """Read what the answer said; where memory ran out, wait a little for the answer that took it.

    One that fills the memory is let go as soon as the next of its bytes finds no room
    (`connection`), so the records of the others must only outlast that.
    """
    for _ in range(_MEMORY_TRIES):
        try:
            return _draft(item, facts)
        except MemoryError:
            time.sleep(_MEMORY_PAUSE_S)
    return _draft(item, facts)


def _draft(item: Ended, facts: RoundFacts) -> Draft:
    exchange = item.exchange
    return Draft(
        record=_record(item, parse_answer(exchange), facts),
        ready_ns=item.ready_ns - facts.origin_ns,
        stamp_lag_ns=exchange.user_lag_ns if exchange.stamp_source == "kernel" else None,
    )


def _record(item: Ended, answer: Answer, facts: RoundFacts) -> Request:
    exchange, planned = item.exchange, item.prepared.planned
    local, remote = _by_source(item.served, answer)
    text = answer.output_text

    def since(stamp_ns: int | None) -> int | None:
        return None if stamp_ns is None else stamp_ns - facts.origin_ns

    return Request(
        run_id=facts.run_id,
        index=planned.index,
        request_id=item.prepared.request_id,
        server_request_id=answer.server_request_id,
        group=planned.group,
        stratum=planned.stratum,
        turn=planned.turn,
        endpoint_url=facts.endpoint_url,
        scheduled_ns=item.scheduled_ns - facts.origin_ns,
        start_ns=item.start_ns - facts.origin_ns,
        sent_ns=since(exchange.sent_ns),
        body_sent_ns=since(exchange.body_sent_ns),
        headers_ns=since(exchange.headers_ns),
        first_byte_ns=since(exchange.first_byte_ns),
        first_chunk_ns=since(answer.first_chunk_ns),
        first_token_ns=since(answer.first_token_ns),
        first_content_ns=since(answer.first_content_ns),
        second_token_ns=since(answer.second_token_ns),
        last_token_ns=since(answer.last_token_ns),
        end_ns=exchange.end_ns - facts.origin_ns,
        chunk_ns=[stamp - facts.origin_ns for stamp in answer.chunk_ns] or None,
        stamp_source=exchange.stamp_source,
        merged_reads=answer.merged_reads,
        reads=answer.reads,
        connection=exchange.connection,
        retries=exchange.retries,
        body_bytes=len(item.prepared.body),
        prompt_tokens=answer.prompt_tokens,
        output_tokens=answer.output_tokens,
        cached_tokens=answer.cached_tokens,
        created_cache_tokens=answer.created_cache_tokens,
        token_source=answer.token_source,
        usage=answer.usage,
        server_timings=answer.server_timings,
        cached_local_tokens=local,
        cached_remote_tokens=remote,
        floor_tokens=facts.floor_tokens,
        status=answer.status,
        http_status=exchange.status,
        error=answer.error and without(answer.error, facts.secrets),
        finish_reason=answer.finish_reason,
        output_sha256=hashlib.sha256(text.encode()).hexdigest() if text is not None else None,
        output_text=text if facts.keep_output else None,
        logprobs=answer.logprobs if facts.keep_output else None,
    )


def _by_source(served: Served | None, answer: Answer) -> tuple[int | None, int | None]:
    """Local and external hits, if the counters moved by exactly this request's prompt."""
    if served is None or answer.prompt_tokens is None:
        return None, None
    if served.prompt_tokens is None or round(served.prompt_tokens) != answer.prompt_tokens:
        return None, None
    return (
        None if served.local is None else round(served.local),
        None if served.external is None else round(served.external),
    )
