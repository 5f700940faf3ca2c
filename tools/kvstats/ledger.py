"""Tokens that must have been computed against tokens that were, summed as requests come.

The conservation rule needs no order: in a clean cold round every distinct prefix was computed
at least once, so the sum of (prompt - cached) is at least the size of the prefix tree. What may be
missing from it without contamination is summed beside it, each excuse as an upper bound, so that
concurrency, failures, retries and earlier rounds never raise a false alarm.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from hashlib import blake2b
from heapq import heapify, heapreplace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvpipe.records import Arm
from kvstats.lots import Lot, Numbers

GROUPS = 50_000  # entries of 0.2 KB; of more groups a sample stays, and all of them in the whole


@dataclass(frozen=True, slots=True, kw_only=True)
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


_SUMS = [field.name for field in fields(Entry) if not field.name.startswith("first_")]
_PLACES = {name: place for place, name in enumerate(_SUMS)}
_NONE = 2**63 - 1  # no index
_REST = 0  # the place of what has no entry of its own


def _terms(lot: Lot, arm: Arm) -> dict[str, NDArray[Any]]:
    """What each request of which a byte was written adds to its entry; see `Entry`."""
    sent = lot.numbers("sent_ns").known
    alone = arm == "no_reuse"
    prompt, cached = lot.numbers("prompt_tokens"), lot.numbers("cached_tokens")
    new = prompt if alone else lot.numbers("new_tokens")
    # A failed request of the no_reuse arm shares nothing: it neither owes nor hides tokens.
    unplanned = sent & ~new.known & (not alone or lot.ok)
    counts = sent & new.known
    racing, bounded = (0, True) if alone else _racing(lot)
    # Tokens merge where blocks of text meet.
    tree = np.where(prompt.known, np.minimum(new.values, prompt.values), new.values)
    told = prompt.known & cached.known
    wasted = (lot.numbers("retries").values > 0) | (~told & (not lot.ok))
    silent = ~told & ~wasted
    prior = 0 if alone else np.where(wasted, 0, _prior(lot, prompt, tree))
    terms = {
        "reported": told,
        "planned": new.values,
        "tree": tree,
        "behind": tree if lot.stratum == "follower" and not alone else 0,
        "computed": np.where(told, np.maximum(prompt.values - cached.values, 0), 0),
        "failed": np.where(wasted, tree + racing, 0),
        "unbounded": wasted & ~np.asarray(bounded),
        "silent": np.where(silent, tree + racing, 0),
        "silent_requests": silent,
        "prior": prior,
        "racing": racing,
    }
    counted = {name: np.where(counts, values, 0) for name, values in terms.items()}
    return {"sent": sent, "unplanned": unplanned, **counted}


def _racing(lot: Lot) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Tokens whose donor had been sent but had not finished when a request was sent; if known."""
    low, high = lot.numbers("ideal_in_round_lo"), lot.numbers("ideal_in_round_hi")
    known = low.known & high.known
    return np.where(known, np.maximum(high.values - low.values, 0), 0), known


def _prior(lot: Lot, prompt: Numbers, tree: NDArray[Any]) -> NDArray[Any]:
    """New tokens lie at the end of the path, so only prior tokens beyond the rest overlap."""
    prior = lot.numbers("ideal_prior_tokens").values
    rest = np.where(prompt.known, prompt.values - tree, 0)
    return np.where(prior != 0, np.minimum(np.maximum(prior - rest, 0), tree), 0)


def _rank(group: str) -> tuple[int, str]:
    """Groups of the lowest rank are left out; no order of records decides which."""
    digest = blake2b(group.encode(), digest_size=8).digest()
    return -int.from_bytes(digest, "big"), group


class Ledger:
    """One entry per group, one for the rest, and what scales a plan that was only estimated.

    The rest is what has no group, the sentinels, and groups that were left out. Entries are columns
    of one table; its first column is the rest.
    """

    def __init__(self, arm: Arm, limit: int = GROUPS) -> None:
        self.floor: int | None = None  # largest floor_tokens seen
        self._arm: Arm = arm
        self._limit = limit
        self._first_prompt = 0  # over leaders and uniques: prompt tokens as the server counted,
        self._first_new = 0  # and as planned
        self._places: dict[str, int] = {}
        self._largest: list[tuple[int, str]] = []  # ranks, once there is no room
        self._sums: NDArray[Any] = np.zeros((len(_SUMS), 64), dtype=np.int64)
        self._first: NDArray[Any] = np.full((2, 64), _NONE)  # index; what it shares

    def __getstate__(self) -> dict[str, Any]:
        """What a merge needs: no room for more, and no ranks."""
        used = len(self._places) + 1
        return self.__dict__ | {
            "_largest": [], "_sums": self._sums[:, :used], "_first": self._first[:, :used],
        }  # fmt: skip

    def add(self, lot: Lot) -> None:
        """Take requests; those never sent put nothing into any cache."""
        sent = lot.numbers("sent_ns").known
        floors = lot.numbers("floor_tokens")
        if (known := sent & floors.known).any():
            self.floor = max(self.floor or 0, int(floors.values[known].max()))
        if lot.stratum in ("leader", "unique"):
            self._add_first(lot, sent)
        terms = _terms(lot, self._arm)
        if any(values.dtype == object for values in terms.values()):
            self._sums = self._sums.astype(object)  # exact, and slow
        if lot.stratum == "sentinel":
            for name, values in terms.items():
                self._sums[_PLACES[name], _REST] += values.sum()
            return
        places = self._places_of(lot.column("group"), sent)
        for name, values in terms.items():
            if values.any():
                np.add.at(self._sums[_PLACES[name]], places, values)
        counts = sent & (
            lot.numbers("prompt_tokens" if self._arm == "no_reuse" else "new_tokens").known
        )
        self._see_first(lot, counts, places)

    def _add_first(self, lot: Lot, sent: NDArray[np.bool_]) -> None:
        prompt, new = lot.numbers("prompt_tokens"), lot.numbers("new_tokens")
        both = sent & prompt.known & new.known
        self._first_prompt += prompt.at(both).total
        self._first_new += new.at(both).total

    def _see_first(self, lot: Lot, counts: NDArray[np.bool_], places: NDArray[np.intp]) -> None:
        """The group's first in plan order, and what it shares with other groups by plan."""
        index = lot.numbers("index").values
        earlier = np.flatnonzero(counts & (index < self._first[0, places]))
        if not len(earlier):
            return
        prompt = lot.numbers("prompt_tokens")
        new = prompt if self._arm == "no_reuse" else lot.numbers("new_tokens")
        shared = np.where(prompt.known, np.maximum(prompt.values - new.values, 0), 0)
        if index.dtype == object or shared.dtype == object:
            self._first = self._first.astype(object)
        earlier = earlier[np.argsort(index[earlier])[::-1]]  # the last that is put there stays
        self._first[0, places[earlier]] = index[earlier]
        self._first[1, places[earlier]] = shared[earlier]

    def _places_of(self, groups: Sequence[str | None], sent: NDArray[np.bool_]) -> NDArray[np.intp]:
        """The column of each request's group; new ones are made, or left out, first."""
        known = self._places
        if not sent.all():
            groups = [group if went else None for group, went in zip(groups, sent, strict=True)]
        for group in set(groups):
            if group is not None and group not in known:
                self._make_room(group)
        return np.array(
            [_REST if one is None else known.get(one, _REST) for one in groups], dtype=np.intp
        )

    def _make_room(self, group: str) -> None:
        """An entry for a group that has none, unless it is left out."""
        if len(self._places) < self._limit:
            place = len(self._places) + 1
            if place == self._sums.shape[1]:
                self._sums = np.hstack([self._sums, np.zeros_like(self._sums)])
                self._first = np.hstack([self._first, np.full_like(self._first, _NONE)])
        else:
            if not self._largest:
                self._largest = [_rank(name) for name in self._places]
                heapify(self._largest)
            mine = _rank(group)
            if mine < self._largest[0]:
                return
            place = self._places.pop(heapreplace(self._largest, mine)[1])
            self._sums[:, _REST] += self._sums[:, place]
            self._sums[:, place] = 0
            self._first[:, place] = _NONE
        self._places[group] = place

    def merge(self, other: Ledger) -> None:
        """Take what another part of the round holds; which groups stay is the same either way."""
        floors = [floor for floor in (self.floor, other.floor) if floor is not None]
        self.floor = max(floors, default=None)
        self._first_prompt += other._first_prompt
        self._first_new += other._first_new
        if other._sums.dtype == object:
            self._sums = self._sums.astype(object)
        if other._first.dtype == object:
            self._first = self._first.astype(object)
        theirs = np.array([_REST, *other._places.values()], dtype=np.intp)
        everybody = np.ones(len(theirs) - 1, dtype=bool)
        mine = np.append([_REST], self._places_of(list(other._places), everybody))
        for row, values in zip(self._sums, other._sums, strict=True):
            np.add.at(row, mine, values[theirs])  # several may be the rest's
        earlier = (mine != _REST) & (other._first[0, theirs] < self._first[0, mine])
        self._first[:, mine[earlier]] = other._first[:, theirs[earlier]]

    def entries(self) -> Iterator[tuple[str, Entry]]:
        """The groups that were kept, and their entries."""
        for group, place in self._places.items():
            sums = dict(zip(_SUMS, self._sums[:, place].tolist(), strict=True))
            index, shared = self._first[:, place].tolist()
            if index == _NONE:
                yield group, Entry(**sums)
            else:
                yield group, Entry(**sums, first_index=index, first_shared=shared)

    @property
    def whole(self) -> Entry:
        """The round's entry."""
        return Entry(**dict(zip(_SUMS, self._sums.sum(axis=1).tolist(), strict=True)))

    @property
    def scale(self) -> float:
        """Real by planned tokens; 1 if unknown. Not moved by contamination."""
        if not self._first_new or not self._first_prompt:
            return 1.0
        return self._first_prompt / self._first_new
