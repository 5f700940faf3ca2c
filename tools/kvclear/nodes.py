"""A node that is to be cleared: who it is, what every prompt shares there, whether it is one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

from kvengine.counters import Snapshot, block_tokens, delta, snapshot
from kvengine.engine import Engine
from kvengine.identify import Identity, identify
from kvengine.server import Server
from kvengine.tokenize import floor_tokens

LOOKS_FOR_SEVERAL = 8
"""Fresh connections: two replicas behind one URL stay unseen once in 128 by chance."""


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

    @property
    def shown(self) -> str:
        """Its URL without credentials."""
        return self.server.shown

    @property
    def allowed_tokens(self) -> int:
        """Cached tokens that a cold prompt may report: the floor, rounded up to a block."""
        floor, block = self.floor_tokens or 0, self.block_tokens or 1
        return -(-floor // block) * block

    @property
    def names(self) -> list[str]:
        """Names under which its keys may stand in a store."""
        return [*self.identity.models, *([self.identity.root] if self.identity.root else [])]

    async def snapshot(self) -> Snapshot | None:
        """Look at its counters, and remember its start time."""
        look = await snapshot(self.server)
        if look is not None and look.start_s is not None:
            self.starts.add(look.start_s)
        return look


async def meet(engine: Engine, server: Server, model: str | None) -> Node:
    """Identify a node. ToolError if it cannot be asked for `model`."""
    identity = await identify(server, model)
    # One after the other: answers that overtake each other would look like falling counters.
    seen = [await snapshot(server) for _ in range(LOOKS_FOR_SEVERAL)]
    looks = [look for look in seen if look is not None]
    return Node(
        engine=engine,
        server=server,
        identity=identity,
        floor_tokens=await floor_tokens(server, identity.model, "completions"),
        block_tokens=block_tokens(looks[0]) if looks else None,
        several=several_servers(looks),
        starts={look.start_s for look in looks if look.start_s is not None},
    )


def several_servers(looks: Sequence[Snapshot]) -> str | None:
    """Why looks over fresh connections cannot be of one process; null if they can."""
    starts = {look.start_s for look in looks if look.start_s is not None}
    if len(starts) > 1:
        return f"{len(starts)} process start times over {len(looks)} fresh connections"
    ordered = sorted(looks, key=lambda look: look.at_ns)
    for before, after in pairwise(ordered):
        fell = delta(before, after)[2]
        if fell:
            return f"counters fell between two looks ({fell[0]})"
    return None
