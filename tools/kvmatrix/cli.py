"""kvmatrix's command line: a matrix file in, make rules out."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from kvpipe.jsonl import write_record
from kvpipe.process import UsageError, complain, new_parser, run_tool

if TYPE_CHECKING:
    from kvmatrix.matrix import Matrix
    from kvmatrix.schedule import Step
    from kvpipe.records import Arm

PROG = "kvmatrix"
EXAMPLES = """\
  kvmatrix matrix.yaml --estimate
  kvmatrix matrix.yaml | make -f -
  kvmatrix matrix.yaml --only 'cloud-a-single-7B' | make -f -
  kvmatrix matrix.yaml --summary
  kvmatrix matrix.yaml > rules
  kvmatrix matrix.yaml --progress make -f - < rules
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = new_parser(
        PROG,
        "A matrix of scenarios in, make rules out: make runs them one after the other, isolated,"
        " and only what is missing. Plan and time estimate go to stderr.",
        EXAMPLES,
        usage="kvmatrix FILE [--check | --estimate | --summary | --outcomes] [--only NAME]"
        " [--allow-commands] [--progress COMMAND]",
    )
    made.add_argument("file", metavar="FILE", help="matrix (YAML), or the folder of a search")
    what = made.add_mutually_exclusive_group()
    what.add_argument(
        "--check", action="store_true", help="read the matrix and its configs, write no rules"
    )
    what.add_argument(
        "--estimate", action="store_true", help="write plan and time estimate to stdout, no rules"
    )
    what.add_argument(
        "--summary",
        action="store_true",
        help="write what became of it; status 1 if something failed, is missing or tainted",
    )
    what.add_argument(
        "--outcomes",
        action="store_true",
        help="write the same as records, one a scenario, for kvreport",
    )
    what.add_argument(
        "--progress",
        nargs=argparse.REMAINDER,
        metavar="COMMAND",
        help="run this make on the rules, and show how far it is: last on the line",
    )
    what.add_argument(
        "--next-rate",
        choices=("no_reuse", "hit"),
        help="FILE is the folder of a search for capacity: write rate, requests and file of its"
        " next probe, nothing if it has ended",
    )
    what.add_argument(
        "--capacity",
        action="store_true",
        help="FILE is such a folder: write what the search has found",
    )
    made.add_argument(
        "--only",
        metavar="NAME",
        help="only this scenario: what is missing of it, else all of it; the status is its own",
    )
    made.add_argument(
        "--allow-commands",
        action="store_true",
        help="let kvclear run the shell commands in isolation.commands",
    )
    made.add_argument("-q", "--quiet", action="store_true", help="no plan on stderr")
    return made


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """The executable."""
    run_tool(PROG, run, argv)


def run(argv: Sequence[str] | None) -> int:
    """Write what was asked for; the exit status."""
    args = parser().parse_args(argv)
    if args.next_rate is not None or args.capacity:
        return _search(Path(args.file), args.next_rate)
    from kvmatrix.matrix import read_matrix  # YAML and schemas: --help does without

    if args.only is not None and args.check:
        raise UsageError("--check reads the whole matrix: --only goes without it")
    matrix = read_matrix(args.file, allow_commands=args.allow_commands)
    if args.outcomes:
        return _outcomes(matrix)
    if args.summary:
        return _summary(matrix, args.only)
    from kvmatrix.plan import plan_text
    from kvmatrix.schedule import schedule

    steps = schedule(matrix, args.only)
    if args.check:
        if not args.quiet:
            complain(f"{args.file}: valid, {len(matrix.scenarios)} scenarios", PROG)
        return 0
    if args.progress is not None:
        return _progress(matrix, steps, args.progress)
    if args.estimate:
        sys.stdout.write(plan_text(matrix, steps))
        return 0
    if not args.quiet:
        sys.stderr.write(plan_text(matrix, steps))
    again = ["--allow-commands"] if args.allow_commands else []
    again += [] if args.only is None else [f"--only={args.only}"]
    _write_rules(matrix, steps, again)
    return 0


def _search(folder: Path, arm: Arm | None) -> int:
    """What the recipe of a search asks for: the next probe of an arm, or the end of both."""
    from kvmatrix.probes import capacities, next_probe

    if arm is None:
        for record in capacities(folder):
            write_record(record)
        return 0
    found = next_probe(folder, arm)
    if found is not None:
        rate_rps, requests, name = found
        print(f"{rate_rps:g} {requests} {name}")
    return 0


def _write_rules(matrix: Matrix, steps: list[Step], flags: list[str]) -> None:
    import secrets

    from kvmatrix.disk import experiment_in
    from kvmatrix.rules import rules

    experiment = experiment_in(matrix.out) or secrets.token_hex(6)
    sys.stdout.buffer.write(rules(matrix, steps, experiment, flags).encode())


def _progress(matrix: Matrix, steps: list[Step], command: list[str]) -> int:
    from kvmatrix.attend import attend

    if not command:
        raise UsageError("--progress COMMAND: which? as in --progress make -f - matrix < RULES")
    return attend(command, matrix, steps)


def _outcomes(matrix: Matrix) -> int:
    from kvmatrix.summary import outcomes
    from kvpipe.jsonl import write_record

    for one in outcomes(matrix):
        write_record(one)
    return 0


def _summary(matrix: Matrix, only: str | None) -> int:
    from kvmatrix.schedule import chosen
    from kvmatrix.summary import outcomes, summary

    text, clean = summary(outcomes(matrix), [one.name for one in chosen(matrix, only)])
    sys.stdout.buffer.write(text.encode())
    return 0 if clean else 1
