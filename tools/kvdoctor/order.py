"""What was ordered: whom to examine, how far one may go, and how long to wait."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from kvengine.engine import Engine
from kvengine.engines import split_engine
from kvengine.urls import base_url
from kvpipe.process import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long to wait for what only time shows, in seconds."""

    idle_s: float = 4.5
    """How long an idle connection is watched: clients reuse one for up to 4 s."""
    saved_s: float = 10.0
    """How long a store may take until a prompt's first key is there."""
    looks_s: float = 1.0
    """Between two looks that must be equal."""
    rest_s: float = 30.0
    """How long an engine may take to come to rest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """Everything that the command line asks for."""

    urls: tuple[str, ...]
    """Endpoints; the first is where prompts are stored, the others where they should hit."""
    engines: tuple[tuple[Engine, str], ...] = ()
    """Engines behind them, LMCaches and stores, by their own URLs."""
    model: str | None = None
    api_key: str | None = None
    headers: tuple[tuple[str, str], ...] = ()
    reset: bool = False
    """Whether the engines' own prefix caches may be emptied."""
    patience: Patience = field(default_factory=Patience)

    @property
    def behind_is_asked(self) -> bool:
        """Whether hits from behind an engine are expected: several nodes, or a store is named."""
        return len(self.urls) > 1 or any(engine.tier != "engine" for engine, _ in self.engines)


def urls_of(given: Sequence[str]) -> tuple[str, ...]:
    """Each endpoint once, in the order given; UsageError for none, and for what is no URL."""
    if not given:
        raise UsageError("whom to examine? --url http://HOST:PORT (see --help)")
    return tuple({base_url(url): url for url in reversed(given)}[base] for base in _bases(given))


def _bases(given: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(map(base_url, given)))


def engines_of(given: Sequence[str]) -> tuple[tuple[Engine, str], ...]:
    """`KIND=URL` texts, each URL once; UsageError."""
    known: dict[tuple[str, str], tuple[Engine, str]] = {}
    for engine, url in map(split_engine, given):
        known.setdefault((engine.kind, base_url(url)), (engine, url))
    return tuple(known.values())
