"""The command line: read everything, write once."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import closing
from typing import TYPE_CHECKING, NoReturn

import msgspec

from kvpipe.jsonl import open_lines
from kvpipe.process import ToolError, UsageError, complain, new_parser, run_tool
from kvpipe.records import RoundStats
from kvstats.contract import checked
from kvstats.patience import Patience, reads_a_pipe
from kvstats.slo import parse_slos

if TYPE_CHECKING:
    from kvstats.exports.vllm_bench import Export
    from kvstats.per_request import Spool

EXAMPLES = """\
  kvload --url http://127.0.0.1:8000 --scenario long_context_high_reuse \\
    --round 1 | kvstats > r1.json
  cat shard-*.jsonl | kvstats --format table
  kvstats run.jsonl --slo ttft=2s --slo tpot=50ms | jq .goodput_rps

one line in (`run`, `end` and shortened):
  {"record":"request","schema":1,"sent_ns":12,"first_token_ns":60000012}
one line out (shortened):
  {"record":"round_stats","schema":1,"round_num":1,"avg_ttft":0.06}
"""


def parser() -> argparse.ArgumentParser:
    """The options of kvstats."""
    built = new_parser(
        "kvstats",
        "Reads kvload's records and writes one round_stats line for each round, at the end, "
        "whole. Shards of one round are merged; their order does not matter. Exits 1 if a stream "
        "has no end, stopped early, or nothing succeeded.",
        EXAMPLES,
    )
    built.add_argument("files", nargs="*", metavar="FILE", help="records; none or -: stdin")
    built.add_argument(
        "--slo",
        action="append",
        default=[],
        metavar="NAME=TIME",
        help="limit for goodput, such as ttft=2s, tpot=50ms, e2e=10s; may be repeated",
    )
    built.add_argument(
        "--per-request",
        action="store_true",
        help="also a request_stats line for each request, before the round_stats lines",
    )
    built.add_argument(
        "--format",
        choices=("json", "table", "openmetrics"),
        default="json",
        help="json lines, a table to read, or OpenMetrics text for a collector (default: json)",
    )
    built.add_argument(
        "--from",
        dest="source",
        choices=("vllm-bench", "aiperf"),
        help="read files of another tool: vllm bench serve --save-result --save-detailed, or "
        "AIPerf's profile_export.jsonl; the first is round 1, the next is round 2",
    )
    built.add_argument(
        "--to",
        dest="target",
        choices=("vllm-bench",),
        help="write each round as vllm bench serve --save-result --save-detailed writes a run",
    )
    return built


def run(argv: Sequence[str] | None) -> int:
    """Read, summarise, write; the exit status."""
    options = parser().parse_args(argv)
    # numpy and what stands on it: --help does without
    from kvstats.answers import AnswerBook
    from kvstats.per_request import Spool
    from kvstats.readers import Reading
    from kvstats.streams import Rounds
    from kvstats.summary import summarise

    slo = parse_slos(options.slo)
    if options.per_request and options.format != "json":
        raise UsageError(f"--per-request writes JSON lines: leave out --format {options.format}")
    export = _export(options)
    files: list[str] = options.files or ["-"]
    patience = Patience()
    if "-" in files and reads_a_pipe():
        patience.listen()
    with closing(Spool()) as spool, closing(AnswerBook()) as book:
        observe = spool.add if options.per_request else None
        rounds = Rounds(slo, observe, None if export is None else export.add, book.add)
        if options.source:
            from kvstats.imports import import_into

            import_into(rounds, options.source, files)
        with Reading(rounds) as reading:
            for path in [] if options.source else files:
                with open_lines(path) as (name, stream):
                    reading.read(stream, name)
        if not len(rounds):
            raise ToolError(f"{files[0]}: no `run` line: there is nothing to summarise")
        stats = [summarise(round_) for round_ in rounds.finished()]
        stats = [checked(one) for one in book.compared(stats)]
        for one in stats:
            tell_gaps(one)
        reading.give_back()
        if export is None:
            write(stats, spool, options.format)
        else:
            sys.stdout.buffer.writelines(map(export.write, stats))
            sys.stdout.buffer.flush()
    patience.settle()
    return 0 if all(one.complete for one in stats) else 1


def _export(options: argparse.Namespace) -> Export | None:
    """What writes another tool's file; UsageError for what does not go with it."""
    if options.target is None:
        return None
    if options.per_request or options.format != "json":
        raise UsageError(f"--to {options.target} is a format of its own: leave out the others")
    from kvstats.exports.vllm_bench import Export

    return Export()


def tell_gaps(stats: RoundStats) -> None:
    """A line for people about a round that is not whole."""
    for found in stats.findings:
        if found.code == "incomplete":
            complain(f"round {stats.round_num} of {stats.name}: {found.message}", "kvstats")


def write(stats: Sequence[RoundStats], spool: Spool, form: str) -> None:
    """Everything at once, in the asked form."""
    out = sys.stdout.buffer
    if form == "table":
        from kvstats.table import table_of

        out.write(table_of(stats).encode())
    elif form == "openmetrics":
        from kvstats.openmetrics import openmetrics_of

        out.write(openmetrics_of(stats).encode())
    else:
        spool.write_to(out)
        for one in stats:
            out.writelines((msgspec.json.encode(one), b"\n"))  # 20 MB at most: not copied
    out.flush()


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Entry point."""
    run_tool("kvstats", run, argv)
