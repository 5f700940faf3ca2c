"""Records are made and written off the event loop: a thread parses, a stream gets lines.

While answers stream in, the loop only stamps reads. What a finished answer said is read here, in
order of ending, so that every request's record is out well within a second of its end.
"""

from __future__ import annotations

import hashlib
import queue
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import BinaryIO

from kvload.answer import Answer, parse_answer
from kvload.bodies import Prepared
from kvload.client import Exchange
from kvload.ideals import RoundIdeals
from kvload.settings import Api
from kvpipe.jsonl import encode
from kvpipe.records import Request


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
    lateness_s: list[float] = field(default_factory=list)
    stamp_lag_s: list[float] = field(default_factory=list)
    in_flight_ns: int = 0
    first_sent_ns: int | None = None
    last_sent_ns: int | None = None

    def note_sent(self, at_ns: int) -> None:
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


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundFacts:
    """What is the same for every record of a round."""

    run_id: str
    endpoint_url: str
    api: Api
    origin_ns: int
    floor_tokens: int | None
    keep_output: bool


class Writer:
    """Turns exchanges into request records; use as a context manager around a round."""

    def __init__(
        self,
        out: BinaryIO,
        facts: RoundFacts,
        ideals: RoundIdeals,
        on_written: Callable[[Tally], None],
    ) -> None:
        self._out = out
        self._facts = facts
        self._ideals = ideals
        self._on_written = on_written
        self._queue: queue.SimpleQueue[Began | Ended | None] = queue.SimpleQueue()
        self._began_ns: dict[int, int] = {}
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="writer")
        self._work: Future[None]
        self.tally = Tally()

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
        self._queue.put(item)

    def drain(self) -> None:
        """Wait until everything handed over is written; raise what stopped the writing."""
        self._queue.put(None)
        self._thread.shutdown()
        self._work.result()

    def _until_none(self) -> None:
        # Whatever is raised here is raised again by `drain`: no round may end as if it had been
        # written when it was not.
        while (item := self._queue.get()) is not None:
            if isinstance(item, Began):
                self._began_ns[item.prepared.planned.index] = item.at_ns
                self._ideals.began(item.prepared.planned, item.at_ns)
            else:
                self._write(item)

    def _write(self, item: Ended) -> None:
        answer = parse_answer(item.exchange, self._facts.api)
        record = self._record(item, answer)
        self._count(item, record)
        if record.status == "ok":
            self._ideals.ended(item.prepared.planned, item.exchange.end_ns)
        self._out.write(encode(record))
        self._out.flush()
        self._on_written(self.tally)

    def _count(self, item: Ended, record: Request) -> None:
        tally = self.tally
        tally.done += record.stratum != "sentinel"
        tally.sent += record.sent_ns is not None
        tally.ok += record.status == "ok"
        tally.failed += record.status != "ok"
        tally.retried += record.retries
        tally.merged_reads += record.merged_reads or 0
        tally.in_flight_ns += record.end_ns - record.start_ns
        if record.error is not None:
            tally.last_error = record.error
        if record.sent_ns is not None:
            tally.note_sent(record.sent_ns)
            ready_ns = item.ready_ns - self._facts.origin_ns
            tally.lateness_s.append((record.sent_ns - ready_ns) / 1e9)
        if item.exchange.stamp_source == "kernel" and item.exchange.user_lag_ns is not None:
            tally.stamp_lag_s.append(item.exchange.user_lag_ns / 1e9)

    def _record(self, item: Ended, answer: Answer) -> Request:
        facts, exchange, planned = self._facts, item.exchange, item.prepared.planned
        ideal = self._ideals.of(
            planned,
            began_ns=self._began_ns.get(planned.index, item.start_ns),
            sent_ns=exchange.sent_ns,
            first_token_ns=answer.first_token_ns,
            prompt_tokens=answer.prompt_tokens,
        )
        local, remote = _by_source(item.served, answer)
        text = answer.output_text
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
            sent_ns=self._since(exchange.sent_ns),
            body_sent_ns=self._since(exchange.body_sent_ns),
            headers_ns=self._since(exchange.headers_ns),
            first_byte_ns=self._since(exchange.first_byte_ns),
            first_chunk_ns=self._since(answer.first_chunk_ns),
            first_token_ns=self._since(answer.first_token_ns),
            first_content_ns=self._since(answer.first_content_ns),
            second_token_ns=self._since(answer.second_token_ns),
            last_token_ns=self._since(answer.last_token_ns),
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
            new_tokens=ideal.new_tokens,
            floor_tokens=facts.floor_tokens,
            ideal_in_round_lo=ideal.lo,
            ideal_in_round_hi=ideal.hi,
            ideal_prior_tokens=ideal.prior,
            status=answer.status,
            http_status=exchange.status,
            error=answer.error,
            finish_reason=answer.finish_reason,
            output_sha256=hashlib.sha256(text.encode()).hexdigest() if text is not None else None,
            output_text=text if facts.keep_output else None,
            logprobs=answer.logprobs if facts.keep_output else None,
        )

    def _since(self, stamp_ns: int | None) -> int | None:
        return None if stamp_ns is None else stamp_ns - self._facts.origin_ns


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
