"""What a module about one engine provides: its names for what is counted, and how it is cleared.

These are the seams. `kvengine.engines` finds every module of this package that has an `ENGINE`, so
adding an engine means adding one file (see README.md).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from kvengine.exposition import labels_of, name_of
from kvengine.server import Server


@dataclass(frozen=True, slots=True)
class Term:
    """All series of one name whose labels match, summed, with a sign."""

    name: str
    where: Mapping[str, str] = field(default_factory=dict)
    sign: float = 1.0


Sum = tuple[Term, ...]
"""Terms to add up. It applies where the first of them exists; others that do not count as 0."""

Formula = tuple[Sum, ...]
"""Ways to the same figure, best first: the first that applies is used, and none gives null."""


def term(name: str, **where: str) -> Term:
    """A term that is added: `term("x_total", source="disk")`."""
    return Term(name, where)


def less(name: str, **where: str) -> Term:
    """A term that is taken away."""
    return Term(name, where, -1.0)


class Outcome(NamedTuple):
    """How a clear went: `ok` is null where the answer is no evidence either way."""

    ok: bool | None
    answer: str
    retries: int
    servers: int | None = None
    """How many workers were cleared, where the answer tells; null: not told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranks:
    """Several schedulers with a cache each behind one API: how one is told apart and chosen."""

    header: str
    """The request header that chooses a rank."""
    counter: str
    """The counter of prompt tokens, one series a rank."""
    label: str
    """Its label that holds the rank."""

    def among(self, series: Mapping[str, float]) -> tuple[str, ...]:
        """The ranks that count on this metrics page; none where there is but one."""
        counting = [key for key in series if name_of(key) == self.counter]
        found = {labels_of(key).get(self.label, "") for key in counting} - {""}
        return tuple(sorted(found, key=lambda rank: (len(rank), rank))) if len(found) > 1 else ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Beside:
    """A cache of an engine's own that holds no prefixes: cleared too, and proving nothing."""

    clears: str
    """In words for `--dry-run`: `reset encoder cache`."""
    request: str
    clear: Callable[[Server], Awaitable[Outcome]]


class Found(NamedTuple):
    """A tier behind an engine that can be cleared through it."""

    name: str
    shared: bool
    """Whether other people's keys may be in it, which nothing tells apart here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Behind:
    """How the tier behind an engine is cleared through that engine.

    Never evidence: engines say success for tiers that ignore the order. It comes after every node
    was cleared, since what a node still holds is stored again by its next hit.
    """

    clears: str
    request: str
    clear: Callable[[Server], Awaitable[Outcome]]
    found: Callable[[Mapping[str, float], str | None], Found | None]
    """What stands behind, by the engine's series and version; null where `clear` is not known to
    act."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Store:
    """How the objects of a store are counted, listed and told apart."""

    key_count: Callable[[Server], Awaitable[int | None]]
    keys: Callable[[Server], Awaitable[frozenset[str] | None]]
    is_of: Callable[[str, Iterable[str]], bool]
    """Whether a key was written for one of these models (names, roots or directories)."""
    closed: Callable[[Server], Awaitable[str | None]] | None = None
    """Why this server must not be asked, such as one that does not lead; null if it may."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """One kind of engine or store, as data."""

    kind: str
    """The word before `=` in `--engine KIND=URL`."""
    tier: Literal["engine", "lmcache", "store"]
    clears: str
    """What `clear` does, in words for `--dry-run`: `reset prefix cache`."""
    request: str
    """The request that `clear` sends: `POST /reset_prefix_cache`."""
    clear: Callable[[Server], Awaitable[Outcome]]
    advice: Callable[[Outcome], str | None]
    """What a person can do about an answer that was not ok; null if nothing is known."""
    counters: Mapping[str, Formula]
    gauges: Mapping[str, Formula]
    store: Store | None = None
    """How its keys are looked at; null for what has none to show."""
    ranks: Ranks | None = None
    """How its data-parallel ranks are chosen; null for what has none."""
    beside: tuple[Beside, ...] = ()
    """Its other caches."""
    behind: Behind | None = None
    """How what stands behind it is cleared through it; null where it cannot be."""
    looked_behind: str | None = None
    """Its counter that rises only where a connector is asked for a prompt; null if it has none."""
    frontend: bool = False
    """Whether it hands prompts to workers of its choice, so that a miss may be another worker's."""
