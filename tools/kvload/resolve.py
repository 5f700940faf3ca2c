"""From flags and config to experiments: flags first, then the config, then the defaults."""

from __future__ import annotations

import argparse
import dataclasses
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast, get_args

from kvengine.access import api_key, extra_body, headers
from kvengine.urls import redact, redact_all
from kvload.calibration import read_calibration
from kvload.config import ScenarioConfig, need_endpoints, plan_flags_of, read_config
from kvload.console import Console
from kvload.fleet import experiment_of_fleet
from kvload.load import arrival_of, requests_for
from kvload.settings import Access, Api, Experiment, Source, check
from kvpipe.jsonl import decode_as
from kvpipe.process import UsageError
from kvpipe.records import Arrival, Cleared, Role, Tier, Until

UNTIL_MAX = 20  # repeats, as in kvmatrix
PLAN_FLAGS = (
    "requests",
    "context_tokens",
    "contexts",
    "shared_ratio",
    "output_tokens",
    "order",
    "sentinels",
)


def experiments_of(args: argparse.Namespace, console: Console) -> list[Experiment]:
    """What the flags and the config ask for, checked."""
    given = [name for name in ("scenario", "workload", "config") if getattr(args, name)]
    if len(given) != 1:
        raise UsageError("give one of --scenario NAME, --workload FILE, --config FILE")
    if args.scenarios and not args.config:
        raise UsageError("--scenarios picks from a --config; alone it is --scenario NAME")
    if args.workload and any(getattr(args, flag) is not None for flag in PLAN_FLAGS):
        raise UsageError("a workload is sent as it is: kvplan's flags go to kvplan")
    if args.workload and args.keep_plan:
        raise UsageError("--keep-plan keeps what kvplan makes; a workload is a file already")
    configs: list[ScenarioConfig | None] = [None]
    if args.config:
        configs = list(read_config(args.config, args.scenarios))
    calibration = read_calibration(args.calibration, console)
    experiments = [
        dataclasses.replace(experiment_of(args, config), calibration=calibration)
        for config in configs
    ]
    for experiment in experiments:
        check(experiment)
    if len(experiments) > 1 and args.keep_plan:
        raise UsageError("--keep-plan is one file: pick one of the config's with --scenarios NAME")
    if len(experiments) > 1 and args.start_at:
        raise UsageError("--start-at is one beginning: pick a scenario with --scenarios NAME")
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
    several = len(set(endpoints.values())) > 1
    tier = _first(args.tier, config.tier if config else None, "remote" if several else "local")
    scenario = args.scenario or (config.scenario if config else None)
    name = args.name or (config.name if config else None)
    if config is not None and config.mode is not None:
        name = f"{name or scenario} ({config.mode})"
    api = _first(args.api, config.api if config else None, "chat")
    seed = _first(args.seed, config.seed if config else None, 1)
    arrival = arrival_of(args, settings)
    experiment = Experiment(
        name=name,
        source=Source(
            scenario=scenario,
            plan_flags=tuple(_plan_flags(args, settings, seed, arrival)),
            workload=args.workload,
            keep_plan=args.keep_plan,
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
        until=_until(args, config),
        until_max=args.until_max or UNTIL_MAX,
        control=args.control,
        salt=_first(
            args.salt,
            config.salt if config else None,
            "none" if only is not None or args.shard is not None else "auto",
        ),
        isolation=read_isolation(args.isolation),
        engines=tuple(
            engine_of(text) for text in [*args.engine, *(config.engines if config else [])]
        ),
        metrics_urls=tuple(
            metrics_url_of(text)
            for text in [*args.metrics_url, *(config.metrics_urls if config else [])]
        ),
        pd_flow=_first(args.pd_flow, config.pd_flow if config else None, None),
        block_tokens=_first(args.block_tokens, config.block_tokens if config else None, None),
        chunk_tokens=config.chunk_tokens if config else None,
        arrival=arrival,
        max_concurrency=args.max_concurrency,
        workers=args.workers,
        warmup_passes=_first(args.warmup, None, 3),
        max_failures=args.max_failures,
        keep_output=args.keep_output,
        experiment_id=args.experiment or _experiment_id(args, scenario, name, seed),
        seed=seed,
        config={},
        shard=args.shard,
        start_at=args.start_at,
    )
    return _with_config(experiment, args, config)


def _with_config(
    experiment: Experiment, args: argparse.Namespace, config: ScenarioConfig | None
) -> Experiment:
    """The experiment with the record of what was asked; secrets and outputs stay out."""
    secret = {"api_key_file", "header", "url", "metrics_url", "engine"}
    secret |= {"verbose", "quiet", "keep_plan", "shard"}
    used: dict[str, Any] = {
        key: value
        for key, value in sorted(vars(args).items())
        if key not in secret and value not in (None, [], False)
    }
    used["url"] = {str(number): redact(url) for number, url in experiment.endpoints.items()}
    if experiment.pd_flow is not None:
        used["pd_flow"] = experiment.pd_flow
    if config is not None:
        used["file"] = config.raw
    used = {key: redact_all(value) for key, value in used.items()}
    return dataclasses.replace(experiment, config=used)


def _experiment_id(
    args: argparse.Namespace, scenario: str | None, name: str | None, seed: int
) -> str:
    """A new one; of a fleet the same in every shard."""
    if args.shard is None:
        return uuid.uuid4().hex[:12]
    told = (scenario, name, seed, args.salt, args.start_at, args.shard.count)
    return experiment_of_fleet(*told)


def _plan_flags(
    args: argparse.Namespace, settings: dict[str, Any], seed: int, arrival: Arrival
) -> list[str]:
    merged = dict(settings)
    if (needed := requests_for(arrival, seed)) is not None:
        merged["requests"] = needed  # sentinels come on top, and what is due too late is cut
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
    number = _first(args.repeats, config.repeats if config else None, 3 if args.until else 1)
    return tuple(range(1, number + 1))


def _until(args: argparse.Namespace, config: ScenarioConfig | None) -> Until | None:
    """The two-stage rule, if it is asked for."""
    if args.until is None:
        if args.until_max is not None:
            raise UsageError("--until-max goes with --until W%, such as --until 5%")
        return None
    from kvpipe.stein import FIRST_REPEATS, half_width  # brings scipy, which --help does without

    repeats = len(_repeats(args, config))
    return Until(half_width=half_width(args.until), first_repeats=max(repeats, FIRST_REPEATS))


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
    """(kind, url) of `--engine KIND=URL`: an engine to reset, or a store to watch."""
    from kvengine.engines import split_engine  # brings aiohttp, which --help does without

    engine, url = split_engine(text)
    if engine.tier == "lmcache":
        raise UsageError(
            f"--engine {redact(text)}: kvload resets engines only; LMCache is kvclear's"
        )
    return engine.kind, url


def metrics_url_of(text: str) -> tuple[Role, str]:
    """(role, url) of `--metrics-url [ROLE=]URL`; `other` without a role."""
    role, sign, url = text.partition("=")
    if sign and role in get_args(Role):
        return cast("Role", role), url
    if sign and not role.startswith("http"):
        raise UsageError(f"--metrics-url {redact(text)}: roles are {' '.join(get_args(Role))}")
    return "other", text


def access_of(args: argparse.Namespace, config: ScenarioConfig | None) -> Access:
    """Key, headers and time limit."""
    timeout = _first(args.timeout, config.timeout_s if config else None, 600.0)
    return Access(
        api_key=api_key(args.api_key_file), headers=headers(args.header), timeout_s=timeout
    )


def read_isolation(path: str | None) -> Cleared | None:
    """kvclear's record from a file."""
    if path is None:
        return None
    return decode_as(Cleared, Path(path).read_bytes(), path)


def _first(*values: Any) -> Any:
    """The first that is given."""
    return next((value for value in values if value is not None), None)
