"""Counts and sums over a round, taken as requests come; nothing here grows with the input."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import gcd
from typing import Literal

from kvpipe.records import Request
from kvstats.lots import Lot

BUFFERED_MIN_TOKENS = 16  # a shorter answer fits into one read anywhere
LARGEST_BLOCK = 1_024  # no engine's block or chunk is larger (vLLM 16-128, LMCache 256, traces 512)


@dataclass(slots=True)
class Span:
    """First sent to last end of one run, on its own clock."""

    first_sent_ns: int | None = None
    last_end_ns: int | None = None

    def add(self, lot: Lot) -> None:
        """Widen by those requests that were sent."""
        times = zip(lot.column("sent_ns"), lot.column("end_ns"), strict=True)
        known = [(sent, end) for sent, end in times if sent is not None]
        if not known:
            return
        first, last = min(sent for sent, _ in known), max(end for _, end in known)
        widest = self.first_sent_ns, self.last_end_ns
        self.first_sent_ns = first if widest[0] is None else min(first, widest[0])
        self.last_end_ns = last if widest[1] is None else max(last, widest[1])


@dataclass(slots=True)
class Sum:
    """A sum of what was reported, and how many did not report."""

    value: int = 0
    known: int = 0
    missing: int = 0
    largest: int = 0

    def add(self, values: Sequence[int | None]) -> None:
        """Take figures; None is counted as missing, never as 0."""
        known = [value for value in values if value is not None]
        self.missing += len(values) - len(known)
        self.value += sum(known)
        self.known += len(known)
        self.largest = max(self.largest, *known) if known else self.largest

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

    def add(self, lot: Lot) -> None:
        """Take requests to this endpoint."""
        self.unsure += sum(lot.column("retries"))
        if not lot.ok:
            self.unsure += len(lot)
            return
        self.ok += len(lot)
        self.prompt.add(lot.column("prompt_tokens"))
        counted = lot.like.token_source != "chunks"
        self.output.add(lot.column("output_tokens") if counted else [None] * len(lot))

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

    def add(self, lot: Lot, tokens_per_read: float) -> None:
        """Take successes."""
        if lot.like.stamp_source == "kernel":
            self.kernel_stamps += len(lot)
        else:
            self.user_stamps += len(lot)
        for stamps, merged in zip(lot.column("chunk_ns"), lot.column("merged_reads"), strict=True):
            if stamps is not None and merged is not None:
                self.events += len(stamps)
                self.merged += merged
        for request, tokens in zip(lot.requests, lot.column("output_tokens"), strict=True):
            if tokens is not None and tokens >= BUFFERED_MIN_TOKENS:
                self._add_long(tokens, reads_of(request), tokens_per_read)

    def _add_long(self, tokens: int, reads: int | None, tokens_per_read: float) -> None:
        if reads is None:
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

    def add(self, lot: Lot) -> None:
        """Take requests."""
        status = lot.like.status
        if not lot.ok:
            self.failures[status] += len(lot)
            error = min((one.index, one.error or status) for one in lot.requests)
            self.first_error = min(self.first_error or error, error)
        else:
            self.observed_block = gcd(self.observed_block, *lot.known("cached_tokens"))
        if lot.stratum == "sentinel":
            self.sentinels_ok += len(lot) * lot.ok
            self.sentinels_cached += len(lot.known("cached_tokens")) * lot.ok
            return
        self.total += len(lot)
        self.statuses[status] += len(lot)
        self.cold += len(lot) * (lot.stratum in ("leader", "unique"))
        if lot.ok:
            self._add_successes(lot)

    def _add_successes(self, lot: Lot) -> None:
        self.ok += len(lot)
        prompts, cacheds = lot.column("prompt_tokens"), lot.column("cached_tokens")
        pairs = list(zip(prompts, cacheds, strict=True))
        both = [(one, hit) for one, hit in pairs if one is not None and hit is not None]
        uncached = [None if one is None or hit is None else one - hit for one, hit in pairs]
        self.prompt.add(prompts)
        self.output.add(lot.column("output_tokens"))
        self.cached.add(cacheds)
        self.uncached.add(uncached)
        self.created += sum(lot.known("created_cache_tokens"))
        self.reporting_prompt += sum(one for one, _ in both)
        self.reporting_cached += sum(hit for _, hit in both)
        local, remote = lot.column("cached_local_tokens"), lot.column("cached_remote_tokens")
        self.local.add(local)
        self.remote.add(remote)
        if lot.stratum in ("leader", "unique"):
            self.leaders_local.add(local)
            self.leaders_remote.add(remote)
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
