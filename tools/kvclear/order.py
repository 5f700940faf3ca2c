"""What was ordered: which engines to clear, by which ways, and how far one may go."""

from __future__ import annotations

from dataclasses import dataclass

from kvengine.engine import Engine
from kvengine.engines import ENGINES, split_engine
from kvengine.urls import base_url
from kvpipe.process import UsageError

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")


@dataclass(frozen=True, slots=True, kw_only=True)
class Hook:
    """One request of the user's own."""

    method: str
    url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """Everything that the command line and the config ask for."""

    engines: tuple[tuple[Engine, str], ...] = ()
    model: str | None = None
    api_key: str | None = None
    headers: tuple[tuple[str, str], ...] = ()
    metadata_clear: str | None = None
    hooks: tuple[Hook, ...] = ()
    commands: tuple[str, ...] = ()
    wait_s: float = 0.0
    health: tuple[str, ...] = ()
    timeout_s: float = 600.0
    local_only: bool = False
    everyone: bool = False
    """Remove other people's keys too (`--global`)."""
    dry_run: bool = False

    @property
    def nodes(self) -> list[tuple[Engine, str]]:
        """Engines that answer prompts."""
        return [(engine, url) for engine, url in self.engines if engine.tier == "engine"]

    @property
    def caches(self) -> list[tuple[Engine, str]]:
        """LMCache tiers between the engines and the stores."""
        return [(engine, url) for engine, url in self.engines if engine.tier == "lmcache"]

    @property
    def stores(self) -> list[tuple[Engine, str]]:
        """Stores behind them."""
        return [(engine, url) for engine, url in self.engines if engine.tier == "store"]

    @property
    def anything(self) -> bool:
        """Whether there is anything to do at all."""
        return bool(
            self.engines or self.commands or self.hooks or self.metadata_clear or self.wait_s
        ) or bool(self.health)


def engines_of(
    pairs: list[str], vllm: list[str], mooncake: list[str]
) -> tuple[tuple[Engine, str], ...]:
    """`--engine`, `--vllm` and `--mooncake` in that order, each URL once; UsageError."""
    given = [split_engine(text) for text in pairs]
    given += [(ENGINES["vllm"], url) for url in vllm]
    given += [(ENGINES["mooncake"], url) for url in mooncake]
    known: dict[tuple[str, str], tuple[Engine, str]] = {}
    for engine, url in given:
        known.setdefault((engine.kind, base_url(url)), (engine, url))
    return tuple(known.values())


def hook_of(text: str) -> Hook:
    """`POST http://HOST/flush` as a request; UsageError for anything else."""
    method, _, url = text.strip().partition(" ")
    if method.upper() not in METHODS or not url.strip():
        raise UsageError(f'--http "{text}": write "METHOD URL", such as "POST http://HOST/flush"')
    base_url(url)
    return Hook(method=method.upper(), url=url.strip())
