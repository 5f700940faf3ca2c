"""Writes the Grafana dashboards beside this file: python compose/dashboards.py [--check].

A panel is a title, a unit and its queries; where it stands follows from the order. Every query was
answered with data in a test: tests/test_monitoring.py asks a real Prometheus that scrapes kvsim,
tests/real/test_monitoring.py one that scrapes vLLM and Mooncake.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
WIDTH, HEIGHT = 8, 7
"""Of a panel, in Grafana's grid of 24 columns."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One chart: `queries` are (expression, legend)."""

    title: str
    unit: str
    queries: tuple[tuple[str, str], ...]
    tells: str = ""


def rate(series: str) -> str:
    """Per second, over the minute before."""
    return f"rate({series}[1m])"


def ratio(part: str, whole: str, by: str = "service") -> str:
    """Share of one counter's growth in another's; no point while nothing grows."""
    return f"sum by ({by}) ({rate(part)}) / (sum by ({by}) ({rate(whole)}) > 0)"


def mean(histogram: str, by: str = "service") -> str:
    """Mean of what was observed within the minute; no point where nothing was."""
    return ratio(f"{histogram}_sum", f"{histogram}_count", by)


def quantile(q: float, histogram: str) -> str:
    """From the buckets, by service."""
    return f"histogram_quantile({q}, sum by (service, le) ({rate(histogram + '_bucket')}))"


def latency(title: str, histogram: str, tells: str = "") -> Panel:
    """p50, p99 and mean of a histogram of seconds."""
    return Panel(
        title=title,
        unit="s",
        queries=(
            (quantile(0.5, histogram), "p50 {{service}}"),
            (quantile(0.99, histogram), "p99 {{service}}"),
            (mean(histogram), "mean {{service}}"),
        ),
        tells=tells,
    )


CACHE = (
    Panel(
        title="Keys in the store",
        unit="short",
        queries=(("master_key_count", "keys"),),
        tells="0 after a clear, and still 0 a minute later.",
    ),
    Panel(
        title="Bytes in the store",
        unit="bytes",
        queries=(("master_allocated_bytes", "used"), ("master_total_capacity_bytes", "capacity")),
    ),
    Panel(
        title="Share of the store in use",
        unit="percentunit",
        queries=(("master_allocated_bytes / (master_total_capacity_bytes > 0)", "used"),),
        tells="Above the master's eviction watermark (0.9) keys are evicted: a hit round loses.",
    ),
    Panel(
        title="Put requests",
        unit="reqps",
        queries=(
            (rate("master_put_start_requests_total"), "single"),
            (rate("master_batch_put_start_requests_total"), "batch"),
        ),
    ),
    Panel(
        title="Get requests",
        unit="reqps",
        queries=(
            (rate("master_get_replica_list_requests_total"), "single"),
            (rate("master_batch_get_replica_list_requests_total"), "batch"),
        ),
    ),
    Panel(
        title="Look-ups",
        unit="reqps",
        queries=(
            (rate("master_exist_key_requests_total"), "single"),
            (rate("master_batch_exist_key_requests_total"), "batch"),
        ),
    ),
    Panel(
        title="Evicted keys",
        unit="short",
        queries=((rate("master_evicted_key_count"), "keys/s"),),
        tells="Any eviction in a measured round: its warm case is bound by capacity.",
    ),
    Panel(
        title="Evicted bytes", unit="Bps", queries=((rate("master_evicted_size_bytes"), "bytes/s"),)
    ),
    Panel(
        title="Puts refused for want of room",
        unit="short",
        queries=((rate("master_put_start_alloc_failures_total"), "failures/s"),),
    ),
    Panel(
        title="Clients of the store",
        unit="short",
        queries=(("master_active_clients", "clients"),),
        tells="One per worker; fewer: a node's objects are gone with it.",
    ),
    Panel(
        title="Gets that found something",
        unit="percentunit",
        queries=((f"{rate('valid_get_nums_')} / ({rate('total_get_nums_')} > 0)", "found"),),
    ),
    Panel(
        title="Prompt tokens by source",
        unit="short",
        queries=(
            ("sum by (source) (" + rate("vllm:prompt_tokens_by_source_total") + ")", "{{source}}"),
        ),
        tells="external_kv_transfer is what came out of the store; on a PD decoder, the transfer.",
    ),
)

ENGINE = (
    latency("TTFT", "vllm:time_to_first_token_seconds", "As the server sees it: no network."),
    latency("Inter-token latency", "vllm:inter_token_latency_seconds"),
    latency("Queue", "vllm:request_queue_time_seconds"),
    latency("Prefill", "vllm:request_prefill_time_seconds"),
    latency("Decode", "vllm:request_decode_time_seconds"),
    latency("End to end", "vllm:e2e_request_latency_seconds"),
    Panel(
        title="Requests",
        unit="short",
        queries=(
            ("vllm:num_requests_running", "running {{service}}"),
            ("vllm:num_requests_waiting", "waiting {{service}}"),
        ),
        tells="A measurement of unit cost never has anything waiting.",
    ),
    Panel(
        title="Local hits",
        unit="percentunit",
        queries=(
            (
                ratio("vllm:prefix_cache_hits_total", "vllm:prefix_cache_queries_total"),
                "{{service}}",
            ),
        ),
        tells="The engine's own prefix cache, in tokens.",
    ),
    Panel(
        title="External hits",
        unit="percentunit",
        queries=(
            (
                ratio(
                    "vllm:external_prefix_cache_hits_total",
                    "vllm:external_prefix_cache_queries_total",
                ),
                "{{service}}",
            ),
        ),
        tells="Through the KV connector, of what the local cache did not have.",
    ),
    Panel(
        title="Prompt tokens",
        unit="short",
        queries=(("sum by (service) (" + rate("vllm:prompt_tokens_total") + ")", "{{service}}"),),
    ),
    Panel(
        title="Generated tokens",
        unit="short",
        queries=(
            ("sum by (service) (" + rate("vllm:generation_tokens_total") + ")", "{{service}}"),
        ),
    ),
    Panel(
        title="KV cache in use",
        unit="percentunit",
        queries=(("vllm:kv_cache_usage_perc", "{{service}}"),),
    ),
    Panel(
        title="Preemptions",
        unit="short",
        queries=(("sum by (service) (" + rate("vllm:num_preemptions_total") + ")", "{{service}}"),),
    ),
)

STORE_TIME = "vllm:mooncake_store_operation_time_seconds"

TRANSFER = (
    Panel(
        title="Store operation, mean time",
        unit="s",
        queries=((mean(STORE_TIME, "service, operation"), "{{service}} {{operation}}"),),
    ),
    Panel(
        title="Store operations",
        unit="ops",
        queries=(
            (
                "sum by (service, operation, status) ("
                + rate("vllm:mooncake_store_operation_total")
                + ")",
                "{{service}} {{operation}} {{status}}",
            ),
        ),
    ),
    Panel(
        title="Bytes to and from the store",
        unit="Bps",
        queries=(
            (
                "sum by (service, operation) ("
                + rate("vllm:mooncake_store_operation_bytes_total")
                + ")",
                "{{service}} {{operation}}",
            ),
        ),
    ),
    Panel(
        title="Keys to and from the store",
        unit="short",
        queries=(
            (
                "sum by (service, operation) ("
                + rate("vllm:mooncake_store_operation_keys_total")
                + ")",
                "{{service}} {{operation}}",
            ),
        ),
    ),
    Panel(
        title="Failed keys",
        unit="short",
        queries=(
            (
                "sum by (service, operation) ("
                + rate("vllm:mooncake_store_operation_failed_keys_total")
                + ")",
                "{{service}} {{operation}}",
            ),
        ),
        tells="A load that fails is an error of the request, or a recomputation.",
    ),
    Panel(
        title="Transfer from prefiller to decoder (NIXL), mean time",
        unit="s",
        queries=((mean("vllm:nixl_xfer_time_seconds"), "{{service}}"),),
        tells="Of PD disaggregation: the phase between prefill and decode.",
    ),
    Panel(
        title="Bytes from prefiller to decoder (NIXL)",
        unit="Bps",
        queries=(
            ("sum by (service) (" + rate("vllm:nixl_bytes_transferred_sum") + ")", "{{service}}"),
        ),
    ),
    Panel(
        title="Failed transfers (NIXL)",
        unit="short",
        queries=(
            (
                "sum by (service) (" + rate("vllm:nixl_num_failed_transfers_total") + ")",
                "failed {{service}}",
            ),
            (
                "sum by (service) (" + rate("vllm:nixl_num_kv_expired_reqs_total") + ")",
                "expired {{service}}",
            ),
        ),
    ),
    Panel(
        title="LMCache: tokens found of those asked for",
        unit="percentunit",
        queries=(
            (
                ratio("lmcache:num_hit_tokens_total", "lmcache:num_requested_tokens_total"),
                "{{service}}",
            ),
        ),
    ),
    Panel(
        title="LMCache: mean time to retrieve and to store",
        unit="s",
        queries=(
            (mean("lmcache:time_to_retrieve"), "retrieve {{service}}"),
            (mean("lmcache:time_to_store"), "store {{service}}"),
        ),
    ),
    Panel(
        title="LMCache: bytes from and to its remote tier",
        unit="Bps",
        queries=(
            (
                "sum by (service) (" + rate("lmcache:num_remote_read_bytes_total") + ")",
                "read {{service}}",
            ),
            (
                "sum by (service) (" + rate("lmcache:num_remote_write_bytes_total") + ")",
                "written {{service}}",
            ),
        ),
    ),
)

DASHBOARDS = {
    "grafana-dashboard-cache-test.json": ("KV cache: store", "kv-cache-store", CACHE),
    "grafana-dashboard-engine.json": ("KV cache: engines", "kv-cache-engines", ENGINE),
    "grafana-dashboard-transfer.json": ("KV cache: transfer", "kv-cache-transfer", TRANSFER),
}


def panel(index: int, one: Panel) -> dict[str, Any]:
    """As Grafana 11 stores it."""
    column, row = index % (24 // WIDTH), index // (24 // WIDTH)
    source = {"type": "prometheus", "uid": "prometheus"}
    return {
        "id": index + 1,
        "type": "timeseries",
        "title": one.title,
        "description": one.tells,
        "datasource": source,
        "gridPos": {"h": HEIGHT, "w": WIDTH, "x": column * WIDTH, "y": row * HEIGHT},
        "fieldConfig": {"defaults": {"unit": one.unit, "min": 0}, "overrides": []},
        "options": {"tooltip": {"mode": "multi"}, "legend": {"displayMode": "list"}},
        "targets": [
            {
                "refId": chr(ord("A") + at),
                "expr": query,
                "legendFormat": legend,
                "datasource": source,
            }
            for at, (query, legend) in enumerate(one.queries)
        ],
    }


def dashboard(title: str, uid: str, panels: tuple[Panel, ...]) -> str:
    """The file's text."""
    content = {
        "uid": uid,
        "title": title,
        "tags": ["kv-cache"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "5s",
        "time": {"from": "now-30m", "to": "now"},
        "links": [{"type": "dashboards", "tags": ["kv-cache"], "title": "KV cache"}],
        "panels": [panel(index, one) for index, one in enumerate(panels)],
    }
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def main(arguments: list[str]) -> int:
    """0, or 1 where --check finds a file that is not what would be written."""
    stale = 0
    for name, (title, uid, panels) in DASHBOARDS.items():
        text, path = dashboard(title, uid, panels), HERE / name
        if "--check" not in arguments:
            path.write_text(text, encoding="utf-8")
        elif not path.exists() or path.read_text(encoding="utf-8") != text:
            print(f"dashboards.py: {name} is stale: python compose/dashboards.py", file=sys.stderr)
            stale = 1
    return stale


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
