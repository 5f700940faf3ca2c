"""The options of kvsim, and how they become values."""

import argparse
from pathlib import Path
from typing import Any

from kvpipe.process import UsageError, new_parser
from kvsim.faults import FAULTS, FaultError, Owner, parse_fault
from kvsim.options import NodeOptions, Pace, ProxyOptions, StoreOptions

_DESCRIPTION = """\
Imitates a vLLM server, its two halves and the proxy before them, or the
Mooncake store behind several: same protocol, same metrics, a real prefix cache,
and time made from tokens. What it answers is simulated, and says so. Prints one
line of JSON when it is ready."""

_EXAMPLES = """\
  kvsim --port 8301
  kvsim --port 8303 --role store
  kvsim --port 8301 --store http://127.0.0.1:8303
  kvsim --port 8301 --flat --ttft-ms 50 --itl-ms 10
  kvsim --role proxy --prefiller URL --decoder URL
"""

_NODE = NodeOptions()
_PACE = Pace()
_STORE = StoreOptions()

# flag, type, default, metavar, help; the default stands in the help
_COUNTS: tuple[tuple[str, type, Any, str, str], ...] = (
    ("--block-tokens", int, _NODE.block_tokens, "N", "tokens of a block [16]"),
    ("--capacity-blocks", int, None, "N", "blocks of the cache [room for 262144 tokens]"),
    ("--max-model-len", int, None, "N", "longest context [131072, or what the blocks hold]"),
    ("--max-num-seqs", int, _NODE.max_num_seqs, "N", "most running requests [256]"),
    ("--max-num-batched-tokens", int, _NODE.max_num_batched_tokens, "N", "of a step [2048]"),
    ("--seed", int, _NODE.seed, "N", "of the noise and the faults [0]"),
    ("--hash-seed", int, _NODE.hash_seed, "N", "of the blocks' names in a store [0]"),
    ("--segment-bytes", int, _NODE.segment_bytes, "N", "room it gives to the store [2 GiB]"),
    ("--bytes-per-token", int, _NODE.bytes_per_token, "N", "of KV in the store [4096]"),
)
_TIMES: tuple[tuple[str, type, Any, str, str], ...] = (
    ("--overhead-ms", float, _PACE.overhead_s * 1e3, "MS", "before the engine has it [15]"),
    ("--prefill-tps", float, _PACE.prefill_tps, "N", "tokens a second [7500]"),
    ("--attention-ns", float, 0.0, "NS", "per pair of tokens, the quadratic part [0]"),
    ("--step-ms", float, _PACE.step_s * 1e3, "MS", "of each step [8]"),
    ("--decode-ms-per-seq", float, _PACE.decode_s_per_sequence * 1e3, "MS", "[0.1]"),
    ("--load-latency-ms", float, _PACE.load_latency_s * 1e3, "MS", "[5]"),
    ("--load-ms-per-block", float, None, "MS", "[0.007 a token]"),
    ("--save-delay-ms", float, _PACE.save_delay_s * 1e3, "MS", "after the first token [100]"),
    ("--save-ms-per-block", float, None, "MS", "[0.01 a token]"),
    ("--jitter", float, 0.0, "R", "relative standard deviation of a step [0]"),
    ("--ttft-ms", float, _NODE.ttft_s * 1e3, "MS", "with --flat [50]"),
    ("--itl-ms", float, _NODE.itl_s * 1e3, "MS", "with --flat [10]"),
)
_MEMORY: tuple[tuple[str, type, Any, str, str], ...] = (
    ("--capacity-bytes", int, None, "N", "[the sum of the nodes' segments]"),
    ("--lease-ms", float, _STORE.lease_s * 1e3, "MS", "how long a read protects a key [5000]"),
    ("--watermark", float, _STORE.watermark, "R", "share above which keys are evicted [0.9]"),
    ("--eviction", float, _STORE.eviction, "R", "share that one eviction frees [0.05]"),
)
_HELD: tuple[tuple[str, type, Any, str, str], ...] = (
    (
        "--kv-hold-s",
        float,
        _NODE.kv_hold_s,
        "S",
        "that a prefiller keeps what nobody fetches [480]",
    ),
)
_ABOVE_ZERO = (
    "block_tokens", "capacity_blocks", "max_model_len", "max_num_seqs", "max_num_batched_tokens",
    "prefill_tps", "bytes_per_token",
)  # fmt: skip


def _fault_help() -> str:
    lines = ["faults, by --fault or by POST /kvsim/fault; [what an omitted argument is]:"]
    for name, fault in FAULTS.items():
        shown = f"{name}={fault.argument}" if fault.argument else name
        default = f" [{fault.default}]" if fault.default else ""
        role = "" if fault.owner == "node" else f" (of a {fault.owner})"
        lines.append(f"  {shown}{default}{role}\n      {fault.what}")
    return "\n".join(lines)


def parser() -> argparse.ArgumentParser:
    """Options in groups, the faults from their table."""
    made = new_parser("kvsim", _DESCRIPTION, _EXAMPLES)
    made.epilog = f"{_fault_help()}\n\n{made.epilog}"
    add = made.add_argument
    add("--port", type=int, default=0, metavar="P", help="0, the default, is a free one")
    add("--host", default="127.0.0.1", help="address to listen on [127.0.0.1]")
    add("--role", choices=("node", "prefill", "decode", "proxy", "store"), default="node",
        help="what it plays [node]")  # fmt: skip
    add(
        "--fault",
        action="append",
        default=[],
        metavar="NAME[=ARG]",
        help="one way to be wrong; repeatable",
    )
    add("--keep-alive-s", type=float, default=5.0, metavar="S",
        help="how long an idle connection stays open [5]")  # fmt: skip
    node = made.add_argument_group("a node")
    add = node.add_argument
    add("--model", default=_NODE.model, help=f"the name it serves [{_NODE.model}]")
    add("--store", metavar="URL", help="kvsim store to save to and to load from")
    add("--truth", type=Path, metavar="FILE", help="write what really happened, with stamps")
    add("--api-key", metavar="KEY", help="asked for on /v1")
    add("--vllm-version", default=_NODE.version, metavar="X.Y", help="whose manners [0.32.0]")
    add("--no-prompt-tokens-details", action="store_true", help="cached tokens are not told")
    add("--per-request-metrics", action="store_true", help="answers carry the engine's times")
    add("--no-dev-mode", action="store_true", help="reset routes are 404")
    add("--kv-load-failure-policy", choices=("fail", "recompute"), default=_NODE.load_failure,
        help="when loaded blocks have gone [fail]")  # fmt: skip
    add("--dated-template", action="store_true", help="chat prompts begin with date and time")
    add("--flat", action="store_true", help="constant times, no cache, little work: for clients")
    groups = (
        (node, _COUNTS),
        (made.add_argument_group("its pace"), _TIMES),
        (made.add_argument_group("a store"), _MEMORY),
        (_pd_group(made), _HELD),
    )
    for group, table in groups:
        for flag, kind, default, metavar, text in table:
            group.add_argument(flag, type=kind, default=default, metavar=metavar, help=text)
    return made


def _pd_group(made: argparse.ArgumentParser) -> Any:
    group = made.add_argument_group("a prefiller, a decoder and the proxy before them")
    add = group.add_argument
    add("--prefiller", action="append", default=[], metavar="URL",
        help="of a proxy; repeatable, taken in turn")  # fmt: skip
    add("--decoder", action="append", default=[], metavar="URL",
        help="of a proxy; repeatable, taken in turn")  # fmt: skip
    add("--flow", choices=("vllm", "lmcache"), default="vllm",
        help="who sends token 1: the decoder, after the transfer, or the prefiller, before it"
        " [vllm]")  # fmt: skip
    return group


def check(arguments: argparse.Namespace) -> None:
    """Raises UsageError for what cannot be."""
    for name, value in vars(arguments).items():
        flag = "--" + name.replace("_", "-")
        if name in _ABOVE_ZERO and value is not None and value <= 0:
            raise UsageError(f"{flag}: must be above 0, got {value}")
        if isinstance(value, int | float) and name != "seed" and value < 0:
            raise UsageError(f"{flag}: must not be negative, got {value}")
    if arguments.capacity_blocks == 1:
        raise UsageError("--capacity-blocks: must be at least 2, since one block is never used")
    if arguments.role in ("store", "decode", "proxy") and arguments.store:
        raise UsageError(f"--store: a {arguments.role} has no store behind it")
    if arguments.flat and arguments.role != "node":
        raise UsageError(f"--flat: a {arguments.role} has times of its own")
    behind = arguments.prefiller and arguments.decoder
    if arguments.role == "proxy" and not behind:
        raise UsageError("--role proxy: needs --prefiller URL and --decoder URL")
    if arguments.role != "proxy" and (arguments.prefiller or arguments.decoder):
        raise UsageError("--prefiller, --decoder: of a proxy (--role proxy)")
    faults(arguments)


def _version(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split("."))
    except ValueError as error:
        raise UsageError(f"--vllm-version: expected numbers and dots, got {text!r}") from error


def faults(arguments: argparse.Namespace) -> tuple[str, ...]:
    """Raises UsageError."""
    owner: Owner = arguments.role if arguments.role in ("store", "proxy") else "node"
    for text in arguments.fault:
        try:
            parse_fault(text, owner=owner)
        except FaultError as error:
            raise UsageError(f"--{error}") from error
    return tuple(arguments.fault)


def _seconds(milliseconds: float | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1e3


def _pace(arguments: argparse.Namespace) -> Pace:
    return Pace(
        overhead_s=arguments.overhead_ms / 1e3,
        prefill_tps=arguments.prefill_tps,
        step_s=arguments.step_ms / 1e3,
        decode_s_per_sequence=arguments.decode_ms_per_seq / 1e3,
        attention_s_per_pair=arguments.attention_ns / 1e9,
        load_latency_s=arguments.load_latency_ms / 1e3,
        load_s_per_block=_seconds(arguments.load_ms_per_block),
        save_delay_s=arguments.save_delay_ms / 1e3,
        save_s_per_block=_seconds(arguments.save_ms_per_block),
        jitter=arguments.jitter,
    )


def _longest(arguments: argparse.Namespace) -> int:
    """The context length; as in vLLM, one request must fit into the cache."""
    blocks = arguments.capacity_blocks or 262144 // arguments.block_tokens
    holds = (blocks - 1) * arguments.block_tokens
    longest: int = arguments.max_model_len or min(131072, holds)
    if longest > holds and not arguments.flat:
        raise UsageError(
            f"--max-model-len: {longest} tokens do not fit into {blocks} blocks, which hold {holds}"
        )
    return longest


def node_options(arguments: argparse.Namespace) -> NodeOptions:
    """Raises UsageError."""
    return NodeOptions(
        model=arguments.model,
        block_tokens=arguments.block_tokens,
        capacity_blocks=arguments.capacity_blocks,
        max_model_len=_longest(arguments),
        max_num_seqs=arguments.max_num_seqs,
        max_num_batched_tokens=arguments.max_num_batched_tokens,
        pace=_pace(arguments),
        seed=arguments.seed,
        store=arguments.store,
        segment_bytes=arguments.segment_bytes,
        bytes_per_token=arguments.bytes_per_token,
        load_failure=arguments.kv_load_failure_policy,
        vllm_version=_version(arguments.vllm_version),
        prompt_tokens_details=not arguments.no_prompt_tokens_details,
        per_request_metrics=arguments.per_request_metrics,
        dev_mode=not arguments.no_dev_mode,
        api_key=arguments.api_key,
        flat=arguments.flat,
        ttft_s=arguments.ttft_ms / 1e3,
        itl_s=arguments.itl_ms / 1e3,
        truth=arguments.truth,
        faults=faults(arguments),
        hash_seed=arguments.hash_seed,
        dated_template=arguments.dated_template,
        role=arguments.role,
        flow=arguments.flow,
        kv_hold_s=arguments.kv_hold_s,
    )


def store_options(arguments: argparse.Namespace) -> StoreOptions:
    return StoreOptions(
        capacity_bytes=arguments.capacity_bytes,
        lease_s=arguments.lease_ms / 1e3,
        watermark=arguments.watermark,
        eviction=arguments.eviction,
    )


def proxy_options(arguments: argparse.Namespace, address: str) -> ProxyOptions:
    return ProxyOptions(
        prefillers=tuple(map(_bare, arguments.prefiller)),
        decoders=tuple(map(_bare, arguments.decoder)),
        flow=arguments.flow,
        address=address,
        truth=arguments.truth,
    )


def _bare(url: str) -> str:
    """Without /v1, with the scheme."""
    bare = url.rstrip("/").removesuffix("/v1").rstrip("/")
    return bare if bare.startswith("http") else f"http://{bare}"
