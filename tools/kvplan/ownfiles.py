"""`--conversations` and `--prompts`: one's own files as plans, or as traces without text."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

from kvpipe.jsonl import encode, open_lines
from kvpipe.process import UsageError, complain
from kvpipe.records import Plan, Planned
from kvplan.anonymous import Anonymous
from kvplan.own import OwnRequest, Talks, read_prompts
from kvplan.ownassembly import OwnWish
from kvplan.owncount import counting
from kvplan.ownplans import own_plan
from kvplan.plans import Endpoint, Settings
from kvplan.spool import unbroken


async def planned_own(
    args: argparse.Namespace, settings: Settings, endpoint: Endpoint | None
) -> tuple[Plan, list[Planned]]:
    """The plan of the file that was named. Raises ToolError, UsageError, Unreachable."""
    name = "conversations" if args.conversations is not None else "prompts"
    path = args.conversations if args.conversations is not None else args.prompts
    note: str | None = None
    with open_lines(path) as (source, raw):
        stream = unbroken(raw, source)
        lots: Sequence[Sequence[OwnRequest]]
        if name == "conversations":
            talks = Talks(source, args.limit)
            lots = talks.read(stream)
            if talks.silent:
                note = f"{talks.silent} conversations without a user's turn were left out"
        else:
            lots = [list(_prompts(args, stream, source))]
    wish = OwnWish(
        name=name,
        source=source,
        lots=lots,
        seed=args.seed,
        sentinels=args.sentinels,
        most_output=args.output_tokens,
        note=note,
    )
    return await own_plan(wish, settings, endpoint)


async def write_anonymous(
    args: argparse.Namespace, settings: Settings, endpoint: Endpoint | None
) -> None:
    """The trace of the file that was named. Raises ToolError, UsageError, Unreachable."""
    path = args.conversations if args.conversations is not None else args.prompts
    async with counting(settings.api, endpoint, settings.body) as count:
        if count.counter.calibrated == "probe":
            raise UsageError("--hash-only needs /tokenize, which this server has not; or no --url")
        hidden = Anonymous(
            block_tokens=args.trace_block_tokens or settings.block_tokens,
            counter=count.counter,
            api=settings.api,
            output=settings.output_tokens,
        )
        with open_lines(path) as (source, raw):
            async for row in hidden.rows(_requests(args, unbroken(raw, source), source)):
                sys.stdout.buffer.write(encode(row))
        sys.stdout.buffer.flush()
    if not args.quiet:
        complain(_told(hidden, count.note), "kvplan")


def _told(hidden: Anonymous, note: str | None) -> str:
    told = hidden.told
    parts = [
        f"hash-only: {told.requests} requests of {told.tokens} tokens in "
        f"{hidden.distinct} distinct blocks of {hidden.block_tokens}; block ids are a numbering, "
        "and no text can be tried on them; lengths, times and sharing remain"
    ]
    if told.timeless:
        parts.append(
            f"{told.timeless} requests tell no time and stand at 0: send them with --rate or "
            "--concurrency"
        )
    if note is not None and not hidden.exact:
        parts.append(note)
    return "; ".join(parts)


def _requests(
    args: argparse.Namespace, stream: Iterable[bytes], source: str
) -> Iterator[OwnRequest]:
    if args.conversations is not None:
        return chain.from_iterable(Talks(source, args.limit).read(stream))
    return _prompts(args, stream, source)


def _prompts(
    args: argparse.Namespace, stream: Iterable[bytes], source: str
) -> Iterator[OwnRequest]:
    return read_prompts(stream, source, time_unit=args.time_unit, limit=args.limit)
