"""Counts and sums over a round, taken as requests come; nothing here grows with the input."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from math import gcd
from typing import Literal

from kvpipe.records import Request

BUFFERED_MIN_TOKENS = 16  # a shorter answer fits into one read anywhere
LARGEST_BLOCK = 1_024  # no engine's block or chunk is larger (vLLM 16-128, LMCache 256, traces 512)


@dataclass(slots=True)
class Span:
    """First sent to last end of one run, on its own clock."""

    first_sent_ns: int | None = None
    last_end_ns: int | None = None

    def add(self, request: Request) -> None:
        """Widen by a request that was sent."""
        if request.sent_ns is None:
            return
        first, last = self.first_sent_ns, self.last_end_ns
        self.first_sent_ns = request.sent_ns if first is None else min(first, request.sent_ns)
        self.last_end_ns = request.end_ns if last is None else max(last, request.end_ns)


@dataclass(slots=True)
class Sum:
    """A sum of what was reported, and how many did not report."""

    value: int = 0
    known: int = 0
    missing: int = 0
    largest: int = 0

    def add(self, value: int | None) -> None:
        """Take a figure; None is counted as missing, never as 0."""
        if value is None:
            self.missing += 1
            return
        self.value += value
        self.known += 1
        self.largest = max(self.largest, value)

    def merge(self, other: Sum) -> None:
        """Take what another sum holds."""
        self.value += other.value
        self.known += other.known
        self.missing += other.missing
        self.largest = max(self.largest, other.largest)

    @property
    def whole(self) -> int | None:
        """The sum if everybody reported, else None."""
        return None if self.missing or not self.known else self.value


@dataclass(slots=True)
class Traffic:
    """What we sent to one endpoint, sentinels included: to hold against its counters."""

    ok: int = 0
    unsure: int = 0  # failed, cancelled and first attempts: the server may have counted them
    prompt: Sum = field(default_factory=Sum)
    output: Sum = field(default_factory=Sum)

    def add(self, request: Request) -> None:
        """Take one request."""
        self.unsure += request.retries
        if request.status != "ok":
            self.unsure += 1
            return
        self.ok += 1
        self.prompt.add(request.prompt_tokens)
        self.output.add(request.output_tokens if request.token_source != "chunks" else None)

    def merge(self, other: Traffic) -> None:
        """Take another endpoint's."""
        self.ok += other.ok
        self.unsure += other.unsure
        self.prompt.merge(other.prompt)
        self.output.merge(other.output)


@dataclass(slots=True)
class Delivery:
    """How answers came in: many tokens in few reads were buffered on the way."""

    long_answers: int = 0
    tokens: int = 0
    reads: int = 0
    buffered: int = 0
    kernel_stamps: int = 0
    user_stamps: int = 0
    events: int = 0  # events that carried tokens
    merged: int = 0  # those of them that shared a read with an earlier one

    @property
    def stamp_source(self) -> Literal["kernel", "user", "mixed"] | None:
        """Who took the stamps; null without a success."""
        if self.kernel_stamps and self.user_stamps:
            return "mixed"
        return "kernel" if self.kernel_stamps else "user" if self.user_stamps else None

    @property
    def merged_share(self) -> float:
        """Share of token events that were not read alone."""
        return self.merged / self.events if self.events else 0.0

    def add(self, request: Request, tokens_per_read: float) -> None:
        """Take a success."""
        if request.stamp_source == "kernel":
            self.kernel_stamps += 1
        else:
            self.user_stamps += 1
        if request.chunk_ns is not None and request.merged_reads is not None:
            self.events += len(request.chunk_ns)
            self.merged += request.merged_reads
        tokens, reads = request.output_tokens, reads_of(request)
        if tokens is None or reads is None or tokens < BUFFERED_MIN_TOKENS:
            return
        self.long_answers += 1
        self.tokens += tokens
        self.reads += reads
        self.buffered += tokens > tokens_per_read * max(reads, 1)


def reads_of(request: Request) -> int | None:
    """Reads that brought the answer; from distinct stamps where they were not counted."""
    if request.reads is not None:
        return request.reads
    return None if request.chunk_ns is None else len(set(request.chunk_ns))


@dataclass(slots=True)
class Tally:
    """Counts of one round; sentinels only where said."""

    total: int = 0
    ok: int = 0
    cold: int = 0  # leaders and uniques
    statuses: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)  # sentinels included
    first_error: tuple[int, str] | None = None  # by index
    prompt: Sum = field(default_factory=Sum)
    output: Sum = field(default_factory=Sum)
    cached: Sum = field(default_factory=Sum)
    uncached: Sum = field(default_factory=Sum)
    created: int = 0
    reporting_prompt: int = 0  # prompt tokens of those that reported both
    reporting_cached: int = 0
    sentinels_ok: int = 0
    sentinels_cached: int = 0  # of them with cached tokens reported
    leaders_local: Sum = field(default_factory=Sum)
    leaders_remote: Sum = field(default_factory=Sum)
    leaders_computed: Sum = field(default_factory=Sum)
    local: Sum = field(default_factory=Sum)
    remote: Sum = field(default_factory=Sum)
    observed_block: int = 0  # gcd of cached tokens above 0

    def add(self, request: Request) -> None:
        """Take one request."""
        if request.status != "ok":
            self.failures[request.status] += 1
            error = (request.index, request.error or request.status)
            self.first_error = min(self.first_error or error, error)
        elif request.cached_tokens:
            self.observed_block = gcd(self.observed_block, request.cached_tokens)
        if request.stratum == "sentinel":
            self.sentinels_ok += request.status == "ok"
            self.sentinels_cached += request.status == "ok" and request.cached_tokens is not None
            return
        self.total += 1
        self.statuses[request.status] += 1
        self.cold += request.stratum in ("leader", "unique")
        if request.status == "ok":
            self._add_success(request)

    def _add_success(self, request: Request) -> None:
        self.ok += 1
        prompt, cached = request.prompt_tokens, request.cached_tokens
        uncached = None if prompt is None or cached is None else prompt - cached
        self.prompt.add(prompt)
        self.output.add(request.output_tokens)
        self.cached.add(cached)
        self.uncached.add(uncached)
        self.created += request.created_cache_tokens or 0
        if prompt is not None and cached is not None:
            self.reporting_prompt += prompt
            self.reporting_cached += cached
        self.local.add(request.cached_local_tokens)
        self.remote.add(request.cached_remote_tokens)
        if request.stratum in ("leader", "unique"):
            self.leaders_local.add(request.cached_local_tokens)
            self.leaders_remote.add(request.cached_remote_tokens)
            self.leaders_computed.add(uncached)

    @property
    def block(self) -> int | None:
        """Block size that the cached tokens show; null without a hit.

        A few equal prompts have a large common divisor: beyond any engine's block, its largest
        power of two is taken.
        """
        block = self.observed_block
        if block > LARGEST_BLOCK:
            block &= -block
        return min(block, LARGEST_BLOCK) or None
