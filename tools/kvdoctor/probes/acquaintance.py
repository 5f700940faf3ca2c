"""Meeting an engine: who it is, how it is configured, whether it is one; nothing is changed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import takewhile
from typing import Any

from kvdoctor.evidence import Config, Head, NodeSeen
from kvdoctor.probes.exposure import open_routes, reach_of
from kvengine.counters import Snapshot, gauge, snapshot
from kvengine.engines import ENGINES
from kvengine.exposition import labels_of, name_of
from kvengine.identify import Identity, identify
from kvengine.replicas import LOOKS, several_servers
from kvengine.server import Server, Unreachable
from kvengine.tokenize import floor_tokens, tokens_of
from kvpipe.jsonl import NOT_JSON
from kvpipe.process import ToolError

MANNERS = {"kvsim": "vllm"}
RESET_ROUTES = {"vllm": "/reset_prefix_cache"}
"""Where GET is refused with 405 if the route is there, and does nothing."""
TEXTS = ("Wolves howl", "7 bells ring")
"""Two messages that differ from the first character on."""


async def meet(
    server: Server, model: str | None, *, endpoint: bool, behind: Sequence[Server] = ()
) -> NodeSeen:
    """Everything that can be seen without a prompt; trouble is told, not raised.

    A PD proxy may list no models and count no tokens: then the first engine behind it speaks.
    """
    seen = NodeSeen(where=server.shown, kind="vllm", endpoint=endpoint)
    try:
        lists = (await server.get("/v1/models")).status not in (404, 405)
        seen.answered = True
        speaker = server if lists or not behind else behind[0]
        seen.identity = await identify(speaker, model)
        seen.kind = _kind(seen.identity)
        await _look(server, speaker, seen)
    except Unreachable as error:
        seen.trouble = _cause(str(error), server.shown)
    except ToolError as error:
        seen.trouble = _cause(str(error), server.shown)
    return seen


def _cause(text: str, shown: str) -> str:
    """A complaint without the URL in front and without the hint behind it."""
    return text.removeprefix(f"{shown}: ").partition("; is the server running?")[0]


def _kind(identity: Identity) -> str:
    kind = MANNERS.get(identity.engine, identity.engine)
    return kind if kind in ENGINES else "unknown"


async def _look(server: Server, speaker: Server, seen: NodeSeen) -> None:
    identity = seen.identity
    assert identity is not None
    seen.health = (await server.get("/health")).status
    # One after the other: answers that overtake each other would look like falling counters.
    pages = [await snapshot(server) for _ in range(LOOKS)]
    looks = [page for page in pages if page is not None]
    seen.metrics = bool(looks)
    seen.several = several_servers(looks)
    if looks:
        states = [gauge(looks[0], name) for name in ("running", "waiting")]
        seen.running = sum(state or 0.0 for state in states)
    if seen.kind in RESET_ROUTES:
        seen.reset_status = (await server.get(RESET_ROUTES[seen.kind])).status
    seen.config = await _config(server, looks[0] if looks else None)
    seen.floor_tokens = await floor_tokens(speaker, identity.model, "completions")
    seen.head = await _head(speaker, identity.model)
    seen.reach = await reach_of(server.base)
    seen.open_routes = await open_routes(server.base, seen.kind)


async def _config(server: Server, look: Snapshot | None) -> Config:
    """Of vLLM: an info metric since 0.5, and `/server_info` under VLLM_SERVER_DEV_MODE=1."""
    told: dict[str, str] = {}
    for key in look.series if look else ():
        if name_of(key) == "vllm:cache_config_info":
            told = dict(labels_of(key))
            break
    info = await _server_info(server)
    model = info.get("model_config") or {}
    transfer = info.get("kv_transfer_config") or {}
    parallel = info.get("parallel_config") or {}
    block, blocks = _number(told.get("block_size")), _number(told.get("num_gpu_blocks"))
    return Config(
        block_tokens=block,
        cache_tokens=_number(told.get("kv_cache_size_tokens"))
        or (block * blocks if block and blocks else None),
        prefix_caching={"True": True, "False": False}.get(told.get("enable_prefix_caching", "")),
        hash_algorithm=told.get("prefix_caching_hash_algo"),
        cache_dtype=told.get("cache_dtype"),
        dtype=_text(model.get("dtype")),
        quantization=_text(model.get("quantization") or "none") if model else None,
        tensor_parallel=_number(parallel.get("tensor_parallel_size")),
        connector=_text(transfer.get("kv_connector")),
        connector_role=_text(transfer.get("kv_role")),
    )


async def _server_info(server: Server) -> dict[str, Any]:
    """vLLM's own configuration as JSON; empty where it is not told."""
    answer = await server.get("/server_info", params={"config_format": "json"})
    try:
        value = json.loads(answer.text) if answer.ok else None
    except NOT_JSON:
        return {}
    config = value.get("vllm_config") if isinstance(value, dict) else None
    return config if isinstance(config, dict) else {}


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _number(value: object) -> int | None:
    if isinstance(value, str):
        return int(value) if value.isdigit() and int(value) > 0 else None
    return value if isinstance(value, int) and value > 0 else None


async def _head(server: Server, model: str) -> Head | None:
    """What a chat prompt begins with, as tokens and as text; null where it cannot be asked."""
    found = [await tokens_of(server, model, [{"role": "user", "content": text}]) for text in TEXTS]
    first, second = found
    if first is None or second is None:
        return None
    pairs = takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False))
    head = [token for token, _ in pairs]
    return Head(tokens=len(head), text=await _text_of(server, model, head) if head else "")


async def _text_of(server: Server, model: str, tokens: list[int]) -> str | None:
    answer = await server.post("/detokenize", json={"model": model, "tokens": tokens})
    try:
        value = json.loads(answer.text) if answer.ok else None
    except NOT_JSON:
        return None
    return _text(value.get("prompt")) if isinstance(value, dict) else None
