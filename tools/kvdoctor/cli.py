"""Command line of kvdoctor."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from typing import NoReturn

from kvdoctor.order import Order, engines_of, urls_of
from kvengine.access import api_key, headers
from kvengine.engines import ENGINES
from kvpipe.jsonl import write_record
from kvpipe.process import complain, new_parser, run_tool

DESCRIPTION = """\
Why are there no hits? Examines one endpoint, or several that should share a
cache, with a few short prompts of its own, and says what was seen, what it
means for a measurement, and the exact change to make. Clears nothing, unless
--reset allows the engines' own caches to be emptied. Status 0 means that
nothing was found that spoils a measurement.
"""

EXAMPLES = """\
  kvdoctor --url http://a:8000 --format table
  kvdoctor --url http://a:8000 --url http://b:8000 \\
           --engine mooncake=http://m:9003
  kvdoctor --url http://a:8000 --reset | jq -r 'select(.change) | .change'
one line out for each finding:
  {"record":"diagnosis","schema":1,"code":"remote_miss","severity":...}
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = new_parser("kvdoctor", DESCRIPTION, EXAMPLES)
    kinds = ", ".join(sorted(ENGINES))
    add = top.add_argument
    add(
        "--url",
        metavar="URL",
        action="append",
        default=[],
        help="an endpoint; the first stores, the others should find it",
    )
    add(
        "--engine",
        metavar="KIND=URL",
        action="append",
        default=[],
        help=f"what stands behind, by its own URL; KIND: {kinds}",
    )
    add("--model", metavar="M", help="model to ask for [the one served]")
    add("--api-key-file", metavar="F", help="file with the key [$OPENAI_API_KEY]")
    add(
        "--header",
        metavar="K:V",
        action="append",
        default=[],
        help="send this header too; @FILE: one a line",
    )
    add(
        "--reset",
        action="store_true",
        help="may empty the engines' own prefix caches, which takes hits from others",
    )
    add("--format", choices=("json", "table"), default="json", help="lines, or for people [json]")
    add("-q", "--quiet", action="store_true", help="no progress on stderr")
    return top


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Entry point of the executable."""
    run_tool("kvdoctor", run, argv)


def run(argv: Sequence[str] | None) -> int:
    """Examine, write the findings, and say by the status whether one spoils a measurement."""
    args = parser().parse_args(argv)
    order = Order(
        urls=urls_of(args.url),
        engines=engines_of(args.engine),
        model=args.model,
        api_key=api_key(args.api_key_file),
        headers=tuple(headers(args.header).items()),
        reset=args.reset,
    )
    # These stand on libraries that --help must not pay for.
    from kvdoctor.diagnose import diagnose
    from kvdoctor.examine import examine
    from kvdoctor.table import summary, table

    evidence = asyncio.run(examine(order, _quiet if args.quiet else complain))
    found = diagnose(evidence)
    if args.format == "table":
        print(table(found), flush=True)
    else:
        for one in found:
            write_record(one, sys.stdout.buffer)
        complain(summary(found))
    return 1 if any(one.severity != "info" for one in found) else 0


def _quiet(message: str) -> None:
    """Nothing."""
