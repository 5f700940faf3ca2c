"""kvload's executable: flags and config in, one stream of records a round out."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn

from kvload.console import Console
from kvload.flags import parser
from kvload.limits import raise_open_files
from kvload.resolve import experiments_of
from kvload.settings import Experiment
from kvpipe.process import run_tool

if TYPE_CHECKING:
    from kvload.crew import Crew

__all__ = ["experiments_of", "kvload", "main", "parser"]


def main() -> NoReturn:
    """The executable."""
    run_tool("kvload", kvload)


def kvload(argv: Sequence[str] | None) -> int:
    """Run what was asked for; the exit status."""
    args = parser().parse_args(argv)
    console = Console(args.quiet)
    experiments = experiments_of(args, console)
    raise_open_files()
    if args.workers == 1:
        return _run(experiments, args, console, None)
    from kvload.crew import Crew

    crew = Crew(args.workers)  # forks: before there is a loop, or a thread
    try:
        return _run(experiments, args, console, crew)
    finally:
        crew.close()


def _run(
    experiments: Sequence[Experiment],
    args: argparse.Namespace,
    console: Console,
    crew: Crew | None,
) -> int:
    from kvload.conduct import conduct  # aiohttp and its family: --help does without

    status = 0
    for number, experiment in enumerate(experiments, 1):
        if len(experiments) > 1:
            label = experiment.name or experiment.source.scenario
            console.say(f"Scenario {number}/{len(experiments)}: {label}")
        totals = asyncio.run(conduct(experiment, sys.stdout.buffer, console, crew))
        partial = not totals.complete or totals.short or totals.undecided
        if partial or totals.failed > args.max_failures:
            status = 1
            if args.quiet:
                console.warn(totals.trouble)
    return status
