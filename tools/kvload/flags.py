"""kvload's flags, in groups: a public contract."""

from __future__ import annotations

import argparse
from typing import get_args

from kvload.fleet import shard_named
from kvload.settings import Api
from kvload.start import instant
from kvpipe.process import new_parser
from kvpipe.records import Arm, Tier

EXAMPLES = """\
  kvload --url http://localhost:8000 --scenario long_context_high_reuse \\
         --contexts 8 | kvstats | kvreport
  kvload --url 1=http://a:8000 --url 2=http://b:8000 \\
         --scenario code_generation | kvstats | kvreport
  kvload --url http://localhost:8000 --scenario cold_start --round 1 \\
         | kvstats > r1.json
"""


def parser() -> argparse.ArgumentParser:
    """Every flag, in groups; a public contract."""
    top = new_parser(
        "kvload",
        "Send a scenario's requests to an OpenAI-compatible endpoint, round by round, and write"
        " one timing record a line: run, request..., server_metrics..., end.",
        EXAMPLES,
        usage="kvload --url [ROUND=]URL (--scenario NAME | --workload FILE | --config FILE)"
        " [options]",
    )
    _endpoint_flags(top.add_argument_group("endpoint"))
    _workload_flags(top.add_argument_group("what is sent"))
    _experiment_flags(top.add_argument_group("experiment"))
    _load_flags(top.add_argument_group("load"))
    _control_flags(top.add_argument_group("controls"))
    top.add_argument("-q", "--quiet", action="store_true", help="nothing but errors on stderr")
    return top


def _endpoint_flags(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--url", action="append", default=[], metavar="[ROUND=]URL", help="endpoint, with or"
        " without /v1; repeat with ROUND= for another endpoint per round")  # fmt: skip
    add("--model", metavar="M", help="model to ask for (default: the one that is served)")
    add("--api", choices=get_args(Api), help="API to use (default: chat)")
    add("--api-key-file", metavar="F", help="file with the API key (else OPENAI_API_KEY)")
    add(
        "--header",
        action="append",
        default=[],
        metavar="K:V",
        help="further request header; @FILE: one a line",
    )
    add("--extra-body", metavar="JSON", help="further fields of every request's body")
    add("--timeout", type=positive, metavar="S", help="seconds until a request is given up"
        " (default: 600)")  # fmt: skip


def _workload_flags(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--scenario", metavar="NAME", help="scenario; shorthand for kvplan | kvload --workload -")
    add("--workload", metavar="FILE", help="plan or lines of messages or prompt; - is stdin")
    add("--config", metavar="FILE", help="run config (YAML); flags beat it")
    add("--scenarios", nargs="+", metavar="NAME", help="which of the config's scenarios")
    add("--requests", type=count, metavar="N", help="requests (kvplan; default: 30)")
    add("--context-tokens", metavar="N|LO-HI", help="prompt length in tokens (kvplan)")
    add("--contexts", type=count, metavar="K", help="independent shared contexts (kvplan)")
    add("--shared-ratio", type=ratio, metavar="R", help="share of the requests that share a"
        " context, 0 to 1 (kvplan)")  # fmt: skip
    add("--output-tokens", type=count, metavar="N", help="output tokens (kvplan; default: 64)")
    add("--order", choices=("leaders-first", "shuffled"), help="order of dispatch (kvplan)")
    add("--keep-plan", metavar="FILE", help="write the plan that is sent there too")
    add("--sentinels", type=whole, metavar="N", help="sentinel requests (kvplan; default:"
        " max(3, 5 %% of the requests))")  # fmt: skip
    add("--seed", type=int, metavar="N", help="seed of text, order and arrivals (default: 1)")


def _experiment_flags(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--rounds", type=count, metavar="N", help="rounds of cold, hit, hit... (default: 2)")
    add("--round", type=whole, metavar="N", help="only this round: 1 cold, 2 hit, 0 no_reuse")
    add("--pause", type=seconds, metavar="S", help="seconds between rounds (default: 5)")
    add("--tier", choices=get_args(Tier), help="tier under test (default: remote where the"
        " rounds' endpoints differ, else local)")  # fmt: skip
    add("--arm", choices=get_args(Arm), help="only this arm")
    add("--aa", action="store_true", help="the same arm twice under new salts: the A/A check")
    add("--repeats", type=count, metavar="N", help="repeats: new text and salt of the same shape")
    add("--until", metavar="W%", help="as many repeats as it takes for so narrow an interval of"
        " the TTFT ratio: --repeats (3 or more) fix how many, by their spread")  # fmt: skip
    add("--until-max", type=count, metavar="N", help="repeats at most, with --until (default: 20)")
    add("--repeat", type=count, metavar="I", help="only repeat I")
    add("--control", action="store_true", help="a no_reuse round beside cold and hit, where a"
        " single repeat on one node goes without")  # fmt: skip
    add("--experiment", metavar="ID", help="experiment that the rounds belong to")
    add("--salt", metavar="none|auto|request|TEXT", help="namespace of the prompts (default:"
        " auto; none with --round or --shard)")  # fmt: skip
    add("--name", metavar="LABEL", help="label (default: the scenario)")


def _load_flags(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--concurrency", type=count, metavar="N", help="requests in flight (default: serial)")
    add("--rate", type=positive, metavar="R", help="arrivals per second: an open loop")
    add("--arrival", choices=("constant", "poisson", "gamma"), help="how arrivals follow one"
        " another in an open loop (default: poisson)")  # fmt: skip
    add("--burstiness", type=positive, metavar="B", help="shape of gamma arrivals, as in vLLM's"
        " bench: 1 is poisson, below it bursts, above it more even (default: 1)")  # fmt: skip
    add("--max-concurrency", type=count, metavar="N", help="cap on the requests in flight of an"
        " open loop; what waits for it keeps the time at which it was due")  # fmt: skip
    add("--stages", metavar="SPEC", help="rates one after another, ramps with ..:"
        " 30s@1,60s@5..20,30s@20")  # fmt: skip
    add("--duration", type=positive, metavar="S", help="nothing is sent after S seconds; what"
        " runs is waited for")  # fmt: skip
    add("--workers", type=count, default=1, metavar="N", help="processes that share the load, on"
        " one schedule and into one stream of records (default: 1)")  # fmt: skip
    add("--shard", type=shard_named, metavar="I/N", help="one machine's part of a fleet's load, I"
        " from 0: contexts and conversations whole; kvstats merges the records")  # fmt: skip
    add("--start-at", type=instant, metavar="TIME", help="when the first request is sent, after"
        " the warm-up: 2026-11-20T17:00:00Z, or seconds since 1970")  # fmt: skip
    add("--think", type=positive, metavar="S", help="seconds between the end of a"
        " conversation's turn and its next one")  # fmt: skip


def _control_flags(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--isolation", metavar="FILE", help="kvclear's record; travels with the numbers")
    add("--calibration", metavar="FILE", help="what the client alone does on this machine (make"
        " calibrate); travels with the numbers")  # fmt: skip
    add("--engine", action="append", default=[], metavar="KIND=URL", help="engine to reset"
        " (vllm, sglang, ...) or store to watch (mooncake), where it lies behind the"
        " endpoint")  # fmt: skip
    add("--metrics-url", action="append", default=[], metavar="[ROLE=]URL", help="further"
        " /metrics to read; roles: prefill decode node store proxy other")  # fmt: skip
    add("--pd-flow", choices=("vllm", "lmcache"), help="who sends token 1 behind a proxy with"
        " prefillers and decoders, where the servers do not tell: the decoder, after the transfer"
        " (vllm), or the prefiller, before it (lmcache)")  # fmt: skip
    add("--block-tokens", type=count, metavar="N", help="the engine's block size, if it is silent")
    add("--warmup", type=whole, metavar="N", help="warm-up passes at most (default: 3; 0: none)")
    add("--max-failures", type=whole, default=0, metavar="N", help="failed requests that still"
        " exit 0 (default: 0)")  # fmt: skip
    add(
        "--keep-output",
        action="store_true",
        help="write output_text, and logprobs where the server gives them (they are asked for)",
    )


def count(text: str) -> int:
    """A whole number of at least 1."""
    return _number(text, 1)


def whole(text: str) -> int:
    """A whole number of at least 0."""
    return _number(text, 0)


def _number(text: str, least: int) -> int:
    try:
        value = int(text)
    except ValueError:
        value = least - 1
    if value < least:
        raise argparse.ArgumentTypeError(f"{text!r}: a whole number of at least {least} is wanted")
    return value


def seconds(text: str) -> float:
    """Seconds, 0 or more."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r}: a number of at least 0 is wanted")
    return value


def ratio(text: str) -> float:
    """A number from 0 to 1."""
    value = seconds(text)
    if value > 1:
        raise argparse.ArgumentTypeError(f"{text!r}: a number from 0 to 1 is wanted")
    return value


def positive(text: str) -> float:
    """A number above 0."""
    value = seconds(text)
    if value == 0:
        raise argparse.ArgumentTypeError(f"{text!r}: a number above 0 is wanted")
    return value
