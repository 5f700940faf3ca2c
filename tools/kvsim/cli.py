"""The command line of kvsim."""

import argparse
import asyncio
import logging
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from kvpipe.process import UsageError, new_parser, run_tool
from kvsim.faults import FAULTS, FaultError, FaultSet, parse_fault
from kvsim.launch import Service, bind, serve
from kvsim.node import Node
from kvsim.options import NodeOptions, Pace, StoreOptions
from kvsim.store import Store
from kvsim.store_api import StoreApi

_DESCRIPTION = """\
Imitates a vLLM server, or the Mooncake store behind several of them: same
protocol, same metrics, a real prefix cache, and time made from tokens. What it
answers is simulated, and says so. Prints one line of JSON when it is ready."""

_EXAMPLES = """\
  kvsim --port 8301                            one node
  kvsim --port 8303 --role store               a store, and two nodes on it:
  kvsim --port 8301 --store http://127.0.0.1:8303
  kvsim --port 8302 --store http://127.0.0.1:8303
  kvsim --port 8301 --flat --ttft-ms 50 --itl-ms 10     for a client's calibration
"""


def _fault_help() -> str:
    lines = ["faults (--fault NAME[=ARG], repeatable; also POST and DELETE /kvsim/fault):"]
    for name, fault in FAULTS.items():
        shown = f"{name}={fault.argument}" if fault.argument else name
        default = f" [{fault.default}]" if fault.default else ""
        role = " (store)" if fault.store else ""
        lines.append(f"  {shown}{default}{role}\n      {fault.what}")
    return "\n".join(lines)


def parser() -> argparse.ArgumentParser:
    """Every option in groups, the faults from their table."""
    made = new_parser("kvsim", _DESCRIPTION, _EXAMPLES)
    made.epilog = f"{_fault_help()}\n\n{made.epilog}"
    made.add_argument("--port", type=int, default=0, help="0 (default): a free one")
    made.add_argument("--host", default="127.0.0.1", help="address to listen on")
    made.add_argument("--role", choices=("node", "store"), default="node")
    made.add_argument("--fault", action="append", default=[], metavar="NAME[=ARG]")
    made.add_argument(
        "--keep-alive-s",
        type=float,
        default=5.0,
        metavar="S",
        help="idle connections are closed after S seconds [5, as uvicorn]",
    )
    _node_arguments(made.add_argument_group("a node"))
    _pace_arguments(made.add_argument_group("its pace"))
    _store_arguments(made.add_argument_group("a store"))
    return made  # fmt: skip


def _node_arguments(group: "argparse._ArgumentGroup") -> None:
    base = NodeOptions()
    add = group.add_argument
    add("--model", default=base.model, help=f"name it serves [{base.model}]")
    add("--store", metavar="URL", help="of the kvsim store to save to and load from")
    add("--block-tokens", type=int, default=base.block_tokens, metavar="N", help="[16]")
    add(
        "--capacity-blocks",
        type=int,
        metavar="N",
        help="blocks of the prefix cache [room for 262144 tokens]",
    )
    add(
        "--max-model-len",
        type=int,
        metavar="N",
        help="longest context [131072, or what the blocks hold]",
    )
    add("--max-num-seqs", type=int, default=base.max_num_seqs, metavar="N", help="[256]")
    add(
        "--max-num-batched-tokens",
        type=int,
        default=base.max_num_batched_tokens,
        metavar="N",
        help="token budget of a step [2048]",
    )
    add("--seed", type=int, default=base.seed, help="of the noise and the faults [0]")
    add("--truth", type=Path, metavar="FILE", help="write what really happened, with stamps")
    add("--api-key", metavar="KEY", help="asked for on /v1")
    add("--vllm-version", default=base.version, metavar="X.Y", help="whose manners [0.32.0]")
    add("--no-prompt-tokens-details", action="store_true", help="cached tokens are not told")
    add("--per-request-metrics", action="store_true", help="answers carry the engine's times")
    add("--no-dev-mode", action="store_true", help="reset routes are 404")
    add(
        "--segment-bytes",
        type=int,
        default=base.segment_bytes,
        metavar="N",
        help="room that this node gives to the store [2 GiB]",
    )
    add("--bytes-per-token", type=int, default=base.bytes_per_token, metavar="N", help="[4096]")
    add("--kv-load-failure-policy", choices=("fail", "recompute"), default=base.load_failure)
    add("--flat", action="store_true", help="constant times, no cache, little work")
    add("--ttft-ms", type=float, default=base.ttft_s * 1e3, metavar="MS", help="with --flat [50]")
    add("--itl-ms", type=float, default=base.itl_s * 1e3, metavar="MS", help="with --flat [10]")


def _pace_arguments(group: "argparse._ArgumentGroup") -> None:
    base = Pace()
    add = group.add_argument
    add(
        "--prefill-tps",
        type=float,
        default=base.prefill_tps,
        metavar="N",
        help="tokens a second [7500]",
    )
    add("--step-ms", type=float, default=base.step_s * 1e3, metavar="MS", help="[8]")
    add(
        "--decode-ms-per-seq",
        type=float,
        default=base.decode_s_per_sequence * 1e3,
        metavar="MS",
        help="added to a step by each decoding sequence [0.1]",
    )
    add(
        "--attention-ns",
        type=float,
        default=0.0,
        metavar="NS",
        help="per pair of tokens, the quadratic part of prefill [0]",
    )
    add("--load-ms-per-block", type=float, metavar="MS", help="[0.01 a token]")
    add(
        "--load-latency-ms",
        type=float,
        default=base.load_latency_s * 1e3,
        metavar="MS",
        help="[10]",
    )
    add(
        "--save-delay-ms",
        type=float,
        default=base.save_delay_s * 1e3,
        metavar="MS",
        help="from first token to the save's begin [100]",
    )
    add("--save-ms-per-block", type=float, metavar="MS", help="[0.01 a token]")
    add(
        "--jitter",
        type=float,
        default=0.0,
        metavar="R",
        help="relative standard deviation of a step [0]",
    )


def _store_arguments(group: "argparse._ArgumentGroup") -> None:
    base = StoreOptions()
    add = group.add_argument
    add("--capacity-bytes", type=int, metavar="N", help="[the sum of the nodes' segments]")
    add("--lease-ms", type=float, default=base.lease_s * 1e3, metavar="MS", help="[5000]")
    add(
        "--watermark",
        type=float,
        default=base.watermark,
        metavar="R",
        help="share of the capacity above which keys are evicted [0.9]",
    )
    add(
        "--eviction",
        type=float,
        default=base.eviction,
        metavar="R",
        help="share of the capacity that one eviction frees [0.05]",
    )


def _milliseconds(value: float | None) -> float | None:
    return None if value is None else value / 1e3


def _check(arguments: argparse.Namespace) -> None:
    """Raises UsageError for numbers that cannot be."""
    positive = ("block_tokens", "capacity_blocks", "max_model_len", "max_num_seqs",
                "max_num_batched_tokens", "prefill_tps", "bytes_per_token")  # fmt: skip
    for name, value in vars(arguments).items():
        flag = "--" + name.replace("_", "-")
        if name in positive and value is not None and value <= 0:
            raise UsageError(f"{flag}: must be above 0, got {value}")
        if isinstance(value, int | float) and name != "seed" and value < 0:
            raise UsageError(f"{flag}: must not be negative, got {value}")
    if arguments.capacity_blocks == 1:
        raise UsageError("--capacity-blocks: must be at least 2, since one block is never used")
    if arguments.role == "store" and arguments.store:
        raise UsageError("--store: a store has no store behind it")


def _version(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split("."))
    except ValueError as error:
        raise UsageError(f"--vllm-version: expected numbers and dots, got {text!r}") from error


def _faults(arguments: argparse.Namespace) -> tuple[str, ...]:
    for text in arguments.fault:
        try:
            parse_fault(text, store=arguments.role == "store")
        except FaultError as error:
            raise UsageError(f"--{error}") from error
    return tuple(arguments.fault)


def _pace(arguments: argparse.Namespace) -> Pace:
    return Pace(
        prefill_tps=arguments.prefill_tps,
        step_s=arguments.step_ms / 1e3,
        decode_s_per_sequence=arguments.decode_ms_per_seq / 1e3,
        attention_s_per_pair=arguments.attention_ns / 1e9,
        load_latency_s=arguments.load_latency_ms / 1e3,
        load_s_per_block=_milliseconds(arguments.load_ms_per_block),
        save_delay_s=arguments.save_delay_ms / 1e3,
        save_s_per_block=_milliseconds(arguments.save_ms_per_block),
        jitter=arguments.jitter,
    )


def node_options(arguments: argparse.Namespace) -> NodeOptions:
    """Raises UsageError."""
    blocks = arguments.capacity_blocks or 262144 // arguments.block_tokens
    holds = (blocks - 1) * arguments.block_tokens
    longest = arguments.max_model_len or min(131072, holds)
    if longest > holds and not arguments.flat:
        raise UsageError(
            f"--max-model-len: {longest} tokens do not fit into {blocks} blocks, which hold {holds}"
        )
    return NodeOptions(
        model=arguments.model,
        block_tokens=arguments.block_tokens,
        capacity_blocks=arguments.capacity_blocks,
        max_model_len=longest,
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
        faults=_faults(arguments),
    )


def store_options(arguments: argparse.Namespace) -> StoreOptions:
    """Raises UsageError."""
    return StoreOptions(
        capacity_bytes=arguments.capacity_bytes,
        lease_s=arguments.lease_ms / 1e3,
        watermark=arguments.watermark,
        eviction=arguments.eviction,
        faults=_faults(arguments),
    )


def run(argv: Sequence[str] | None) -> int:
    """Serves until it is stopped. Raises ToolError, UsageError, Stopped."""
    arguments = parser().parse_args(argv)
    _check(arguments)
    if arguments.verbose:
        logging.basicConfig(stream=sys.stderr, level=logging.INFO)
    make = _store_service if arguments.role == "store" else _node_service
    listener = bind(arguments.host, arguments.port)
    with listener:
        service = make(arguments, listener)
        asyncio.run(
            serve(
                listener,
                service,
                arguments.role,
                keep_alive_s=arguments.keep_alive_s,
                verbose=arguments.verbose,
            )
        )
    return 0


def _node_service(arguments: argparse.Namespace, listener: socket.socket) -> Service:
    host, port = listener.getsockname()[:2]
    node = Node(node_options(arguments), f"{host}:{port}")
    return Service(entry=node.entry, start=node.start, stop=node.stop)


def _store_service(arguments: argparse.Namespace, listener: socket.socket) -> Service:
    api = StoreApi(Store(store_options(arguments)), FaultSet(_faults(arguments), store=True))
    return Service(entry=api.entry, start=api.start, stop=api.stop)


def main(argv: Sequence[str] | None = None) -> NoReturn:
    run_tool("kvsim", run, argv)
