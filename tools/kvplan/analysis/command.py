"""`kvplan --analyze`: what its flags ask for, and what is written."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kvpipe.process import ToolError, UsageError

if TYPE_CHECKING:
    from kvpipe.records import Analysis, Plan, Planned
    from kvplan.analysis.accesses import Visit
    from kvplan.analysis.kvsizes import Capacity, KvSize
    from kvplan.measure import Measure
    from kvplan.trace import TraceLine
    from kvplan.tracing import TraceWish

_ONLY = ("kv", "kv_bytes_per_token", "capacity", "block_sizes", "eviction", "format", "chart")


def add_analysis_arguments(group: argparse._ArgumentGroup) -> None:
    """The flags that go with --analyze; without it they are an error."""
    add = group.add_argument
    add("--analyze", action="store_true", help="one `analysis` record instead of the plan")
    add(
        "--kv",
        metavar="MODEL[/TYPE]",
        help="whose KV bytes are counted in, such as llama-3.1-70b/fp8; an unknown name lists "
        "the known ones",
    )
    add("--kv-bytes-per-token", metavar="N", help="the same as a number")
    add(
        "--capacity",
        metavar="LIST",
        help="caches to predict for: tokens, or bytes such as 64MiB,1GiB",
    )
    add("--block-sizes", metavar="LIST", help="in tokens [16,128,256,512]")
    add(
        "--eviction",
        choices=("tail-first", "head-first"),
        help="which end of a prompt LRU gives up first: an engine's cache its tail, Mooncake's "
        "store its head [tail-first]",
    )
    add("--format", choices=("json", "table"), help="of the analysis [json]")
    add("--chart", metavar="FILE", help="hit ratio against capacity, as PNG")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """The flags as values."""

    kv: KvSize | None
    capacities: Sequence[Capacity]
    sizes: Sequence[int]
    order: str
    table: bool
    chart: str | None


def wanted(args: argparse.Namespace) -> Wanted | None:
    """What is asked; None without --analyze. Raises UsageError."""
    if not args.analyze:
        for name in _ONLY:
            if getattr(args, name) is not None:
                raise UsageError(f"--{name.replace('_', '-')}: only with --analyze")
        return None
    from kvplan.analysis.kvsizes import capacities
    from kvplan.analysis.summary import SIZES

    kv = _kv(args)
    named = capacities(args.capacity) if args.capacity is not None else []
    for one in named:
        one.in_tokens(kv)  # complains now, not when all has been read
    return Wanted(
        kv=kv,
        capacities=named,
        sizes=SIZES if args.block_sizes is None else _block_sizes(args.block_sizes),
        order=args.eviction or "tail-first",
        table=args.format == "table",
        chart=args.chart,
    )


def _kv(args: argparse.Namespace) -> KvSize | None:
    from kvplan.analysis.kvsizes import kv_of_bytes, kv_of_model

    text = args.kv_bytes_per_token
    if args.kv is not None:
        if text is not None:
            raise UsageError("--kv and --kv-bytes-per-token say the same: one of them")
        return kv_of_model(args.kv)
    return None if text is None else kv_of_bytes(_whole("--kv-bytes-per-token", text))


def _block_sizes(text: str) -> list[int]:
    return [_whole("--block-sizes", part.strip()) for part in text.split(",")]


def _whole(flag: str, text: str) -> int:
    if not re.fullmatch(r"\d+", text, re.ASCII) or int(text) < 1:
        raise UsageError(f"{flag} '{text}': a whole number of 1 or more is expected")
    return int(text)


def analyse_plan(head: Plan, requests: Sequence[Planned], want: Wanted) -> None:
    """Writes the analysis of a plan whose requests carry their chains."""
    from kvplan.analysis.accesses import planned_visits

    write_analysis(
        planned_visits(requests),
        want,
        scenario=head.scenario,
        source=head.source,
        plan_sha256=head.plan_sha256,
        block_tokens=head.block_tokens or want.sizes[0],
        note=head.note,
    )


def analyse_trace(wish: TraceWish, engine_block: int, want: Wanted) -> None:
    """Writes the analysis of a trace as it would be replayed; one look, and no text is made."""
    from kvpipe.jsonl import open_lines
    from kvplan.measure import Measure
    from kvplan.trace import read_trace
    from kvplan.tracing import alterations, plan_block

    with open_lines(wish.path) as (name, stream):
        lines = read_trace(stream, name, block_tokens=wish.trace_block, time_unit=wish.time_unit)
        block = plan_block(lines.form, wish.scale, engine_block)
        measure = Measure(
            trace_block=lines.form.block_tokens, block=block, most_output=wish.most_output
        )
        write_analysis(
            (_visit(line, measure, wish.speedup) for line in wish.selection.of(lines)),
            want,
            scenario="trace",
            source=name,
            block_tokens=block,
            note="; ".join(alterations(wish, lines.form, measure)) or None,
        )


def _visit(line: TraceLine, measure: Measure, speedup: float) -> Visit:
    """A request of a trace; its ids are its links."""
    from kvplan.analysis.accesses import Visit

    whole = [(one, measure.block) for one in line.hash_ids[:-1]]
    return Visit(
        links=[*whole, (line.hash_ids[-1], measure.last(line))],
        output_tokens=measure.output(line),
        at_s=line.at_s / speedup,
    )


def write_analysis(
    visits: Iterable[Visit],
    want: Wanted,
    *,
    scenario: str,
    source: str,
    block_tokens: int,
    plan_sha256: str | None = None,
    note: str | None = None,
) -> None:
    """Analyses what comes and writes it as asked; `block_tokens` is of the blocks as given."""
    from kvplan.analysis.accesses import accesses
    from kvplan.analysis.summary import Question, analyse

    taken = accesses(visits)
    if not taken.requests:
        raise ToolError(f"{source}: no request is left to analyse; see --window and --limit")
    found = analyse(
        taken,
        Question(
            scenario=scenario,
            source=source,
            plan_sha256=plan_sha256,
            given_block_tokens=block_tokens,
            sizes=want.sizes,
            capacities=want.capacities,
            kv=want.kv,
            order="head-first" if want.order == "head-first" else "tail-first",
            note=note,
        ),
    )
    if want.chart is not None:
        _draw(found, want.chart)
    _write(found, table=want.table)


def _write(found: Analysis, *, table: bool) -> None:
    from kvpipe.jsonl import write_record
    from kvplan.analysis.table import page

    if not table:
        write_record(found)
        return
    sys.stdout.write(page(found))
    sys.stdout.flush()


def _draw(found: Analysis, path: str) -> None:
    from kvplan.analysis.chart import png

    try:
        Path(path).write_bytes(png(found))
    except OSError as error:
        raise ToolError(f"--chart {path}: {error.strerror or error}") from error
