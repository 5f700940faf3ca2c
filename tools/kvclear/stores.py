"""A store that is to be cleared: whose keys are in it, and which appeared by planting."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from kvengine.engine import Engine, Store
from kvengine.server import Server
from kvpipe.process import ToolError

SAVED_S = 10.0
"""How long to wait for the first key of a canary: saves are asynchronous."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """One look into a store; null where it does not tell."""

    count: int | None
    names: frozenset[str] | None


@dataclass(slots=True, kw_only=True)
class Pool:
    """One store, and what is known of its keys."""

    engine: Engine
    access: Store
    server: Server
    models: Sequence[str]
    """Names under which the given nodes' keys may stand."""
    everyone: bool
    """Whether other people's keys are to go too, so that every key counts as ours."""
    before: Keys
    planted: frozenset[str] = field(default=frozenset())
    """Keys that appeared by planting."""
    appeared: int = 0
    """How many keys appeared by planting."""

    @property
    def shown(self) -> str:
        """Its URL without credentials."""
        return self.server.shown

    async def look(self) -> Keys:
        """Count and list the keys, if this server may be asked. Raises Unreachable."""
        if self.access.closed is not None and await self.access.closed(self.server):
            return Keys(count=None, names=None)
        return Keys(
            count=await self.access.key_count(self.server),
            names=await self.access.keys(self.server),
        )

    def is_ours(self, key: str) -> bool:
        """Whether a key is of a model that the given nodes serve, or appeared by planting.

        The second counts only where no planted key names a model, since another tenant may write
        in the same moment. Another deployment of the same model cannot be told from ours.
        """
        if self.everyone or self.access.is_of(key, self.models):
            return True
        named = any(self.access.is_of(planted, self.models) for planted in self.planted)
        return not named and key in self.planted

    def ours(self, keys: Keys) -> int | None:
        """How many keys are ours; all of them where they are counted but not listed."""
        if keys.names is None:
            return keys.count
        return sum(map(self.is_ours, keys.names))

    def foreign(self, keys: Keys) -> list[str] | None:
        """Keys that are not ours; null where there are keys and nobody lists them."""
        if keys.names is None:
            return None if keys.count != 0 else []
        return sorted(key for key in keys.names if not self.is_ours(key))


async def open_pool(
    engine: Engine, server: Server, models: Sequence[str], *, everyone: bool
) -> Pool:
    """Look into a store for the first time. ToolError if there is none at this URL."""
    access = engine.store
    if access is None:
        raise ToolError(f"{engine.kind}: is no store")
    closed = await access.closed(server) if access.closed is not None else None
    if closed:
        raise ToolError(f"{server.shown}: {closed}")
    before = Keys(count=await access.key_count(server), names=await access.keys(server))
    if before.count is None and before.names is None:
        raise ToolError(
            f"{server.shown}: no {engine.kind} store answers here (neither a key count nor a key "
            "list); name the master's admin port, 9003 unless --metrics_port says otherwise"
        )
    return Pool(
        engine=engine,
        access=access,
        server=server,
        models=models,
        everyone=everyone,
        before=before,
    )


async def await_planted(pool: Pool) -> None:
    """Wait until a key appears that was not there before, at most `SAVED_S`. Raises Unreachable."""
    deadline = time.perf_counter() + SAVED_S
    while not pool.appeared and time.perf_counter() < deadline:
        await asyncio.sleep(0.2)
        await notice_planted(pool)


async def notice_planted(pool: Pool) -> None:
    """Remember which keys appeared since the first look. Raises Unreachable."""
    now = await pool.look()
    if now.names is not None and pool.before.names is not None:
        pool.planted = now.names - pool.before.names
        pool.appeared = len(pool.planted)
    elif now.count is not None and pool.before.count is not None:
        pool.appeared = max(0, now.count - pool.before.count)
