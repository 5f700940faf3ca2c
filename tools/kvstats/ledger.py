"""Tokens that must have been computed against tokens that were, summed as requests come.

METHOD's conservation rule needs no order: in a clean cold round every distinct prefix was computed
at least once, so the sum of (prompt - cached) is at least the size of the prefix tree. What may be
missing from it without contamination is summed beside it, each excuse as an upper bound, so that
concurrency, failures, retries and earlier rounds never raise a false alarm.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from hashlib import blake2b
from heapq import heapify, heapreplace

from kvpipe.records import Arm, Request
from kvstats.lots import Lot

GROUPS = 50_000  # entries of 0.5 KB; of more groups a sample stays, and all of them in the whole


@dataclass(slots=True)
class Entry:
    """Sums over the requests of a round, or of one group of it; all in tokens."""

    sent: int = 0
    reported: int = 0  # of them with both prompt and cached tokens
    unplanned: int = 0  # of them without new_tokens: the tree is not known
    planned: int = 0  # sum of new_tokens: the prompts' prefix tree, as the plan has it
    tree: int = 0  # the same, none longer than its prompt turned out to be
    behind: int = 0  # of the tree, what lies behind a shared part: where it begins may be a guess
    computed: int = 0  # sum of prompt - cached
    failed: int = 0  # what failed, cancelled and retried ones may have computed unreported
    unbounded: int = 0  # of those, requests of which that is not known
    silent: int = 0  # what successes without reported tokens may have computed
    silent_requests: int = 0
    prior: int = 0  # what earlier rounds of the namespace may have given
    racing: int = 0  # what may have been computed twice: the donor had not finished
    first_index: int | None = None  # the group's first in plan order, and what it shares with
    first_shared: int = 0  # other groups by plan

    def add(self, request: Request, arm: Arm) -> None:
        """Take a request of which a byte was written."""
        self.sent += 1
        new = request.new_tokens if arm != "no_reuse" else request.prompt_tokens
        if new is None:
            # A failed request of the no_reuse arm shares nothing: it neither owes nor hides tokens.
            self.unplanned += arm != "no_reuse" or request.status == "ok"
            return
        racing = 0 if arm == "no_reuse" else _racing(request)
        self.racing += racing or 0
        self.planned += new
        if request.prompt_tokens is not None:
            new = min(new, request.prompt_tokens)  # tokens merge where blocks of text meet
        self.tree += new
        if request.stratum == "follower" and arm != "no_reuse":
            self.behind += new
        silent = request.prompt_tokens is None or request.cached_tokens is None
        if request.prompt_tokens is not None and request.cached_tokens is not None:
            self.reported += 1
            self.computed += max(0, request.prompt_tokens - request.cached_tokens)
        if request.retries or (silent and request.status != "ok"):
            self.failed += new + (racing or 0)
            self.unbounded += racing is None
        else:
            if silent:
                self.silent_requests += 1
                self.silent += new + (racing or 0)
            if arm != "no_reuse":
                self._add_prior(request, new)
        self._see_first(request, new)

    def _add_prior(self, request: Request, new: int) -> None:
        """New tokens lie at the end of the path, so only prior tokens beyond the rest overlap."""
        prior = request.ideal_prior_tokens or 0
        if prior:
            rest = 0 if request.prompt_tokens is None else request.prompt_tokens - new
            self.prior += min(max(0, prior - rest), new)

    def _see_first(self, request: Request, new: int) -> None:
        if self.first_index is None or request.index < self.first_index:
            self.first_index = request.index
            known = request.prompt_tokens
            self.first_shared = 0 if known is None else max(0, known - new)

    def merge(self, other: Entry) -> None:
        """Take what another entry holds."""
        for name in _SUMS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        first, theirs = self.first_index, other.first_index
        if theirs is not None and (first is None or theirs < first):
            self.first_index, self.first_shared = theirs, other.first_shared


_SUMS = [field.name for field in fields(Entry) if not field.name.startswith("first_")]


def _racing(request: Request) -> int | None:
    """Tokens whose donor had been sent but had not finished when this request was sent."""
    low, high = request.ideal_in_round_lo, request.ideal_in_round_hi
    return None if low is None or high is None else max(0, high - low)


def _rank(group: str) -> tuple[int, str]:
    """Groups of the lowest rank are left out; no order of records decides which."""
    digest = blake2b(group.encode(), digest_size=8).digest()
    return -int.from_bytes(digest, "big"), group


@dataclass(slots=True)
class Ledger:
    """One entry per group, one for the rest, and what scales a plan that was only estimated."""

    arm: Arm
    rest: Entry = field(default_factory=Entry)  # without a group, sentinels, groups left out
    groups: dict[str, Entry] = field(default_factory=dict)
    limit: int = GROUPS
    _largest: list[tuple[int, str]] = field(default_factory=list)  # ranks, once there is no room
    floor: int | None = None  # largest floor_tokens seen
    first_prompt: int = 0  # over leaders and uniques: prompt tokens as the server counted,
    first_new: int = 0  # and as planned

    def add(self, lot: Lot) -> None:
        """Take requests; those never sent put nothing into any cache."""
        grouped = lot.stratum != "sentinel"
        for request in lot.requests:
            if request.sent_ns is None:
                continue
            entry = self.rest
            if grouped and request.group is not None:
                entry = self.groups.get(request.group) or self._new_entry(request.group)
            entry.add(request, self.arm)
            if request.floor_tokens is not None:
                self.floor = max(self.floor or 0, request.floor_tokens)
        if lot.stratum in ("leader", "unique"):
            self._add_first(lot.requests)

    def _new_entry(self, group: str) -> Entry:
        """The entry of a group that has none; of one that is left out, the rest's."""
        if len(self.groups) >= self.limit:
            if not self._largest:
                self._largest = [_rank(name) for name in self.groups]
                heapify(self._largest)
            mine = _rank(group)
            if mine < self._largest[0]:
                return self.rest
            _, dropped = heapreplace(self._largest, mine)
            self.rest.merge(self.groups.pop(dropped))
        return self.groups.setdefault(group, Entry())

    def _add_first(self, requests: Iterable[Request]) -> None:
        for request in requests:
            if request.sent_ns is None:
                continue
            if request.prompt_tokens is not None and request.new_tokens is not None:
                self.first_prompt += request.prompt_tokens
                self.first_new += request.new_tokens

    @property
    def whole(self) -> Entry:
        """The round's entry."""
        whole = Entry()
        for entry in (self.rest, *self.groups.values()):
            whole.merge(entry)
        return whole

    @property
    def scale(self) -> float:
        """Real by planned tokens; 1 if unknown. Not moved by contamination."""
        return self.first_prompt / self.first_new if self.first_new and self.first_prompt else 1.0
