"""The metrics of a Mooncake master, under its names.

Source of the names: captures of Mooncake 0.3.13.post1 (tests/data/captures/mooncake_metrics_*).
Counters that mean nothing here stand at 0, as on a master where nothing of the kind happened.
"""

from collections.abc import Iterable

from kvsim.node_metrics import process_text
from kvsim.store import Store

_SINGLE = (
    "exist_key", "put_start", "put_end", "put_revoke", "get_replica_list",
    "get_replica_list_by_regex", "remove", "remove_by_regex", "remove_all", "mount_segment",
    "unmount_segment", "remount_segment", "ping", "copy_start", "copy_end", "copy_revoke",
    "move_start", "move_end", "move_revoke", "evict_disk_replica", "create_copy_task",
    "create_move_task", "update_task", "query_task", "fetch_tasks",
)  # fmt: skip
_BATCH = (
    "exist_key", "query_ip", "replica_clear", "get_replica_list", "put_start", "put_end",
    "put_revoke",
)  # fmt: skip
_PROMOTION = (
    "admitted", "completed", "completed_bytes", "expired", "failed", "cancelled",
    "rejected_frequency", "rejected_watermark", "rejected_cap", "candidate_recorded",
    "candidate_admitted", "candidate_admission_rejected", "candidate_expired_evaluated",
    "candidate_expired_unevaluated", "candidate_dropped_limit",
)  # fmt: skip
_HA = (
    "ha_oplog_last_sequence_id", "ha_oplog_applied_sequence_id", "ha_oplog_standby_lag",
    "ha_oplog_pending_entries", "ha_pending_mutation_queue_size", "ha_standby_state",
)  # fmt: skip
_BUCKETS = (4096, 65536, 262144, 1048576, 4194304, 16777216, 67108864)


def counter_names() -> Iterable[str]:
    """All counters, in the master's order."""
    for name in _SINGLE:
        yield f"master_{name}_requests_total"
        yield f"master_{name}_failures_total"
        if name == "put_start":
            yield "master_put_start_alloc_failures_total"
            yield "master_put_start_partial_allocations_total"
    for name in _BATCH:
        for suffix in ("requests", "failures", "partial_successes", "items", "failed_items"):
            yield f"master_batch_{name}_{suffix}_total"
    yield from (
        "mem_cache_hit_nums_", "file_cache_hit_nums_", "mem_cache_hit_bytes_total",
        "file_cache_hit_bytes_total", "valid_get_nums_", "total_get_nums_",
        "master_successful_evictions_total", "master_attempted_evictions_total",
        "master_evicted_key_count", "master_evicted_size_bytes",
        "master_put_start_discard_cnt", "master_put_start_release_cnt",
    )  # fmt: skip
    for name in _PROMOTION:
        yield f"master_promotion_{name}_total"


def _gauges(store: Store) -> dict[str, int]:
    return {
        "master_allocated_bytes": store.allocated,
        "master_total_capacity_bytes": store.capacity,
        "master_nof_allocated_bytes": 0,
        "master_total_nof_capacity_bytes": 0,
        "master_allocated_file_size_bytes": 0,
        "master_total_file_capacity_bytes": 0,
        "master_key_count": len(store.objects),
        "master_soft_pin_key_count": 0,
        "master_active_clients": len(store.segments),
        "mem_cache_nums_": len(store.objects),
        "file_cache_nums_": 0,
        "master_put_start_discarded_staging_size": 0,
        "master_promotion_in_flight": 0,
        **dict.fromkeys(_HA, 0),
    }


def _head(name: str, kind: str) -> str:
    return f"# HELP {name} Of the simulated store.\n# TYPE {name} {kind}\n"


def render(store: Store, started_s: float) -> str:
    """Whole numbers without a point, as the master writes them."""
    parts = []
    for name, value in _gauges(store).items():
        parts.append(f"{_head(name, 'gauge')}{name} {value}\n")
    segments = sorted(store.segments)
    for name, of in (
        ("segment_allocated_bytes", store.used_by),
        ("segment_total_capacity_bytes", store.capacity_of),
    ):
        if segments:
            parts.append(_head(name, "gauge"))
        parts += [f'{name}{{segment="{segment}"}} {of(segment)}\n' for segment in segments]
    parts.append(_sizes(store))
    for name in counter_names():
        parts.append(f"{_head(name, 'counter')}{name} {store.counts.get(name, 0)}\n")
    return "".join(parts) + process_text(started_s)


def _sizes(store: Store) -> str:
    """The histogram of object sizes; nothing before the first object."""
    if not store.sizes:
        return ""
    name = "master_value_size_bytes"
    lines = [_head(name, "histogram")]
    for bound in _BUCKETS:
        seen = sum(count for size, count in store.sizes.items() if size <= bound)
        lines.append(f'{name}_bucket{{le="{bound:.6f}"}} {seen}\n')
    total = sum(store.sizes.values())
    lines.append(f'{name}_bucket{{le="+Inf"}} {total}\n')
    lines.append(f"{name}_sum {sum(size * count for size, count in store.sizes.items())}\n")
    lines.append(f"{name}_count {total}\n")
    return "".join(lines)
