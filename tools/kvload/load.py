"""The load that was asked for: flags first, then the config; UsageError for what cannot be."""

from __future__ import annotations

import argparse
from typing import Any, Literal, cast

from kvload.arrivals import arrivals, expected, length_s
from kvload.stages import stages_of
from kvpipe.process import UsageError
from kvpipe.records import Arrival, Stage

STAGGER_S = 0.001  # a cohort that starts at once measures the client, and stays in step for long
STAGGERED_S = 1.0  # at most, over all slots
MOST_REQUESTS = 1_000_000  # a plan is held in memory

Kind = Literal["constant", "poisson", "gamma"]


def arrival_of(args: argparse.Namespace, settings: dict[str, Any]) -> Arrival:
    """How requests arrive: a rate or stages are an open loop, a concurrency a closed one.

    Without any of them it is serial, or, where the workload has times of its own, `planned`: that
    shows when the workload has been read.
    """
    stages = None if args.stages is None else stages_of(args.stages)
    if args.rate is not None and stages is not None:
        raise UsageError("--stages give every rate themselves: leave --rate out")
    if args.concurrency is not None and (args.rate is not None or stages is not None):
        raise UsageError(
            "--rate and --stages are an open loop, --concurrency a closed one: give one of them"
            " (--max-concurrency N caps an open loop)"
        )
    if stages is not None and args.duration is not None:
        raise UsageError("--stages say themselves how long they take: leave --duration out")
    rate = args.rate
    if rate is None and stages is None and args.concurrency is None:
        rate = settings.get("rate")
    if rate is not None or stages is not None:
        return _open_loop(args, settings, rate, stages)
    if args.arrival is not None or args.burstiness is not None:
        raise UsageError("--arrival says how requests follow at a --rate: give the rate")
    return _closed_loop(args, settings)


def _open_loop(
    args: argparse.Namespace,
    settings: dict[str, Any],
    rate: float | None,
    stages: list[Stage] | None,
) -> Arrival:
    kind = cast("Kind", args.arrival or settings.get("arrival") or "poisson")
    if args.burstiness is not None and kind != "gamma":
        raise UsageError("--burstiness is the shape of gamma arrivals: add --arrival gamma")
    burstiness = 1.0 if args.burstiness is None else args.burstiness
    return Arrival(
        kind=kind,
        concurrency=args.max_concurrency,
        rate_rps=rate,
        stages=stages,
        burstiness=burstiness if kind == "gamma" else None,
        duration_s=args.duration,
        think_s=args.think,
    )


def _closed_loop(args: argparse.Namespace, settings: dict[str, Any]) -> Arrival:
    if args.max_concurrency is not None and (args.concurrency is not None or not args.workload):
        raise UsageError(
            "--max-concurrency caps an open loop: give --rate or --stages, or a workload with"
            " at_s; a closed loop's is --concurrency"
        )
    concurrency = args.concurrency or settings.get("concurrency")
    serial = concurrency is None or concurrency == 1
    return Arrival(
        kind="serial" if serial else "closed",
        concurrency=concurrency,
        duration_s=args.duration,
        think_s=args.think,
        stagger_s=None if serial else min(STAGGER_S, STAGGERED_S / (concurrency or 1)),
    )


def planned_arrival(asked: Arrival, max_concurrency: int | None) -> Arrival:
    """The arrival of a workload whose requests have times of their own, if nothing was asked for;
    UsageError for a cap that would cap nothing."""
    if asked.kind != "serial" or asked.concurrency is not None:
        return asked
    return Arrival(
        kind="planned",
        concurrency=max_concurrency,
        duration_s=asked.duration_s,
        think_s=asked.think_s,
    )


def check_workers(arrival: Arrival, workers: int) -> None:
    """UsageError unless there is something to do for each of several workers."""
    if workers == 1:
        return
    if arrival.kind == "serial":
        raise UsageError(
            "--workers share a load: one request at a time is none (give --concurrency or --rate)"
        )
    if arrival.concurrency is not None and arrival.concurrency < workers:
        raise UsageError(
            f"--workers {workers} need a slot each, and there are {arrival.concurrency}: fewer"
            " workers, or a higher --concurrency or --max-concurrency"
        )


def requests_for(arrival: Arrival, seed: int) -> int | None:
    """How many requests an open loop with an end has; null where the plan decides.

    UsageError for more than can be planned.
    """
    if length_s(arrival) is None or (arrival.rate_rps is None and not arrival.stages):
        return None
    if expected(arrival) > MOST_REQUESTS:
        raise UsageError(
            f"this rate for so long is about {expected(arrival):,.0f} requests, and a plan is held"
            f" in memory: {MOST_REQUESTS:,} at most; run it in parts"
        )
    return sum(1 for _ in arrivals(arrival, seed))
