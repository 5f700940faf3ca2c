"""kvload's command line: flags and config in, one stream of records a round out."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn, cast, get_args

import msgspec

from kvload.config import ScenarioConfig, need_endpoints, plan_flags_of, read_config
from kvload.console import Console
from kvload.settings import Access, Api, Experiment, Source, check
from kvpipe.jsonl import decode_as
from kvpipe.process import ToolError, UsageError, new_parser, run_tool
from kvpipe.records import Arm, Arrival, Cleared, Role, Tier

EXAMPLES = """\
  kvload --url http://localhost:8000 --scenario long_context_high_reuse \\
         --contexts 8 | kvstats | kvreport
  kvload --url 1=http://a:8000 --url 2=http://b:8000 \\
         --scenario code_generation | kvstats | kvreport
  kvload --url http://localhost:8000 --scenario cold_start --round 1 \\
         | kvstats > r1.json
"""

PLAN_FLAGS = ("requests", "context_tokens", "contexts", "output_tokens", "order", "sentinels")


def main() -> NoReturn:
    """The executable."""
    run_tool("kvload", kvload)


def parser() -> argparse.ArgumentParser:
    """Every flag, in groups; DESIGN's public contract."""
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
    add("--header", action="append", default=[], metavar="K:V", help="further request header")
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
    add("--output-tokens", type=count, metavar="N", help="output tokens (kvplan; default: 64)")
    add("--order", choices=("leaders-first", "shuffled"), help="order of dispatch (kvplan)")
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
    add("--repeat", type=count, metavar="I", help="only repeat I")
    add("--experiment", metavar="ID", help="experiment that the rounds belong to")
    add("--salt", metavar="none|auto|request|TEXT", help="namespace of the prompts (default:"
        " auto; none with --round)")  # fmt: skip
    add("--name", metavar="LABEL", help="label (default: the scenario)")


def _load_flags(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--concurrency", type=count, metavar="N", help="requests in flight (default: serial)")
    add("--rate", type=positive, metavar="R", help="arrivals per second: an open loop")
    add("--arrival", choices=("constant", "poisson"), help="how arrivals follow one another at"
        " --rate (default: poisson)")  # fmt: skip


def _control_flags(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--isolation", metavar="FILE", help="kvclear's record; travels with the numbers")
    add("--engine", action="append", default=[], metavar="KIND=URL", help="engine to reset (vllm)"
        " or store to watch (mooncake), where it lies behind the endpoint")  # fmt: skip
    add("--metrics-url", action="append", default=[], metavar="[ROLE=]URL", help="further"
        " /metrics to read; roles: prefill decode node store proxy other")  # fmt: skip
    add("--block-tokens", type=count, metavar="N", help="the engine's block size, if it is silent")
    add("--warmup", type=whole, metavar="N", help="warm-up passes at most (default: 3; 0: none)")
    add("--max-failures", type=whole, default=0, metavar="N", help="failed requests that still"
        " exit 0 (default: 0)")  # fmt: skip
    add("--keep-output", action="store_true", help="write output_text and logprobs")


def kvload(argv: Sequence[str] | None) -> int:
    """Run what was asked for; the exit status."""
    args = parser().parse_args(argv)
    console = Console(args.quiet)
    experiments = experiments_of(args, console)
    from kvload.conduct import conduct  # aiohttp and its family: --help does without

    status = 0
    for number, experiment in enumerate(experiments, 1):
        if len(experiments) > 1:
            label = experiment.name or experiment.source.scenario
            console.say(f"Scenario {number}/{len(experiments)}: {label}")
        totals = asyncio.run(conduct(experiment, sys.stdout.buffer, console))
        if not totals.complete or totals.failed > args.max_failures:
            status = 1
    return status


def experiments_of(args: argparse.Namespace, console: Console) -> list[Experiment]:
    """What the flags and the config ask for, checked."""
    given = [name for name in ("scenario", "workload", "config") if getattr(args, name)]
    if len(given) != 1:
        raise UsageError("give one of --scenario NAME, --workload FILE, --config FILE")
    if args.scenarios and not args.config:
        raise UsageError("--scenarios picks from a --config; alone it is --scenario NAME")
    if args.workload and any(getattr(args, flag) is not None for flag in PLAN_FLAGS):
        raise UsageError("a workload is sent as it is: kvplan's flags go to kvplan")
    configs: list[ScenarioConfig | None] = [None]
    if args.config:
        configs = list(read_config(args.config, args.scenarios))
    experiments = [experiment_of(args, config) for config in configs]
    for experiment in experiments:
        check(experiment)
    if len(experiments) > 1 and any(
        experiment.salt == "none" and experiment.isolation is None for experiment in experiments
    ):
        console.warn(
            f"WARNING: {len(experiments)} scenarios and no isolation between them: what one stores"
            " the next one hits, and every figure but the first is wrong. Use --salt auto, run"
            " kvclear between them (--scenarios NAME runs one at a time), or make matrix"
        )
    return experiments


def experiment_of(args: argparse.Namespace, config: ScenarioConfig | None) -> Experiment:
    """One experiment: flags first, then the config, then the defaults."""
    settings = config.settings if config else {}
    endpoints = urls_of(args.url) or (config.endpoints if config else {})
    rounds = _first(args.rounds, config.rounds if config else None, 2)
    only = args.round
    several = len({endpoints[number] for number in endpoints}) > 1
    tier = _first(args.tier, config.tier if config else None, "remote" if several else "local")
    scenario = args.scenario or (config.scenario if config else None)
    name = args.name or (config.name if config else None)
    if config is not None and config.mode is not None:
        name = f"{name or scenario} ({config.mode})"
    api = _first(args.api, config.api if config else None, "chat")
    seed = _first(args.seed, config.seed if config else None, 1)
    experiment = Experiment(
        name=name,
        source=Source(
            scenario=scenario,
            plan_flags=tuple(_plan_flags(args, settings, seed)),
            workload=args.workload,
        ),
        endpoints=need_endpoints(endpoints),
        model=_first(args.model, config.model if config else None, None),
        api=cast("Api", api),
        access=access_of(args, config),
        extra_body=extra_body(args.extra_body),
        rounds=rounds,
        only_round=only,
        arm=args.arm,
        same_arm_twice=args.aa,
        tier=cast("Tier", tier),
        pause_s=_first(args.pause, config.pause_s if config else None, 5.0),
        repeats=_repeats(args, config),
        salt=_first(
            args.salt, config.salt if config else None, "none" if only is not None else "auto"
        ),
        isolation=read_isolation(args.isolation),
        engines=tuple(
            engine_of(text) for text in [*args.engine, *(config.engines if config else [])]
        ),
        metrics_urls=tuple(
            metrics_url_of(text)
            for text in [*args.metrics_url, *(config.metrics_urls if config else [])]
        ),
        block_tokens=_first(args.block_tokens, config.block_tokens if config else None, None),
        chunk_tokens=config.chunk_tokens if config else None,
        arrival=arrival_of(args, settings),
        warmup_passes=_first(args.warmup, None, 3),
        max_failures=args.max_failures,
        keep_output=args.keep_output,
        experiment_id=args.experiment or uuid.uuid4().hex[:12],
        seed=seed,
        config={},
    )
    return _with_config(experiment, args, config)


def _with_config(
    experiment: Experiment, args: argparse.Namespace, config: ScenarioConfig | None
) -> Experiment:
    """The experiment with the record of what was asked; secrets stay out."""
    import dataclasses

    from kvengine.urls import redact

    secret = {"api_key_file", "header", "url", "metrics_url", "engine", "verbose", "quiet"}
    used: dict[str, Any] = {
        key: value
        for key, value in sorted(vars(args).items())
        if key not in secret and value not in (None, [], False)
    }
    used["url"] = {str(number): redact(url) for number, url in experiment.endpoints.items()}
    if config is not None:
        used["file"] = config.raw
    return dataclasses.replace(experiment, config=used)


def _plan_flags(args: argparse.Namespace, settings: dict[str, Any], seed: int) -> list[str]:
    merged = dict(settings)
    for flag in PLAN_FLAGS:
        if getattr(args, flag) is not None:
            merged[flag] = getattr(args, flag)
    flags = plan_flags_of(merged)
    if args.sentinels is not None:
        flags += ["--sentinels", str(args.sentinels)]
    if args.block_tokens is not None:
        flags += ["--block-tokens", str(args.block_tokens)]
    if args.quiet:
        flags += ["--quiet"]
    return [*flags, "--seed", str(seed)]


def _repeats(args: argparse.Namespace, config: ScenarioConfig | None) -> tuple[int, ...]:
    if args.repeat is not None:
        if args.repeats is not None:
            raise UsageError("--repeats N runs all, --repeat I only one: give one of them")
        return (args.repeat,)
    number = _first(args.repeats, config.repeats if config else None, 1)
    return tuple(range(1, number + 1))


def arrival_of(args: argparse.Namespace, settings: dict[str, Any]) -> Arrival:
    """How requests arrive: a rate is an open loop, a concurrency a closed one, else serial."""
    rate = args.rate if args.rate is not None else settings.get("rate")
    concurrency = args.concurrency
    if concurrency is None and args.rate is None:
        concurrency = settings.get("concurrency")
    if rate is not None and args.concurrency is None:
        asked = args.arrival or settings.get("arrival")
        return Arrival(kind="constant" if asked == "constant" else "poisson", rate_rps=rate)
    if args.rate is not None:
        raise UsageError("--rate is an open loop, --concurrency a closed one: give one of them")
    if args.arrival is not None:
        raise UsageError("--arrival says how requests follow at a --rate: give the rate")
    if concurrency is None:
        return Arrival(kind="serial")
    if concurrency == 1:
        return Arrival(kind="serial", concurrency=1)
    return Arrival(kind="closed", concurrency=concurrency)


def urls_of(given: Sequence[str]) -> dict[int, str]:
    """Endpoints per round from `--url [ROUND=]URL`; a bare URL is round 1's."""
    found: dict[int, str] = {}
    for text in given:
        head, sign, rest = text.partition("=")
        number, url = (int(head), rest) if sign and head.isdigit() else (1, text)
        if number in found:
            raise UsageError(
                f"--url: two endpoints for round {number}: write --url 1=URL_A --url 2=URL_B"
            )
        found[number] = url
    return found


def engine_of(text: str) -> tuple[str, str]:
    """(kind, url) of `--engine KIND=URL`."""
    kind, sign, url = text.partition("=")
    if not sign or kind not in ("vllm", "mooncake"):
        raise UsageError(f"--engine {text}: write vllm=URL or mooncake=URL")
    return kind, url


def metrics_url_of(text: str) -> tuple[Role, str]:
    """(role, url) of `--metrics-url [ROLE=]URL`; `other` without a role."""
    role, sign, url = text.partition("=")
    if sign and role in get_args(Role):
        return cast("Role", role), url
    if sign and not role.startswith("http"):
        raise UsageError(f"--metrics-url {text}: roles are {' '.join(get_args(Role))}")
    return "other", text


def access_of(args: argparse.Namespace, config: ScenarioConfig | None) -> Access:
    """Key, headers and time limit; the key comes from a file or OPENAI_API_KEY."""
    key = os.environ.get("OPENAI_API_KEY") or None
    if args.api_key_file:
        key = Path(args.api_key_file).read_text(encoding="utf-8").strip()
        if not key:
            raise ToolError(f"{args.api_key_file}: empty; the API key is expected in it")
    headers: dict[str, str] = {}
    for text in args.header:
        name, sign, value = text.partition(":")
        if not sign or not name.strip():
            raise UsageError(f"--header {text}: write 'Name: value'")
        headers[name.strip()] = value.strip()
    timeout = _first(args.timeout, config.timeout_s if config else None, 600.0)
    return Access(api_key=key, headers=headers, timeout_s=timeout)


def extra_body(text: str | None) -> dict[str, Any]:
    """The object of `--extra-body`."""
    if text is None:
        return {}
    try:
        value = msgspec.json.decode(text.encode())
    except msgspec.DecodeError as error:
        raise UsageError(f"--extra-body: not JSON: {str(error).lower()}") from error
    if not isinstance(value, dict):
        raise UsageError("--extra-body: a JSON object is expected, such as '{\"top_k\": 1}'")
    return value


def read_isolation(path: str | None) -> Cleared | None:
    """kvclear's record from a file."""
    if path is None:
        return None
    return decode_as(Cleared, Path(path).read_bytes(), path)


def _first(*values: Any) -> Any:
    """The first that is given."""
    return next((value for value in values if value is not None), None)


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


def positive(text: str) -> float:
    """A number above 0."""
    value = seconds(text)
    if value == 0:
        raise argparse.ArgumentTypeError(f"{text!r}: a number above 0 is wanted")
    return value
