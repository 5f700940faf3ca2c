"""Counts and sums over a round, taken as requests come; nothing here grows with the input."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, fields
from math import gcd
from typing import Literal

import numpy as np

from kvpipe.records import Request
from kvstats.lots import Lot, Numbers

BUFFERED_MIN_TOKENS = 16  # a shorter answer fits into one read anywhere
LARGEST_BLOCK = 1_024  # no engine's block or chunk is larger (vLLM 16-128, LMCache 256, traces 512)


@dataclass(slots=True)
class Span:
    """First sent to last end of one run, on its own clock."""

    first_sent_ns: int | None = None
    last_end_ns: int | None = None

    def add(self, lot: Lot) -> None:
        """Widen by those requests that were sent."""
        sent, end = lot.numbers("sent_ns"), lot.numbers("end_ns")
        if sent.known.any():
            first = int(sent.values[sent.known].min())
            self.merge(Span(first, int(end.values[sent.known].max())))

    def merge(self, other: Span) -> None:
        """Widen by another span of the same clock."""
        if other.first_sent_ns is None or other.last_end_ns is None:
            return
        widest = self.first_sent_ns, self.last_end_ns
        first, last = other.first_sent_ns, other.last_end_ns
        self.first_sent_ns = first if widest[0] is None else min(first, widest[0])
        self.last_end_ns = last if widest[1] is None else max(last, widest[1])


@dataclass(slots=True)
class Sum:
    """A sum of what was reported, and how many did not report."""

    value: int = 0
    known: int = 0
    missing: int = 0
    largest: int = 0

    def add(self, numbers: Numbers) -> None:
        """Take figures; what is not known is counted as missing, never as 0."""
        known = numbers.count
        self.missing += len(numbers.known) - known
        self.known += known
        if known:
            self.value += numbers.total
            self.largest = max(self.largest, int(numbers.values.max()))

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
        self.unsure += lot.numbers("retries").total
        if not lot.ok:
            self.unsure += len(lot)
            return
        self.ok += len(lot)
        self.prompt.add(lot.numbers("prompt_tokens"))
        if lot.like.token_source != "chunks":
            self.output.add(lot.numbers("output_tokens"))
        else:
            self.output.missing += len(lot)

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
        merged = lot.numbers("merged_reads")
        events = Numbers.of([None if one is None else len(one) for one in lot.column("chunk_ns")])
        both = merged.known & events.known
        self.events += events.at(both).total
        self.merged += merged.at(both).total
        self._add_long(lot, tokens_per_read)

    def _add_long(self, lot: Lot, tokens_per_read: float) -> None:
        """Of answers long enough to tell, how many reads brought them."""
        tokens, reads = lot.numbers("output_tokens"), lot.numbers("reads")
        if not reads.known.all():
            reads = Numbers.of([reads_of(request) for request in lot.requests])
        long = tokens.known & reads.known & (tokens.values >= BUFFERED_MIN_TOKENS)
        tokens, reads = tokens.at(long), reads.at(long)
        self.long_answers += len(tokens.values)
        self.tokens += tokens.total
        self.reads += reads.total
        most = tokens_per_read * np.maximum(reads.values, 1)
        self.buffered += int(np.count_nonzero(tokens.values > most))

    def merge(self, other: Delivery) -> None:
        """Take what another part of the round holds."""
        for one in fields(self):
            setattr(self, one.name, getattr(self, one.name) + getattr(other, one.name))


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
            found = np.gcd.reduce(lot.numbers("cached_tokens").values)  # 0 where not known
            self.observed_block = gcd(self.observed_block, int(found))
        if lot.stratum == "sentinel":
            self.sentinels_ok += len(lot) * lot.ok
            self.sentinels_cached += lot.numbers("cached_tokens").count * lot.ok
            return
        self.total += len(lot)
        self.statuses[status] += len(lot)
        self.cold += len(lot) * (lot.stratum in ("leader", "unique"))
        if lot.ok:
            self._add_successes(lot)

    def _add_successes(self, lot: Lot) -> None:
        self.ok += len(lot)
        prompt, cached = lot.numbers("prompt_tokens"), lot.numbers("cached_tokens")
        both = prompt.known & cached.known
        uncached = Numbers(np.where(both, prompt.values - cached.values, 0), both)
        self.prompt.add(prompt)
        self.output.add(lot.numbers("output_tokens"))
        self.cached.add(cached)
        self.uncached.add(uncached)
        self.created += lot.numbers("created_cache_tokens").total
        self.reporting_prompt += prompt.at(both).total
        self.reporting_cached += cached.at(both).total
        local, remote = lot.numbers("cached_local_tokens"), lot.numbers("cached_remote_tokens")
        self.local.add(local)
        self.remote.add(remote)
        if lot.stratum in ("leader", "unique"):
            self.leaders_local.add(local)
            self.leaders_remote.add(remote)
            self.leaders_computed.add(uncached)

    def merge(self, other: Tally) -> None:
        """Take what another part of the round holds."""
        for one in fields(self):
            mine, theirs = getattr(self, one.name), getattr(other, one.name)
            if isinstance(mine, Sum):
                mine.merge(theirs)
            elif isinstance(mine, Counter):
                mine.update(theirs)
            elif isinstance(mine, int) and one.name != "observed_block":
                setattr(self, one.name, mine + theirs)
        self.observed_block = gcd(self.observed_block, other.observed_block)
        errors = [error for error in (self.first_error, other.first_error) if error is not None]
        self.first_error = min(errors, default=None)

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
