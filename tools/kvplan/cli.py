"""The command line of kvplan."""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sys
from collections.abc import Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, NoReturn

from kvengine.access import api_key, extra_body, headers
from kvpipe.jsonl import encode
from kvpipe.process import UsageError, complain, run_tool
from kvpipe.records import Plan, Planned
from kvplan.analysis.command import Wanted, analyse_plan, analyse_trace, wanted
from kvplan.flags import check, parser
from kvplan.scenarios import scenario_named

if TYPE_CHECKING:
    from kvplan.plans import Endpoint, Settings
    from kvplan.shape import Wish
    from kvplan.tracing import TraceWish

REQUESTS = 30
OUTPUT_TOKENS = 64


def run(argv: Sequence[str] | None) -> int:
    """Write the plans. Raises ToolError, UsageError."""
    args = parser().parse_args(argv)
    check(args)
    want = wanted(args)
    if args.scenario is not None:
        asyncio.run(_write(_wish(args), args, want))
    elif args.trace is None:
        asyncio.run(_own(args, want))
    elif want is None:
        asyncio.run(_replay(_trace_wish(args), args))
    else:
        analyse_trace(_trace_wish(args), args.block_tokens, want)
    return 0


# Imports stand inside: `--help` must not pay for numpy and aiohttp.


def _wish(args: argparse.Namespace) -> Wish:
    """The shape that was asked for; UsageError for a scenario that is none."""
    from kvplan.shape import Wish

    scenario = scenario_named(args.scenario)
    return Wish(
        scenario=scenario,
        requests=args.requests or REQUESTS,
        context=args.context_tokens or scenario.context,
        shared_ratio=args.shared_ratio,
        contexts=args.contexts,
        order=args.order or "leaders-first",
        sentinels=args.sentinels,
        seed=args.seed,
    )


def _trace_wish(args: argparse.Namespace) -> TraceWish:
    """The replay that was asked for."""
    from kvplan.trace import Selection
    from kvplan.tracing import TraceWish

    return TraceWish(
        path=args.trace,
        time_unit=args.time_unit,
        trace_block=args.trace_block_tokens,
        selection=Selection(window=args.window, limit=args.limit),
        scale=args.scale or Fraction(1),
        speedup=args.speedup or 1.0,
        spread=args.spread,
        seed=args.seed,
        sentinels=args.sentinels,
        most_output=args.output_tokens,
    )


def _settings(args: argparse.Namespace) -> Settings:
    from kvplan.plans import Settings

    return Settings(
        api=args.api,
        output_tokens=args.output_tokens or OUTPUT_TOKENS,
        block_tokens=args.block_tokens,
        ids=args.token_ids,
        body=extra_body(args.extra_body),
        repeats=(args.repeat,) if args.repeat else tuple(range(1, (args.repeats or 1) + 1)),
    )


def _endpoint(args: argparse.Namespace) -> Endpoint | None:
    """The server that counts; None without --url."""
    from kvplan.plans import Endpoint

    if args.url is None:
        if args.model or args.api_key_file or args.header:
            raise UsageError("--model, --api-key-file and --header need --url, which is not given")
        return None
    return Endpoint(
        url=args.url,
        model=args.model,
        api_key=api_key(args.api_key_file),
        headers=headers(args.header),
    )


async def _write(wish: Wish, args: argparse.Namespace, want: Wanted | None) -> None:
    """Each plan when it is made, or its analysis, and a line about it for people."""
    from kvplan.plans import plans

    async for head, requests in plans(wish, _settings(args), _endpoint(args)):
        _publish(head, requests, args, want)


async def _own(args: argparse.Namespace, want: Wanted | None) -> None:
    """The plan of a file of one's own, its analysis, or the trace that it leaves."""
    from kvplan.ownfiles import planned_own, write_anonymous

    if not args.hash_only:
        head, requests = await planned_own(args, _settings(args), _endpoint(args))
        _publish(head, requests, args, want)
    elif want is not None:
        raise UsageError("--hash-only writes a trace: analyse that (kvplan --trace FILE --analyze)")
    else:
        await write_anonymous(args, _settings(args), _endpoint(args))


def _publish(
    head: Plan, requests: Sequence[Planned], args: argparse.Namespace, want: Wanted | None
) -> None:
    if want is not None:
        analyse_plan(head, requests, want)
        return
    sys.stdout.buffer.write(b"".join(map(encode, [head, *requests])))
    sys.stdout.buffer.flush()
    if not args.quiet:
        complain(told(head, sum(request.prompt_tokens or 0 for request in requests)), "kvplan")


async def _replay(wish: TraceWish, args: argparse.Namespace) -> None:
    """The same of a trace, whose requests wait on disk."""
    from kvplan.tracing import trace_plans

    async for made in trace_plans(wish, _settings(args), _endpoint(args)):
        sys.stdout.buffer.write(encode(made.head))
        shutil.copyfileobj(made.lines, sys.stdout.buffer)
        sys.stdout.buffer.flush()
        if not args.quiet:
            complain(told(made.head, made.tokens), "kvplan")


def told(head: Plan, got: int) -> str:
    """One line: what the plan is, and the lengths in tokens that were asked for and got."""
    repeat = f" repeat {head.repeat}" if head.repeat > 1 else ""
    lengths = f"got {got} ({head.calibrated})"
    if head.got_tokens is None:
        lengths = f"got about {got}"
    asked = "" if head.asked_tokens is None else f"asked for {head.asked_tokens} prompt tokens, "
    note = f" ({head.note})" if head.note else ""
    return (
        f"{head.scenario}{repeat}: {head.requests} requests, {head.cold_requests} of them cold, "
        f"and {head.sentinels} sentinels; {asked}{lengths}{note}"
    )


def main(argv: Sequence[str] | None = None) -> NoReturn:
    run_tool("kvplan", run, argv)
