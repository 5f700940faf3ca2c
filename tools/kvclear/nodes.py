"""A node that is to be cleared: who it is, what every prompt shares there, whether it is one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from kvengine.counters import Snapshot, block_tokens, snapshot
from kvengine.engine import Engine, Found
from kvengine.exposition import labels_of, name_of
from kvengine.identify import Identity, identify
from kvengine.replicas import LOOKS, several_servers
from kvengine.server import Server
from kvengine.tokenize import floor_tokens

CHANCE_TOKENS = 4
"""What two prompts may share by chance where single tokens are cached, not blocks: they begin with
16 random hexadecimal digits, of which five are equal once in a million pairs."""


@dataclass(slots=True, kw_only=True)
class Node:
    """One engine, asked by its own URL."""

    engine: Engine
    server: Server
    identity: Identity
    api: Literal["chat", "completions"] = "completions"
    """Which API its canaries go to."""
    floor_tokens: int | None
    """Tokens that every prompt shares here; null where the server does not tokenize."""
    block_tokens: int | None
    several: str | None
    """Why it looks like several servers behind one URL; null if it does not."""
    tokens_per_word: float = 1.5
    starts: set[float] = field(default_factory=set)
    """Process start times seen; one that is new after the clear means a restart."""
    floor_learned: bool = False
    """Whether the floor was seen in answers, for want of `/tokenize`; it may rise then."""
    ranks: tuple[str, ...] = ()
    """Its data-parallel ranks, each with a cache of its own; none where there is but one."""

    @property
    def shown(self) -> str:
        """Its URL without credentials."""
        return self.server.shown

    @property
    def allowed_tokens(self) -> int:
        """Cached tokens that a cold prompt may report: the floor, rounded up to a block."""
        floor, block = self.floor_tokens or 0, self.block_tokens
        return floor + CHANCE_TOKENS if block is None else -(-floor // block) * block

    @property
    def names(self) -> list[str]:
        """Names under which its keys may stand in a store."""
        return [*self.identity.models, *([self.identity.root] if self.identity.root else [])]

    def learn_floor(self, cached_tokens: int) -> None:
        """Without /tokenize, a prompt that nobody has sent shows what every prompt shares.

        The first may be asked of an empty cache and show nothing, so the largest counts.
        """
        if self.floor_tokens is None or self.floor_learned:
            self.floor_tokens = max(self.floor_tokens or 0, cached_tokens)
            self.floor_learned = True

    async def snapshot(self) -> Snapshot | None:
        """Look at its counters, and remember its start time."""
        look = await snapshot(self.server)
        if look is not None and look.start_s is not None:
            self.starts.add(look.start_s)
        return look

    async def behind(self) -> Found | None:
        """What stands behind it and can be cleared through it. Raises Unreachable."""
        if self.engine.behind is None:
            return None
        look = await self.snapshot()
        return self.engine.behind.found(look.series if look else {}, self.identity.version)

    def tokens_of_rank(self, look: Snapshot, rank: str, *, since: Snapshot) -> float:
        """Prompt tokens that one rank counted between two looks."""
        ranks = self.engine.ranks
        return sum(
            value - since.series.get(key, 0.0)
            for key, value in look.series.items()
            if ranks and name_of(key) == ranks.counter and labels_of(key).get(ranks.label) == rank
        )


def of_rank(rank: str | None) -> str:
    """What follows a node's URL where one of its ranks is meant."""
    return "" if rank is None else f" rank {rank}"


async def meet(engine: Engine, server: Server, model: str | None) -> Node:
    """Identify a node. ToolError if it cannot be asked for `model`."""
    identity = await identify(server, model)
    # One after the other: answers that overtake each other would look like falling counters.
    seen = [await snapshot(server) for _ in range(LOOKS)]
    looks = [look for look in seen if look is not None]
    return Node(
        engine=engine,
        server=server,
        identity=identity,
        floor_tokens=await floor_tokens(server, identity.model, "completions"),
        block_tokens=block_tokens(looks[0]) if looks else None,
        several=several_servers(looks),
        starts={look.start_s for look in looks if look.start_s is not None},
        ranks=ranks_of(engine, looks[0]) if looks else (),
    )


def ranks_of(engine: Engine, look: Snapshot) -> tuple[str, ...]:
    """The data-parallel ranks that count behind this page; none where there is but one."""
    return engine.ranks.among(look.series) if engine.ranks is not None else ()
