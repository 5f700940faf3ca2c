"""What stands behind the engines: is it asked, is it filled, has it room?"""

from __future__ import annotations

from collections.abc import Iterator

from kvdoctor.evidence import Evidence, NodeSeen, hit_tokens
from kvdoctor.rules.rule import Rule, Seen

QUERIES_COUNTED_SINCE = (0, 11, 2)
FULL_RATIO = 0.85
"""Mooncake evicts from 0.9 on unless told otherwise (--eviction_high_watermark_ratio)."""
CONNECTOR = (
    """--kv-transfer-config '{"kv_connector":"MooncakeStoreConnector","kv_role":"kv_both"}'"""
    " and MOONCAKE_CONFIG_PATH (LMCache: LMCacheConnectorV1 or LMCacheMPConnector)"
)


def lacks_connector(evidence: Evidence, node: NodeSeen) -> bool:
    """Whether a node asked nobody for a prompt that it did not have."""
    if node.kind != "vllm" or not node.metrics or node.dialogue is None:
        return False
    if node.dialogue.first.refused or node.version < QUERIES_COUNTED_SINCE:
        return False
    return evidence.behind_is_asked and not node.dialogue.first.looked_behind


def no_connector(evidence: Evidence) -> Iterator[Seen]:
    """Several endpoints or a store, and an engine that never looks beyond itself."""
    for node in evidence.endpoints:
        if lacks_connector(evidence, node):
            role = node.config.connector_role
            has = f"; its connector is {node.config.connector} ({role})"
            yield Seen(
                where=node.where,
                seen="it asked no connector for a prompt that it did not have"
                f" (vllm:external_prefix_cache_queries_total stood still)"
                f"{has if node.config.connector else ''}",
                change=f"start it with {CONNECTOR}",
                evidence={"connector": node.config.connector, "role": role},
            )


def nothing_saved(evidence: Evidence) -> Iterator[Seen]:
    """The first endpoint asks its connector, and stores nothing."""
    source = evidence.endpoints[0] if evidence.endpoints else None
    if source is None or source.dialogue is None or lacks_connector(evidence, source):
        return
    counted = [keys.count for keys in evidence.from_source if keys.count is not None]
    saved = source.dialogue.saved_keys
    if saved or any(counted) or (not counted and saved is None):
        return
    if not source.dialogue.first.looked_behind or source.dialogue.first.refused:
        return
    yield Seen(
        where=source.where,
        seen=f"a prompt of {source.dialogue.first.prompt_tokens} tokens was computed, and no"
        " key of it came into the store",
        change='let it save: "kv_role":"kv_both" (kv_consumer only reads), room in the store, and'
        " for LMCache prompts of at least one chunk (chunk_size: 256, or save_unfull_chunk: true)",
        evidence={"keys": counted, "saved_keys": saved},
    )


def other_store(evidence: Evidence) -> Iterator[Seen]:
    """Keys are saved, but not into the store that was named."""
    first = evidence.endpoints[:1]
    looks = [(node, evidence.from_source) for node in first]
    here = {crossing.where: crossing.from_here for crossing in evidence.crossings}
    looks += [(node, here[node.where]) for node in evidence.endpoints if node.where in here]
    for node, keys in looks:
        saved = node.dialogue.saved_keys if node.dialogue else None
        counts = [one.count for one in keys if one.count is not None]
        if saved and counts and not any(counts):
            yield Seen(
                where=node.where,
                seen=f"the engine counted {saved:g} keys as saved, and none appeared in"
                f" {_stores(evidence)}",
                change="point every node's mooncake.json (master_server_address) or remote_url at"
                " one master, and --engine mooncake=URL at that master's admin port",
                evidence={"saved_keys": saved},
            )


def _stores(evidence: Evidence) -> str:
    return ", ".join(store.where for store in evidence.stores if store.keys) or "the store"


def store_miss(evidence: Evidence) -> Iterator[Seen]:
    """After a reset of the engine alone, what it had stored does not come back."""
    for node in evidence.endpoints:
        if node.reset is None or node.dialogue is None or lacks_connector(evidence, node):
            continue
        hit, needed = hit_tokens(node.reset.told), node.dialogue.needed_tokens
        if node.reset.ok is not True or not node.dialogue.first.looked_behind:
            continue
        if hit is not None and hit < needed:
            yield Seen(
                where=node.where,
                seen=f"after a reset of its own cache the same prompt hit {hit:g} tokens from"
                f" behind the engine; at least {needed} were to be expected",
                change="see whether keys are saved (nothing_saved, store_full) and kept: a larger"
                " global_segment_size, a longer transfer_timeout over tcp",
                evidence={"hit_tokens": hit, "needed_tokens": needed},
            )


def store_full(evidence: Evidence) -> Iterator[Seen]:
    """No room, or hardly any."""
    for store in evidence.stores:
        capacity, used = store.after.capacity_bytes, store.after.allocated_bytes
        evicted = (store.after.evicted_keys or 0) - (store.before.evicted_keys or 0)
        failed = (store.after.alloc_failures or 0) - (store.before.alloc_failures or 0)
        if evicted > 0 or failed > 0:
            seen = f"a few prompts evicted {evicted:g} keys, and {failed:g} puts found no room"
        elif capacity and used is not None and used >= FULL_RATIO * capacity:
            seen = f"{used / 2**20:,.0f} of {capacity / 2**20:,.0f} MiB are in use"
        else:
            continue
        yield Seen(
            where=store.where,
            seen=seen,
            change="raise global_segment_size on the nodes (the pool is their sum), or clear it:"
            f" kvclear --mooncake {store.where}",
            evidence={
                "allocated_bytes": used,
                "capacity_bytes": capacity,
                "evicted_keys": evicted,
                "alloc_failures": failed,
            },
        )


def store_without_memory(evidence: Evidence) -> Iterator[Seen]:
    """A master that nobody lends memory to."""
    for store in evidence.stores:
        if store.before.capacity_bytes == 0:
            yield Seen(
                where=store.where,
                seen="its pool is of 0 bytes: no node has joined with a segment",
                change="start the nodes with this master_server_address and a global_segment_size"
                " above 0 (in mode standalone-store the memory is a server of its own)",
            )


def barrier_unknown(evidence: Evidence) -> Iterator[Seen]:
    """Saves that do not end, or work that nobody here sent."""
    for node in evidence.endpoints:
        rest = node.dialogue.rest if node.dialogue else None
        if node.metrics and rest is not None and rest.state == "unknown":
            yield Seen(
                where=node.where,
                seen=f"no rest within {rest.waited_s:.0f} s: {rest.reason}",
                change="stop other load on this engine and this store before measuring",
            )


RULES = (
    Rule(
        code="no_connector",
        severity="warning",
        asks="does an engine ask behind itself for a prompt that it does not have?",
        means="Only its own prefix cache can hit: results of this node say nothing of a store.",
        judge=no_connector,
    ),
    Rule(
        code="nothing_saved",
        severity="warning",
        asks="new keys in the store after a new prompt",
        means="There is nothing to hit, on this node after a reset or on any other.",
        judge=nothing_saved,
    ),
    Rule(
        code="other_store",
        severity="warning",
        asks="keys that the engine counts as saved against those that appear in the store",
        means="The named store is not the one that serves: clearing and watching it does nothing.",
        judge=other_store,
    ),
    Rule(
        code="store_miss",
        severity="warning",
        asks="the same prompt after a reset of the engine alone (`--reset`)",
        means="Tier `store` cannot hit: its second round would be cold.",
        judge=store_miss,
    ),
    Rule(
        code="store_full",
        severity="warning",
        asks="used bytes against capacity; evictions and allocation failures meanwhile",
        means="What is stored is evicted before it is read: hits measure the pool's size.",
        judge=store_full,
    ),
    Rule(
        code="store_without_memory",
        severity="warning",
        asks="`master_total_capacity_bytes`",
        means="Every put fails: nothing is ever stored.",
        judge=store_without_memory,
    ),
    Rule(
        code="barrier_unknown",
        severity="warning",
        asks="do engine and store come to rest after a prompt?",
        means="A second round may begin before the first one is saved, which looks like eviction.",
        judge=barrier_unknown,
    ),
)
