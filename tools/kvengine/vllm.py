"""vLLM: what it calls its counters, and how its own prefix cache is reset.

Names are those of 0.32 (tests/data/captures/vllm_metrics.txt), with what 0.9 and later had before:
`prompt_tokens_by_source` came with 0.16, `external_prefix_cache_hits` with 0.11.2, and the `gpu_`
names went with 0.10.

Routes under VLLM_SERVER_DEV_MODE=1: `/reset_prefix_cache` since 0.7.0 (`reset_external` since
0.13.0), `/reset_mm_cache` seen in 0.11.2, `/reset_encoder_cache` in 0.16.0. Read in the source of
0.33.0 and of the versions named; run against 0.32.0 on CPU.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping

from kvengine.engine import Behind, Beside, Engine, Formula, Found, Outcome, Ranks, less, term
from kvengine.server import Server
from kvpipe.jsonl import json_object

_STORE_TIME = "vllm:mooncake_store_operation_time_seconds"
_LMCACHE_MP = "vllm:lmcache_mp_lookup_duration_seconds"
_STORE_KEYS = "vllm:mooncake_store_operation_keys_total"
_STORE_FAILED = "vllm:mooncake_store_operation_failed_keys_total"


def _histogram(neutral: str, name: str) -> dict[str, Formula]:
    return {
        f"{neutral}_sum_s": ((term(f"{name}_sum"),),),
        f"{neutral}_count": ((term(f"{name}_count"),),),
    }


COUNTERS: dict[str, Formula] = {
    "requests": ((term("vllm:request_success_total"),),),
    "prompt_tokens": ((term("vllm:prompt_tokens_total"),),),
    "generation_tokens": ((term("vllm:generation_tokens_total"),),),
    "computed_tokens": (
        (term("vllm:prompt_tokens_by_source_total", source="local_compute"),),
        (
            term("vllm:prompt_tokens_total"),
            less("vllm:prefix_cache_hits_total"),
            less("vllm:external_prefix_cache_hits_total"),
        ),
    ),
    "local_tokens": (
        (term("vllm:prompt_tokens_by_source_total", source="local_cache_hit"),),
        (term("vllm:prefix_cache_hits_total"),),
        (term("vllm:gpu_prefix_cache_hits_total"),),
    ),
    "external_tokens": (
        (term("vllm:prompt_tokens_by_source_total", source="external_kv_transfer"),),
        (term("vllm:external_prefix_cache_hits_total"),),
    ),
    "preemptions": ((term("vllm:num_preemptions_total"),),),
    "save_keys": ((term(_STORE_KEYS, operation="save_put"),),),
    "load_keys": ((term(_STORE_KEYS, operation="load_get"),),),
    "save_failed_keys": ((term(_STORE_FAILED, operation="save_put"),),),
    "load_failed_keys": ((term(_STORE_FAILED, operation="load_get"),),),
    **_histogram("ttft", "vllm:time_to_first_token_seconds"),
    **_histogram("queue", "vllm:request_queue_time_seconds"),
    **_histogram("prefill", "vllm:request_prefill_time_seconds"),
    **_histogram("decode", "vllm:request_decode_time_seconds"),
    # A transfer between prefiller and decoder where there is one, else what was read from a store.
    "transfer_sum_s": (
        (term("vllm:nixl_xfer_time_seconds_sum"),),
        (term("vllm:mooncake_xfer_time_seconds_sum"),),
        (term(f"{_STORE_TIME}_sum", operation="load_get"),),
    ),
    "transfer_count": (
        (term("vllm:nixl_xfer_time_seconds_count"),),
        (term("vllm:mooncake_xfer_time_seconds_count"),),
        (term(f"{_STORE_TIME}_count", operation="load_get"),),
    ),
}

GAUGES: dict[str, Formula] = {
    "running": ((term("vllm:num_requests_running"),),),
    "waiting": ((term("vllm:num_requests_waiting"),),),
    "kv_usage_ratio": (
        (term("vllm:kv_cache_usage_perc"),),
        (term("vllm:gpu_cache_usage_perc"),),
    ),
}

BUSY_WAITS_S = (0.2, 0.4, 0.8, 1.6, 3.2, 6.4)
"""Pauses between attempts while a reset is refused: blocks are held by requests or by saves."""


async def reset_local(server: Server) -> Outcome:
    """Reset this node's own prefix cache, and only that; repeated with back-off while busy.

    `ok` is true only for a body that says so: versions up to 0.25 answered an empty 200 whether
    the reset worked or not. Raises Unreachable.
    """
    return await _reset(server, {})


async def _reset(server: Server, params: Mapping[str, str]) -> Outcome:
    retries = 0
    while True:
        answer = await server.post("/reset_prefix_cache", params=params)
        said = _success(answer.text) if answer.ok else None
        if said is not False or retries == len(BUSY_WAITS_S):
            break
        await asyncio.sleep(BUSY_WAITS_S[retries])
        retries += 1
    return Outcome(said if answer.ok else False, answer.short(), retries)


def _success(text: str) -> bool | None:
    """What the body admits; null for an empty one and for any other."""
    said = json_object(text).get("success")
    return said if isinstance(said, bool) else None


async def reset_external(server: Server) -> Outcome:
    """Reset the prefix cache and what a connector keeps behind it; repeated while busy.

    `ok` is never true: the answer is success for every connector that has no such reset.
    """
    outcome = await _reset(server, {"reset_external": "true"})
    return outcome._replace(ok=None if outcome.ok else outcome.ok)


STORE_SINCE = (0, 25)
OFFLOAD_SINCE = (0, 33)


def external(series: Mapping[str, float], version: str | None) -> Found | None:
    """The connector behind this vLLM whose reset is known to act; null for any other.

    MooncakeStoreConnector removes every object of the master, everybody's, since 0.25 (absent in
    0.22.1); OffloadingConnector empties this process' own memory, known of 0.33. Both show by
    their series. LMCache's own class of LMCacheMPConnector, which vLLM takes where LMCache is
    installed, empties L1 of its server, for every node around it (0.5.6; which of its releases was
    the first is not known). LMCacheConnectorV1, NixlConnector and ExampleConnector say success and
    do nothing.
    """
    known = _version(version)
    names = {key.partition("{")[0] for key in series}
    if any(name.startswith(_STORE_TIME) for name in names):
        return Found("MooncakeStoreConnector", True) if known >= STORE_SINCE else None
    if any(name.startswith(_LMCACHE_MP) for name in names):
        return Found("LMCacheMPConnector", True)
    if any(name.startswith("vllm:kv_offload_") for name in names):
        return Found("OffloadingConnector", False) if known >= OFFLOAD_SINCE else None
    return None


def _version(text: str | None) -> tuple[int, ...]:
    """`0.32.0+cpu` as numbers; nothing for a text without any, which is older than all."""
    found = re.search(r"\d+(?:\.\d+)+", text or "")
    return tuple(map(int, found[0].split("."))) if found else ()


def _resetting(path: str) -> Beside:
    """A cache whose reset answers an empty 200, or a 404 where this version has none."""

    async def clear(server: Server) -> Outcome:
        answer = await server.post(path)
        absent = answer.status in (404, 405)
        return Outcome(None if answer.ok or absent else False, answer.short(), 0)

    name = path.removeprefix("/reset_").replace("_", " ")
    return Beside(clears=f"reset {name}", request=f"POST {path}", clear=clear)


def advice(outcome: Outcome) -> str | None:
    """What to do when a reset was not ok."""
    if outcome.ok:
        return None
    if outcome.ok is None:
        return "versions up to 0.25 answer an empty 200 whatever happened; only a probe can tell"
    if outcome.answer.startswith(("404", "405")):
        return (
            "no such route: start this server with VLLM_SERVER_DEV_MODE=1, name its own URL "
            "instead of a proxy's, or restart it with --command"
        )
    if outcome.answer.startswith("200"):
        return "blocks are still held by requests or by saves in flight: stop the load, try again"
    return None


ENGINE = Engine(
    kind="vllm",
    tier="engine",
    clears="reset prefix cache",
    request="POST /reset_prefix_cache",
    clear=reset_local,
    advice=advice,
    counters=COUNTERS,
    gauges=GAUGES,
    ranks=Ranks(header="X-data-parallel-rank", counter="vllm:prompt_tokens_total", label="engine"),
    looked_behind="vllm:external_prefix_cache_queries_total",
    beside=(_resetting("/reset_mm_cache"), _resetting("/reset_encoder_cache")),
    behind=Behind(
        clears="reset external cache",
        request="POST /reset_prefix_cache?reset_external=true",
        clear=reset_external,
        found=external,
    ),
)
