"""Everything that one clear deals with, gathered as it goes."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import dataclass, field

from kvclear.account import Account
from kvclear.canary import Planting
from kvclear.nodes import Node, meet
from kvclear.order import Order
from kvclear.stores import Keys, Pool, open_pool
from kvengine.counters import Snapshot
from kvengine.engine import Engine
from kvengine.server import Server

LOOKS = 2
LOOKS_S = 1.0


@dataclass(slots=True, kw_only=True)
class Site:
    """All that is to be cleared, and what happened to it so far."""

    order: Order
    account: Account
    nodes: list[Node]
    pools: list[Pool]
    caches: list[tuple[Engine, Server]] = field(default_factory=list)
    """LMCache tiers between the nodes and the stores."""
    plantings: list[tuple[Node, Planting]] = field(default_factory=list)
    """One for each node, or for each of its ranks."""
    rested: list[Snapshot | None] = field(default_factory=list)
    """Counters of each node between planting and clearing."""
    reset: dict[str, bool] = field(default_factory=dict)
    """Whether a node may have been cleared, by its answer or by a restart seen; by its URL."""
    scattered: set[str] = field(default_factory=set)
    """URLs of front ends behind which more than one worker was cleared, or nobody knows."""
    loaded: bool = False
    """Whether a canary came from behind an engine after a reset of that engine alone."""
    user_acted: bool = False
    """Whether a command or a hook of the user's went well."""
    refused: dict[str, str] = field(default_factory=dict)
    """Why a store was not cleared, by its URL."""
    looks: list[list[Keys]] = field(default_factory=list)
    """Keys of each store in each look after the clear."""


async def open_site(order: Order, account: Account, stack: AsyncExitStack) -> Site:
    """Meet every engine. ToolError if one cannot be reached, or asked for the model."""
    headers = dict(order.headers)
    nodes = [
        await meet(
            engine,
            await stack.enter_async_context(Server(url, order.api_key, headers)),
            order.model,
        )
        for engine, url in order.nodes
    ]
    models = [name for node in nodes for name in node.names]
    models += [order.model] if order.model else []
    pools = [
        await open_pool(
            engine,
            await stack.enter_async_context(Server(url, None, headers, try_path="/metrics")),
            models,
            everyone=order.everyone,
        )
        for engine, url in order.stores
    ]
    caches = [
        (engine, await stack.enter_async_context(Server(url, None, headers, try_path="/")))
        for engine, url in order.caches
    ]
    for _, server in caches:
        await server.get("/")  # any answer will do: a wrong address is told before anything is sent
    return Site(order=order, account=account, nodes=nodes, pools=pools, caches=caches)
