"""Synthetic streams: rounds of a well-behaved endpoint, to be spoilt one fact at a time.

The endpoint caches blocks of 16 tokens and reports them. Prompts are `CONTEXT` shared tokens and
`QUESTION` own ones; times are round milliseconds, so that ratios in tests are exact.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from msgspec import structs

from kvpipe.jsonl import decode_line, encode
from kvpipe.records import (
    Arrival,
    Barrier,
    ClientHealth,
    End,
    Host,
    Request,
    RoundStats,
    Run,
    ServerMetrics,
)
from kvstats.lots import Lot, lots_of
from kvstats.metrics import REQUEST_METRICS, Column
from kvstats.round import Round
from kvstats.streams import Rounds
from kvstats.summary import summarise

MS = 1_000_000
BLOCK = 16
CONTEXT = 1_600
QUESTION = 64
PROMPT = CONTEXT + QUESTION
OUTPUT = 9
FLOOR = 10
ENDPOINT = "http://127.0.0.1:8001"
METRICS = "http://127.0.0.1:8001/metrics"
MISS_MS = 900
HIT_MS = 60
GAP_MS = 20
UNANSWERED = (
    *("headers_ns", "first_byte_ns", "first_chunk_ns", "first_token_ns", "first_content_ns"),
    *("second_token_ns", "last_token_ns", "chunk_ns", "prompt_tokens", "output_tokens"),
    *("cached_tokens", "token_source", "http_status", "finish_reason", "output_sha256"),
)


def run(**over: Any) -> Run:
    """A cold round's head."""
    facts: dict[str, Any] = {
        "run_id": "r1",
        "experiment_id": "e",
        "name": "long_context_high_reuse",
        "scenario": "long_context_high_reuse",
        "arm": "cold",
        "tier": "local",
        "repeat": 1,
        "round_num": 1,
        "rounds": 2,
        "endpoint_url": ENDPOINT,
        "model": "m",
        "plan_sha256": "a" * 64,
        "shape_sha256": "b" * 64,
        "seed": 1,
        "calibrated": "tokenize",
        "arrival": Arrival(kind="serial"),
        "salt": "s",
        "salt_way": "cache_salt",
        "block_tokens": BLOCK,
        "tool_version": "0.1.0",
        "host": Host(name="h", system="Linux", python="3.11", cpus=2),
        "started_at": "2026-01-02T03:04:05+00:00",
    }
    return Run(**(facts | over))


def request(index: int, *, at_ms: float = 0.0, ttft_ms: float = MISS_MS, **over: Any) -> Request:
    """An answer of `OUTPUT` tokens, one every `GAP_MS`."""
    sent = round(at_ms * MS)
    first = sent + round(ttft_ms * MS)
    chunks = [first + n * GAP_MS * MS for n in range(OUTPUT)]
    facts: dict[str, Any] = {
        "run_id": "r1",
        "index": index,
        "request_id": f"q{index}",
        "stratum": "unique",
        "endpoint_url": ENDPOINT,
        "scheduled_ns": sent,
        "start_ns": sent,
        "sent_ns": sent,
        "body_sent_ns": sent,
        "headers_ns": first,
        "first_byte_ns": first,
        "first_chunk_ns": first,
        "first_token_ns": first,
        "first_content_ns": first,
        "second_token_ns": chunks[1],
        "last_token_ns": chunks[-1],
        "end_ns": chunks[-1] + MS,
        "chunk_ns": chunks,
        "stamp_source": "kernel",
        "merged_reads": 0,
        "reads": OUTPUT + 1,
        "connection": "reused",
        "prompt_tokens": PROMPT,
        "output_tokens": OUTPUT,
        "cached_tokens": 0,
        "token_source": "usage",
        "new_tokens": PROMPT,
        "floor_tokens": FLOOR,
        "ideal_in_round_lo": 0,
        "ideal_in_round_hi": 0,
        "ideal_prior_tokens": 0,
        "status": "ok",
        "http_status": 200,
        "finish_reason": "length",
        "output_sha256": f"{index:064x}",
    }
    return Request(**(facts | over))


def failed(like: Request, status: str = "timeout", **over: Any) -> Request:
    """The same request without an answer."""
    nothing: dict[str, Any] = dict.fromkeys(UNANSWERED)
    return structs.replace(like, **(nothing | {"status": status, "error": "no answer"} | over))


def metric_of(metric: Callable[[Lot], Column], one: Request) -> float | None:
    """What a metric says of one request; None where it says nothing."""
    (lot,) = lots_of([one])
    (value,) = metric(lot).tolist()
    return None if math.isnan(value) else value


def metrics_of(one: Request) -> dict[str, float | None]:
    """All of them."""
    return {name: metric_of(metric, one) for name, metric in REQUEST_METRICS.items()}


@dataclass(frozen=True)
class Made:
    """One round's stream."""

    run: Run
    requests: list[Request]
    servers: list[ServerMetrics] = field(default_factory=list)
    end: End | None = None

    def change(self, which: Callable[[Request], bool], **over: Any) -> Made:
        """Change the requests that `which` picks."""
        changed = [structs.replace(r, **over) if which(r) else r for r in self.requests]
        return replace(self, requests=changed)

    def map(self, how: Callable[[Request], Request]) -> Made:
        """Every request anew; the end's counts follow."""
        return replace(self, requests=[how(r) for r in self.requests]).closed()

    def head(self, **over: Any) -> Made:
        """Change the run."""
        return replace(self, run=structs.replace(self.run, **over))

    def foot(self, **over: Any) -> Made:
        """Change the end."""
        assert self.end is not None
        return replace(self, end=structs.replace(self.end, **over))

    def seen_by(self, *servers: ServerMetrics) -> Made:
        """Add servers' counts."""
        return replace(self, servers=[*self.servers, *servers])

    def closed(self) -> Made:
        """With an end that fits the requests."""
        ok = sum(r.status == "ok" for r in self.requests)
        facts: dict[str, Any] = {
            "run_id": self.run.run_id,
            "complete": True,
            "planned": len(self.requests),
            "sent": len(self.requests),
            "ok": ok,
            "failed": len(self.requests) - ok,
            "wall_s": 1.0,
            "barrier": Barrier(state="quiet", waited_s=2.0),
            "client": ClientHealth(lateness_p99_s=0.0002, loop_lag_p99_s=0.0003),
        }
        kept = {} if self.end is None else {"findings": self.end.findings}
        return replace(self, end=End(**(facts | kept)))

    def named(self, run_id: str) -> Made:
        """The same records as another run."""
        made = replace(
            self,
            run=structs.replace(self.run, run_id=run_id),
            requests=[structs.replace(r, run_id=run_id) for r in self.requests],
            servers=[structs.replace(s, run_id=run_id) for s in self.servers],
        )
        return made if self.end is None else made.foot(run_id=run_id)

    def records(self) -> Iterator[Any]:
        yield self.run
        yield from self.requests
        yield from self.servers
        if self.end is not None:
            yield self.end

    def lines(self) -> bytes:
        """The stream as kvload writes it."""
        return b"".join(encode(record) for record in self.records())

    def round(self) -> Round:
        """The stream as kvstats holds it."""
        rounds = Rounds({})
        for record in self.records():
            rounds.add(decode_line(encode(record), "made"))
        (one,) = rounds
        return one

    def stats(self) -> RoundStats:
        """What kvstats makes of it."""
        return summarise(self.round())

    def codes(self) -> dict[str, str]:
        """Findings by code, with their severity."""
        return {found.code: found.severity for found in self.stats().findings}


def cached(tokens: int) -> int:
    """What an engine can give of `tokens` shared ones."""
    return min(tokens, PROMPT - 1) // BLOCK * BLOCK


def cold(groups: int = 2, followers: int = 4, uniques: int = 2, sentinels: int = 1) -> Made:
    """Leaders first, serial: each group's leader and the uniques are computed, followers hit."""
    made: list[Request] = []
    clock = 0.0

    def put(ttft_ms: float, **over: Any) -> None:
        nonlocal clock
        made.append(request(len(made), at_ms=clock, ttft_ms=ttft_ms, **over))
        clock += ttft_ms + OUTPUT * GAP_MS

    for group in range(groups):
        put(MISS_MS, stratum="leader", group=f"g{group}", new_tokens=PROMPT - FLOOR * (group > 0))
        for _ in range(followers):
            gave = cached(CONTEXT)
            put(
                HIT_MS,
                stratum="follower",
                group=f"g{group}",
                new_tokens=QUESTION,
                cached_tokens=gave,
                ideal_in_round_lo=gave,
                ideal_in_round_hi=gave,
            )
    for _ in range(uniques):
        put(MISS_MS, stratum="unique", new_tokens=PROMPT - FLOOR)
    for _ in range(sentinels):
        put(MISS_MS, stratum="sentinel", new_tokens=PROMPT - FLOOR)
    scenario = len(made) - sentinels
    return Made(run(requests=scenario, sentinels=sentinels), made).closed()


def hit(**over: Any) -> Made:
    """The round after `cold`: all but the sentinels come from the cache."""

    def warm(one: Request) -> Request:
        if one.stratum == "sentinel":
            return structs.replace(one, run_id="r2")
        again = request(
            one.index, at_ms=one.index * 300, ttft_ms=HIT_MS, run_id="r2", group=one.group
        )
        return structs.replace(
            again,
            stratum=one.stratum,
            new_tokens=one.new_tokens,
            cached_tokens=cached(PROMPT),
            ideal_in_round_lo=one.ideal_in_round_lo,
            ideal_in_round_hi=one.ideal_in_round_hi,
            ideal_prior_tokens=cached(PROMPT),
        )

    made = cold()
    facts = {"run_id": "r2", "arm": "hit", "round_num": 2, **over}
    return Made(structs.replace(made.run, **facts), [warm(r) for r in made.requests]).closed()


def no_reuse() -> Made:
    """The same plan with a salt for each request: everything is computed."""
    made = cold().head(run_id="r0", arm="no_reuse", round_num=0, position="before")

    def alone(one: Request) -> Request:
        return structs.replace(
            request(one.index, at_ms=one.index * 1_100, run_id="r0", group=one.group),
            stratum=one.stratum,
            new_tokens=one.new_tokens,
        )

    return made.map(alone)


def node(made: Made, **over: float | None) -> ServerMetrics:
    """The endpoint's own counters, as they would be if nobody else used it."""
    served = [r for r in made.requests if r.status == "ok"]
    prompt = sum(r.prompt_tokens or 0 for r in served)
    local = sum(r.cached_tokens or 0 for r in served)
    counters: dict[str, float | None] = {
        "requests": len(served),
        "prompt_tokens": prompt,
        "generation_tokens": sum(r.output_tokens or 0 for r in served),
        "computed_tokens": prompt - local,
        "local_tokens": local,
        "external_tokens": 0,
        "preemptions": 0,
    }
    return ServerMetrics(
        run_id=made.run.run_id,
        url=METRICS,
        role="node",
        endpoint_url=ENDPOINT,
        counters=counters | over,
    )


def shards(made: Made, count: int) -> list[Made]:
    """The round as `count` clients would have sent it."""
    parts = []
    for number in range(count):
        mine = [r for r in made.requests if r.index % count == number]
        part = replace(made, requests=mine).head(shard=f"{number}/{count}").closed()
        parts.append(part.named(f"{made.run.run_id}-{number}"))
    return parts


def summarise_lines(lines: Iterable[bytes]) -> list[RoundStats]:
    """What kvstats makes of lines in any order that the grammar allows."""
    rounds = Rounds({})
    for number, line in enumerate(lines, 1):
        rounds.add(decode_line(line, f"made:{number}"))
    return [summarise(one) for one in rounds]


def as_json(stats: RoundStats | Sequence[RoundStats]) -> Any:
    """For comparing: plain values."""
    return json.loads(encode(stats))
