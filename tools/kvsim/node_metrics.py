"""The metrics of a node, under vLLM 0.32's names and labels.

Source of names, labels and buckets: a capture of vLLM 0.32.0's ``/metrics``
(tests/data/captures/vllm_metrics.txt and vllm_metrics_nodeB_mooncakestore.txt).
"""

import gc
import os
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from kvsim.metrics import Family, HistogramSeries, Registry, Series
from kvsim.options import NodeOptions

_LONG = (
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0,
    240.0, 480.0, 960.0, 1920.0, 7680.0,
)  # fmt: skip
_TTFT = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
    20.0, 40.0, 80.0, 160.0, 640.0, 2560.0,
)  # fmt: skip
_ITL = (
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
    20.0, 40.0, 80.0,
)  # fmt: skip
_TOKENS = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1e3, 2e3, 5e3, 1e4)
_STEP_TOKENS = (
    1.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0,
)  # fmt: skip
_STORE = (
    0.001, 0.005, 0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0,
)  # fmt: skip

STORE_OPERATIONS = ("lookup_exists", "load_get", "save_exists", "save_put")
SOURCES = ("local_compute", "local_cache_hit", "external_kv_transfer")
_TIERS = ("device", "host", "p2p", "disk", "external_unspecified")
_REASONS = ("stop", "length", "abort", "error", "repetition")

_COUNTERS = {
    "estimated_flops_per_gpu": "Not estimated here, as in a CPU build.",
    "estimated_read_bytes_per_gpu": "Not estimated here, as in a CPU build.",
    "estimated_write_bytes_per_gpu": "Not estimated here, as in a CPU build.",
    "prefix_cache_queries": "Tokens looked up in the engine's own prefix cache.",
    "prefix_cache_hits": "Tokens found in the engine's own prefix cache.",
    "external_prefix_cache_queries": "Tokens looked up behind the KV connector.",
    "external_prefix_cache_hits": "Tokens found behind the KV connector.",
    "mm_cache_queries": "Multi-modal items looked up.",
    "mm_cache_hits": "Multi-modal items found.",
    "num_preemptions": "Preempted requests.",
    "prompt_tokens": "Prompt tokens of requests that were prefilled.",
    "prompt_tokens_by_source": "Prompt tokens by source.",
    "prompt_tokens_cached": "Cached prompt tokens, local and external.",
    "prompt_tokens_cached_by_source": "Cached prompt tokens by the tier that gave them.",
    "generation_tokens": "Generated tokens.",
    "request_success": "Finished requests by reason.",
}
_HISTOGRAMS = {
    "request_prompt_tokens": ("Prompt tokens of a request.", _TOKENS),
    "request_generation_tokens": ("Generated tokens of a request.", _TOKENS),
    "iteration_tokens_total": ("Tokens of an engine step.", _STEP_TOKENS),
    "request_max_num_generation_tokens": ("Most generated tokens of its choices.", _TOKENS),
    "request_params_n": ("The parameter n.", (1.0, 2.0, 5.0, 10.0, 20.0)),
    "request_params_max_tokens": ("The parameter max_tokens.", _TOKENS),
    "time_to_first_token_seconds": ("Arrival to first token.", _TTFT),
    "inter_token_latency_seconds": ("Token to token.", _ITL),
    "request_time_per_output_token_seconds": ("Decode time per token of a request.", _ITL),
    "e2e_request_latency_seconds": ("Arrival to last token.", _LONG),
    "request_queue_time_seconds": ("Arrival to first scheduled.", _LONG),
    "request_inference_time_seconds": ("First scheduled to last token.", _LONG),
    "request_prefill_time_seconds": ("First scheduled to first token.", _LONG),
    "request_decode_time_seconds": ("First token to last token.", _LONG),
    "request_num_preemptions": (
        "Preemptions of a request.", (1.0, 2.0, 3.0, 4.0, 5.0, 10.0, 20.0),
    ),
    "request_prefill_kv_computed_tokens": ("Prompt tokens computed, not cached.", _TOKENS),
}  # fmt: skip

_NIXL_S = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 5.0)
NIXL_HISTOGRAMS = {
    "nixl_xfer_time_seconds": ("Transfers from prefiller to decoder.", _NIXL_S),
    "nixl_post_time_seconds": ("Posting a transfer; not simulated.", (0.001, *_NIXL_S)),
    "nixl_bytes_transferred": ("Bytes of a transfer.", tuple(2.0**at for at in range(11, 35, 2))),
    "nixl_num_descriptors": (
        "Descriptors of a transfer.",
        (10.0, 20.0, 30.0, 50.0, 75.0, 100.0, 200.0, 400.0, 1e3, 2e3, 4e3, 1e4, 2e4, 5e4),
    ),
}
NIXL_COUNTERS = {
    "nixl_num_failed_transfers": "Transfers that failed.",
    "nixl_num_failed_notifications": "Notifications that failed.",
    "nixl_num_kv_expired_reqs": "Requests whose blocks no decoder fetched in time.",
    "nixl_num_notifications_after_expiry": "Notifications that came too late.",
}
"""Names and buckets of vLLM 0.32.0's NixlConnector, on both sides of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """The gauges of one moment."""

    running: int = 0
    waiting: int = 0
    loading: int = 0
    usage: float = 0.0


class NodeMetrics:
    """All numbers of one life of a node; a restart makes a new one."""

    def __init__(self, options: NodeOptions, started_s: float) -> None:
        self.started_s = started_s
        self._options = options
        self._labels = {"engine": "0", "model_name": options.model}
        registry = self._registry = Registry(started_s)
        self._store: dict[str, Family[Series]] = {}
        if options.store:
            self._declare_store(registry)
        self._gauges = _declare_gauges(registry, with_store=options.store is not None)
        old = options.vllm_version < (0, 16)
        self._counters = {
            name: registry.counter("vllm:" + name, text)
            for name, text in (_COUNTERS | (NIXL_COUNTERS if options.nixl else {})).items()
            if not (old and name in ("prompt_tokens_cached", "prompt_tokens_by_source"))
            and not (options.vllm_version < (0, 28) and name == "prompt_tokens_cached_by_source")
        }
        rejections = registry.counter("vllm:admission_rejections", "Requests refused by a limit.")
        for reason in ("max_num_queued_reqs", "max_num_queued_tokens"):
            rejections.at({"model_name": options.model, "reason": reason})
        histograms = _HISTOGRAMS | (NIXL_HISTOGRAMS if options.nixl else {})
        self._histograms: dict[str, Family[HistogramSeries]] = {
            name: registry.histogram("vllm:" + name, text, bounds)
            for name, (text, bounds) in histograms.items()
        }
        _declare_config(registry, options, self._labels)
        self._declare_http(registry)
        self._zero()

    def _declare_store(self, registry: Registry) -> None:
        base = "vllm:mooncake_store_operation"
        self._store_time = registry.histogram(base + "_time_seconds", "Time of it.", _STORE)
        for suffix in ("", "_keys", "_bytes", "_failed_keys"):
            self._store[suffix] = registry.counter(base + suffix, "Operations on the store.")

    def _declare_http(self, registry: Registry) -> None:
        text = "HTTP requests by handler."
        self._http_total = registry.counter("http_requests", text)
        self._http_in = registry.summary("http_request_size_bytes", text)
        self._http_out = registry.summary("http_response_size_bytes", text)
        self._http_highr = registry.histogram(
            "http_request_duration_highr_seconds", text,
            (0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0,
             4.5, 5.0, 7.5, 10.0, 30.0, 60.0),
        )  # fmt: skip
        self._http_time = registry.histogram("http_request_duration_seconds", text, (0.1, 0.5, 1.0))

    def _zero(self) -> None:
        """Series that exist before anything happened, as in the capture."""
        split = {
            "prompt_tokens_by_source": ("source", SOURCES),
            "prompt_tokens_cached_by_source": ("source", _TIERS),
            "request_success": ("finished_reason", _REASONS),
        }
        for name in self._counters:
            key, values = split.get(name, ("", ()))
            for value in values:
                self.count(name, 0, **{key: value})
            if not values:
                self.count(name, 0)
        for family in self._histograms.values():
            family.at(self._labels)

    def count(self, name: str, amount: float = 1, **labels: str) -> None:
        family = self._counters.get(name)  # an old version lacks some
        if family is not None:
            family.at({**self._labels, **labels}).add(amount)

    def observe(self, name: str, value: float, times: int = 1) -> None:
        self._histograms[name].at(self._labels).observe(value, times)

    def store_operation(
        self, operation: str, *, seconds: float, keys: int, size: int = 0, failed: int = 0
    ) -> None:
        """One call of the store and what it moved."""
        labels = {**self._labels, "operation": operation, "status": "ok"}
        self._store_time.at(labels).observe(seconds)
        for suffix, amount in zip(self._store, (1, keys, size, failed), strict=True):
            self._store[suffix].at(labels).add(amount)

    def http(
        self, handler: str, method: str, status: int, size_in: int, size_out: int, seconds: float
    ) -> None:
        by_status = {"handler": handler, "method": method, "status": f"{status // 100}xx"}
        self._http_total.at(by_status).add()
        self._http_in.at({"handler": handler}).observe(size_in)
        self._http_out.at({"handler": handler}).observe(size_out)
        self._http_highr.at({}).observe(seconds)
        self._http_time.at({"handler": handler, "method": method}).observe(seconds)

    def render(self, state: State) -> str:
        values = {
            "num_requests_running": state.running,
            "num_requests_waiting": state.waiting + state.loading,
            "kv_cache_usage_perc": state.usage,
        }
        for name, value in values.items():
            self._gauges[name].at(self._labels).value = value
        reasons = {"capacity": state.waiting, "deferred": state.loading}
        for reason, value in reasons.items():
            labels = {**self._labels, "reason": reason}
            self._gauges["num_requests_waiting_by_reason"].at(labels).value = value
        for name in ("awake", "weights_offloaded", "discard_all"):
            sleeping = self._gauges["engine_sleep_state"].at({**self._labels, "sleep_state": name})
            sleeping.value = float(name == "awake")
        if "num_requests_kv_fetch_by_stage" in self._gauges:
            stages = {"waiting_to_start": 0, "in_progress": state.loading, "completed_waiting": 0}
            for stage, value in stages.items():
                labels = {**self._labels, "stage": stage}
                self._gauges["num_requests_kv_fetch_by_stage"].at(labels).value = value
        return process_text(self.started_s) + self._registry.render()


def _declare_gauges(registry: Registry, *, with_store: bool) -> dict[str, Family[Series]]:
    names = [
        "num_requests_running",
        "num_requests_waiting",
        "num_requests_waiting_by_reason",
        *(["num_requests_kv_fetch_by_stage"] if with_store else []),
        "engine_sleep_state",
        "kv_cache_usage_perc",
    ]
    return {name: registry.gauge("vllm:" + name, "State of the engine.") for name in names}


def _declare_config(registry: Registry, options: NodeOptions, labels: Mapping[str, str]) -> None:
    """The info metric; what kvsim has no meaning for stands as in the capture."""
    size, blocks = str(options.block_tokens), str(options.blocks)
    tokens = options.blocks * options.block_tokens
    override = str(options.capacity_blocks)
    config = {
        "_block_size_resolved": "True", "block_size": size, "cache_dtype": "auto",
        "cache_hit_alignment_tokens": "None", "effective_attention_block_size": size,
        "enable_mamba_shared_prefix_checkpoint": "False", "enable_prefix_caching": "True",
        "gpu_memory_utilization": "0.92", "hash_block_size": "None",
        "is_attention_free": "False", "kv_cache_dtype_skip_layers": "[]",
        "kv_cache_layout": "None",
        "kv_cache_max_concurrency": str(tokens / options.max_model_len),
        "kv_cache_memory_bytes": str(tokens * options.bytes_per_token),
        "kv_cache_size_tokens": str(tokens), "kv_offloading_backend": "native",
        "kv_offloading_size": "None", "kv_sharing_fast_prefill": "False",
        "mamba_block_size": "None", "mamba_cache_dtype": "auto", "mamba_cache_mode": "none",
        "mamba_page_size_padded": "None", "mamba_ssm_cache_dtype": "float32",
        "num_cpu_blocks": "None", "num_gpu_blocks": blocks, "num_gpu_blocks_override": override,
        "prefix_cache_retention_interval": "0", "prefix_caching_hash_algo": "sha256",
        "prefix_match_unit": "None", "replayssm_buffer_len": "16",
        "skip_page_size_padded": "None", "sliding_window": "None", "swa_bounded_replay": "True",
        "use_kda_recoverssm": "False", "use_replayssm": "False",
        "user_specified_block_size": "False",
    }  # fmt: skip
    info = registry.gauge("vllm:cache_config_info", "The cache's configuration.")
    info.at({**config, "engine": labels["engine"]}).value = 1


def process_text(started_s: float) -> str:
    """What Python and the process say about themselves, and that all of this is simulated."""
    registry = Registry(started_s)
    about = {
        "implementation": platform.python_implementation(),
        "major": str(sys.version_info.major), "minor": str(sys.version_info.minor),
        "patchlevel": str(sys.version_info.micro), "version": platform.python_version(),
    }  # fmt: skip
    registry.gauge("python_info", "The Python of kvsim.").at(about).value = 1
    virtual, resident = _memory()
    values = {
        "process_virtual_memory_bytes": virtual,
        "process_resident_memory_bytes": resident,
        "process_start_time_seconds": started_s,
        "process_open_fds": float(len(list(Path("/proc/self/fd").iterdir()))),
        "process_max_fds": float(os.sysconf("SC_OPEN_MAX")),
    }
    for name, value in values.items():
        registry.gauge(name, "Of kvsim's own process.").at({}).value = value
    registry.gauge("kvsim_info", "Made by a simulator, not by an engine.").at(
        {"simulated": "true"}
    ).value = 1
    cpu = sum(os.times()[:2])
    collections = "".join(_gc_lines())
    return (
        collections + registry.render() + "# HELP process_cpu_seconds_total Of this process.\n"
        f"# TYPE process_cpu_seconds_total counter\nprocess_cpu_seconds_total {cpu}\n"
    )


def _gc_lines() -> list[str]:
    names = {
        "python_gc_objects_collected": "collected",
        "python_gc_objects_uncollectable": "uncollectable",
        "python_gc_collections": "collections",
    }
    lines = []
    for name, key in names.items():
        lines.append(f"# HELP {name}_total Of Python.\n# TYPE {name}_total counter\n")
        lines += [
            f'{name}_total{{generation="{at}"}} {float(stats[key])}\n'
            for at, stats in enumerate(gc.get_stats())
        ]
    return lines


def _memory() -> tuple[float, float]:
    """Virtual and resident bytes, from /proc (kvsim runs on Linux; elsewhere 0)."""
    statm = Path("/proc/self/statm")
    if not statm.exists():
        return 0.0, 0.0
    pages = statm.read_text().split()
    size = os.sysconf("SC_PAGE_SIZE")
    return float(pages[0]) * size, float(pages[1]) * size
