"""The servers of an experiment, found out before anything is measured."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass

from kvengine.counters import Snapshot, block_tokens, snapshot
from kvengine.engine import Engine
from kvengine.engines import ENGINES
from kvengine.identify import Identity, identify
from kvengine.saltask import Endpoint
from kvengine.saltprobe import SaltProbe, probe_way
from kvengine.server import TIMEOUT_S, Server
from kvengine.tokenize import floor_tokens
from kvengine.urls import redact
from kvload.settings import Access, Experiment
from kvpipe.process import ToolError
from kvpipe.records import Role, SaltWay

STARTING_S = 5.0  # that an engine is given to become ready
LOOK_S = 0.5
LEAST_TIMEOUT_S = 2.0  # for questions: a short --timeout is meant for the answers of the round
SALTED_ENGINES = ("vllm", "sglang", "kvsim")
EnterServer = Callable[[Server], Awaitable[Server]]


@dataclass(slots=True, kw_only=True)
class Node:
    """An endpoint, and what it said of itself."""

    endpoint_url: str
    server: Server
    identity: Identity
    counts: bool
    block_tokens: int | None
    floor_tokens: int | None = None
    told_by: str
    """URL of the server that said all this and counts tokens: this endpoint, or a half behind."""


@dataclass(slots=True, kw_only=True)
class Watched:
    """A metrics endpoint that belongs to the experiment."""

    server: Server
    role: Role
    endpoint_url: str | None


@dataclass(slots=True, kw_only=True)
class Site:
    """Every server that an experiment touches."""

    nodes: dict[str, Node]
    extra: list[Watched]
    resetters: list[tuple[Engine, Server]]
    model: str

    def watched(self, endpoint_url: str) -> list[Watched]:
        """What is read around a round on this endpoint: its own counters, and the extra ones."""
        node = self.nodes[endpoint_url]
        own = [Watched(server=node.server, role="node", endpoint_url=redact(endpoint_url))]
        given = {item.server.base for item in self.extra}
        if not node.counts or node.server.base in given:
            own = []
        return own + self.extra

    def counting_nodes(self) -> list[Server]:
        """Servers whose running and waiting requests can be seen."""
        nodes = [node.server for node in self.nodes.values() if node.counts]
        return nodes + [item.server for item in self.extra if item.role != "store"]

    def stores(self) -> list[Server]:
        """Stores whose keys can be counted."""
        return [item.server for item in self.extra if item.role == "store"]


def open_server(url: str, access: Access) -> Server:
    """A server with the experiment's access; the session opens on entering it."""
    patience_s = min(TIMEOUT_S, max(access.timeout_s, LEAST_TIMEOUT_S))
    return Server(url, access.api_key, access.headers, timeout_s=patience_s)


async def refuse_dead(server: Server, patience_s: float = STARTING_S) -> None:
    """ToolError if the server says that its engine has died: it still lists its models then.

    vLLM answers /health with 503 after the death of its engine, and everything else as before. One
    that is only starting is given `patience_s`.
    """
    deadline = time.monotonic() + patience_s
    while await is_dead(server):
        if time.monotonic() >= deadline:
            raise ToolError(
                f"{server.shown}: the engine behind it is dead or not ready (/health answers 503"
                f" for {patience_s:g} s): restart it"
            )
        await asyncio.sleep(LOOK_S)


async def is_dead(server: Server) -> bool:
    """Whether the server says that its engine is dead or not ready."""
    return (await server.get("/health")).status == 503


async def survey(experiment: Experiment, enter: EnterServer) -> Site:
    """Ask every endpoint who it is; ToolError with one line for whatever forbids measuring."""
    urls = list(dict.fromkeys(experiment.endpoint(number) for number in _numbers(experiment)))
    nodes: dict[str, Node] = {}
    model: str | None = experiment.model
    for url in urls:
        server = await enter(open_server(url, experiment.access))
        await refuse_dead(server)
        speaker = await _speaker(server, experiment, enter)
        identity = await identify(speaker, model)
        if model is not None and identity.model != model:
            raise ToolError(
                f"{redact(url)} serves {identity.model}, the other endpoint {model}: name one that"
                " both serve with --model"
            )
        model = identity.model
        counted = await snapshot(server)
        nodes[url] = Node(
            endpoint_url=url,
            server=server,
            identity=identity,
            counts=counted is not None,
            block_tokens=experiment.block_tokens or _block_tokens(counted),
            floor_tokens=await floor_tokens(speaker, identity.model, experiment.api),
            told_by=url if speaker is server else speaker.base,
        )
    assert model is not None  # identify() names one or raises
    extra = await _extra(experiment, enter)
    await _blocks_behind(nodes.values(), extra)
    resetters = [
        (ENGINES[kind], await enter(open_server(url, experiment.access)))
        for kind, url in experiment.engines
        if ENGINES[kind].tier == "engine"
    ]
    return Site(nodes=nodes, extra=extra, resetters=resetters, model=model)


async def _speaker(server: Server, experiment: Experiment, enter: EnterServer) -> Server:
    """Who says which model is served: a half behind the proxy where that lists none.

    vLLM's toy proxy and LMCache's have neither /v1/models nor /tokenize.
    """
    if (await server.get("/v1/models")).status not in (404, 405):
        return server
    for wanted in ("prefill", "decode"):
        for role, url in experiment.metrics_urls:
            if role == wanted:
                return await enter(open_server(url.removesuffix("/metrics"), experiment.access))
    return server


async def _blocks_behind(nodes: Iterable[Node], extra: Sequence[Watched]) -> None:
    """The cache of a disaggregated endpoint is the prefiller's: so is the size of its blocks."""
    silent = [node for node in nodes if node.block_tokens is None]
    own = next((item for item in extra if item.role == "prefill"), None)
    if not silent or own is None:
        return
    size = _block_tokens(await snapshot(own.server))
    for node in silent:
        node.block_tokens = size


async def salt_way(site: Site, experiment: Experiment) -> tuple[SaltWay, SaltProbe | None]:
    """How these endpoints take a salt, and the probe that showed it.

    vLLM has the field `cache_salt` in both APIs since 0.9.2, SGLang too. Where the probe shows that
    it is ignored, LMCache's tag is tried; what ignores both, and everything else, gets a line at
    the head of the prompt, which works everywhere. The probe is the one that showed `cache_salt`
    to be ignored, else the last.
    """
    known = all(node.identity.engine in SALTED_ENGINES for node in site.nodes.values())
    if not known:
        return "prompt_head", None
    if experiment.warmup_passes <= 0:
        return "cache_salt", None
    probes = [await _probe(node, site, experiment, "cache_salt") for node in site.nodes.values()]
    ignored = next((probe for probe in probes if probe.honoured is False), None)
    if ignored is None:
        return "cache_salt", probes[-1]
    for node in site.nodes.values():
        if not (await _probe(node, site, experiment, "lmcache_tag")).honoured:
            return "prompt_head", ignored
    return "lmcache_tag", ignored


async def _probe(node: Node, site: Site, experiment: Experiment, way: SaltWay) -> SaltProbe:
    endpoint = Endpoint(
        server=node.server,
        model=site.model,
        api=experiment.api,
        floor_tokens=node.floor_tokens,
    )
    return await probe_way(endpoint, way)


async def _extra(experiment: Experiment, enter: EnterServer) -> list[Watched]:
    given: list[tuple[Role, str]] = list(experiment.metrics_urls)
    given += [("store", url) for kind, url in experiment.engines if ENGINES[kind].tier == "store"]
    found: dict[str, Watched] = {}
    for role, url in given:
        server = await enter(open_server(url.removesuffix("/metrics"), experiment.access))
        if server.base in found:
            continue
        if await snapshot(server) is None:
            raise ToolError(f"{redact(url)}: no metrics there (GET /metrics); is the port right?")
        found[server.base] = Watched(server=server, role=role, endpoint_url=None)
    return list(found.values())


def _numbers(experiment: Experiment) -> list[int]:
    if experiment.only_round is not None:
        return [experiment.only_round]
    control = [0] if experiment.tier == "remote" else []
    return [*range(1, experiment.rounds + 1), *control]


def _block_tokens(counted: Snapshot | None) -> int | None:
    return None if counted is None else block_tokens(counted)
