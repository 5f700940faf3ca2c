"""What the engine did, told to the metrics. Knows no scheduling, only events."""

import time
from collections.abc import Callable

from kvsim.node_metrics import NodeMetrics
from kvsim.options import NodeOptions
from kvsim.sequence import Job, Sequence


class Accounting:
    """Events in, counters out. ``metrics`` is replaced when the node restarts."""

    def __init__(self, options: NodeOptions, wall: Callable[[], float] = time.time) -> None:
        self._options = options
        self._wall = wall
        self.metrics = NodeMetrics(options, wall())

    def restart(self) -> None:
        self.metrics = NodeMetrics(self._options, self._wall())

    def admitted(self, sequence: Sequence, asked_store: bool) -> None:
        """Lookups are counted when a request is first taken up."""
        metrics, local, remote = self.metrics, sequence.cached_local, sequence.cached_remote
        metrics.count("prefix_cache_queries", sequence.prompt_len)
        metrics.count("prefix_cache_hits", local)
        metrics.count("prompt_tokens_cached_by_source", local, source="device")
        if asked_store or remote:
            metrics.count("external_prefix_cache_queries", sequence.prompt_len - local)
            metrics.count("external_prefix_cache_hits", remote)
            tier = "p2p" if self._options.nixl else "external_unspecified"
            metrics.count("prompt_tokens_cached_by_source", remote, source=tier)

    def stepped(self, tokens: int) -> None:
        self.metrics.observe("iteration_tokens_total", tokens)

    def first_token(self, sequence: Sequence, now: float) -> None:
        """Prompt tokens are counted when the prompt is done; the three sources add up to them."""
        metrics, local, remote = self.metrics, sequence.cached_local, sequence.cached_remote
        metrics.count("prompt_tokens", sequence.prompt_len)
        by_source = {
            "local_compute": sequence.prompt_len - local - remote,
            "local_cache_hit": local,
            "external_kv_transfer": remote,
        }
        for source, tokens in by_source.items():
            metrics.count("prompt_tokens_by_source", tokens, source=source)
        metrics.count("prompt_tokens_cached", local + remote)
        metrics.observe("time_to_first_token_seconds", now - sequence.job.arrived_s)

    def token(self, sequence: Sequence, now: float) -> None:
        self.metrics.count("generation_tokens")
        if sequence.generated > 1:
            self.metrics.observe("inter_token_latency_seconds", now - sequence.last_s)

    def preempted(self) -> None:
        self.metrics.count("num_preemptions")

    def transferred(self, seconds: float, blocks: int, *, found: bool) -> None:
        """KV that came from a prefiller, or did not; one descriptor a block, as of one layer."""
        if not found:
            self.metrics.count("nixl_num_failed_transfers")
            return
        size = self._options.block_tokens * self._options.bytes_per_token
        values = {
            "nixl_xfer_time_seconds": seconds,
            "nixl_post_time_seconds": 0.0,
            "nixl_bytes_transferred": float(blocks * size),
            "nixl_num_descriptors": float(blocks),
        }
        for name, value in values.items():
            self.metrics.observe(name, value)

    def kv_expired(self) -> None:
        """Blocks that a prefiller held, and no decoder fetched."""
        self.metrics.count("nixl_num_kv_expired_reqs")

    def failed(self) -> None:
        """Blocks that were promised had gone when they were to be loaded."""
        self.metrics.count("request_success", finished_reason="error")

    def finished(self, sequence: Sequence, reason: str, now: float) -> None:
        """Aborted requests are not counted, as in vLLM when the client goes away."""
        metrics, generated = self.metrics, sequence.generated
        decode_s = now - sequence.first_s
        values = {
            "request_prompt_tokens": sequence.prompt_len,
            "request_generation_tokens": generated,
            "request_params_max_tokens": sequence.limit,
            "e2e_request_latency_seconds": now - sequence.job.arrived_s,
            "request_queue_time_seconds": sequence.scheduled_s - sequence.job.arrived_s,
            "request_inference_time_seconds": now - sequence.scheduled_s,
            "request_prefill_time_seconds": sequence.first_s - sequence.scheduled_s,
            "request_decode_time_seconds": decode_s,
            "request_num_preemptions": sequence.preemptions,
            "request_prefill_kv_computed_tokens": sequence.prompt_len
            - sequence.cached_local
            - sequence.cached_remote,
            "request_time_per_output_token_seconds": decode_s / max(1, generated - 1),
        }
        metrics.count("request_success", finished_reason=reason)
        for name, value in values.items():
            metrics.observe(name, value)
        if sequence.job.unfinished == 0:
            self._job_finished(sequence.job)

    def _job_finished(self, job: Job) -> None:
        most = max(sequence.generated for sequence in job.sequences)
        self.metrics.observe("request_max_num_generation_tokens", most)
        self.metrics.observe("request_params_n", job.ask.n)
