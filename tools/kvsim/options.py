"""What a kvsim was asked to be: the command line as values."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Role = Literal["node", "prefill", "decode"]
"""Of a node: alone, or one half of a disaggregated pair."""
Flow = Literal["vllm", "lmcache"]
"""Who sends token 1: the decoder, after the transfer; or the prefiller, before it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How long things take, in seconds. The defaults make a 2,700-token miss about 0.4 s."""

    overhead_s: float = 0.015
    """Of each request before the engine has it: parsing, templating, tokenising."""
    prefill_tps: float = 7500.0
    step_s: float = 0.008
    decode_s_per_sequence: float = 0.0001
    attention_s_per_pair: float = 0.0
    """Seconds per (new token, token before it): the quadratic part of prefill."""
    load_latency_s: float = 0.005
    """Of a load out of the store, or of a transfer from prefiller to decoder."""
    load_s_per_block: float | None = None
    """None: 7 microseconds a token."""
    save_delay_s: float = 0.1
    save_s_per_block: float | None = None
    """None: 10 microseconds a token."""
    jitter: float = 0.0
    """Relative standard deviation of a step's length."""

    def load_s(self, blocks: int, block_tokens: int) -> float:
        per_block = self.load_s_per_block
        return self.load_latency_s + blocks * (
            block_tokens * 7e-6 if per_block is None else per_block
        )

    def save_s(self, blocks: int, block_tokens: int) -> float:
        per_block = self.save_s_per_block
        return blocks * (block_tokens * 1e-5 if per_block is None else per_block)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeOptions:
    """A node: an inference engine with vLLM's HTTP API."""

    model: str = "sim"
    block_tokens: int = 16
    capacity_blocks: int | None = None
    """None: room for 262,144 tokens."""
    max_model_len: int = 131072
    max_num_seqs: int = 256
    max_num_batched_tokens: int = 2048
    pace: Pace = Pace()
    seed: int = 0
    store: str | None = None
    segment_bytes: int = 2 << 30
    bytes_per_token: int = 4096
    load_failure: str = "fail"
    vllm_version: tuple[int, ...] = (0, 32, 0)
    prompt_tokens_details: bool = True
    per_request_metrics: bool = False
    dev_mode: bool = True
    api_key: str | None = None
    flat: bool = False
    ttft_s: float = 0.05
    itl_s: float = 0.01
    truth: Path | None = None
    faults: tuple[str, ...] = ()
    verbose: bool = False
    hash_seed: int = 0
    """As PYTHONHASHSEED: nodes of different seeds name equal blocks differently in a store."""
    dated_template: bool = False
    """Whether the chat template begins with the date and the minute."""
    role: Role = "node"
    flow: Flow = "vllm"
    kv_hold_s: float = 480.0
    """How long a prefiller keeps blocks that no decoder fetches."""

    @property
    def nixl(self) -> bool:
        """Whether it transfers as vLLM's NixlConnector does, and counts so."""
        return self.role != "node" and self.flow == "vllm"

    @property
    def blocks(self) -> int:
        return self.capacity_blocks or max(2, 262144 // self.block_tokens)

    @property
    def version(self) -> str:
        return ".".join(map(str, self.vllm_version))

    @property
    def fingerprint(self) -> str:
        """What vLLM fills with its version and a hash of its configuration."""
        return f"kvsim-{self.version}-simulated"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreOptions:
    """A store: a Mooncake master with its admin API."""

    capacity_bytes: int | None = None
    """None: the sum of the segments that nodes mount."""
    lease_s: float = 5.0
    watermark: float = 0.9
    eviction: float = 0.05
    """The share of the capacity that one eviction frees."""
    faults: tuple[str, ...] = ()
    verbose: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyOptions:
    """A proxy before prefillers and decoders, which it takes in turn."""

    prefillers: tuple[str, ...]
    decoders: tuple[str, ...]
    flow: Flow = "vllm"
    address: str = ""
    """Its own host:port, where prefillers tell that KV has arrived (flow lmcache)."""
    truth: Path | None = None
    verbose: bool = False
