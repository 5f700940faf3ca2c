"""kvload's executable: flags and config in, one stream of records a round out."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from typing import NoReturn

from kvload.console import Console
from kvload.flags import parser
from kvload.limits import raise_open_files
from kvload.resolve import experiments_of
from kvpipe.process import run_tool

__all__ = ["experiments_of", "kvload", "main", "parser"]


def main() -> NoReturn:
    """The executable."""
    run_tool("kvload", kvload)


def kvload(argv: Sequence[str] | None) -> int:
    """Run what was asked for; the exit status."""
    args = parser().parse_args(argv)
    console = Console(args.quiet)
    experiments = experiments_of(args, console)
    from kvload.conduct import conduct  # aiohttp and its family: --help does without

    raise_open_files()
    status = 0
    for number, experiment in enumerate(experiments, 1):
        if len(experiments) > 1:
            label = experiment.name or experiment.source.scenario
            console.say(f"Scenario {number}/{len(experiments)}: {label}")
        totals = asyncio.run(conduct(experiment, sys.stdout.buffer, console))
        if not totals.complete or totals.short or totals.failed > args.max_failures:
            status = 1
            if args.quiet:
                console.warn(totals.trouble)
    return status
