"""vLLM: what it calls its counters, and how its own prefix cache is reset.

Names are those of 0.32 (tests/data/captures/vllm_metrics.txt), with what 0.9 and later had before:
`prompt_tokens_by_source` came with 0.16, `external_prefix_cache_hits` with 0.11.2, and the `gpu_`
names went with 0.10.
"""

from __future__ import annotations

import asyncio
import json

from kvengine.engine import Engine, Formula, Outcome, less, term
from kvengine.server import Server

_STORE_TIME = "vllm:mooncake_store_operation_time_seconds"
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
    retries = 0
    while True:
        answer = await server.post("/reset_prefix_cache")
        said = _success(answer.text) if answer.ok else None
        if said is not False or retries == len(BUSY_WAITS_S):
            break
        await asyncio.sleep(BUSY_WAITS_S[retries])
        retries += 1
    return Outcome(said if answer.ok else False, answer.short(), retries)


def _success(text: str) -> bool | None:
    """What the body admits; null for an empty one and for any other."""
    try:
        value = json.loads(text)
    except ValueError:
        return None
    said = value.get("success") if isinstance(value, dict) else None
    return said if isinstance(said, bool) else None


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
)
