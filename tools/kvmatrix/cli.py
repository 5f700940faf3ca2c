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
    from kvmatrix.until import Until
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
        " [--until W%% [--until-max N]] [--allow-commands] [--progress COMMAND]",
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
    what.add_argument(
        "--fix",
        metavar="REPORT",
        help="write what kvreport's report (json) on the first stage fixes, with --until",
    )
    made.add_argument(
        "--until",
        metavar="W%",
        help="as many repeats as give every TTFT ratio to +- W%%, in two stages (Stein): the"
        " matrix' own repeats, 3 or more, fix the total once",
    )
    made.add_argument(
        "--until-max",
        type=int,
        metavar="N",
        help="repeats that nobody will pay more of (default: 20)",
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
    until = _until(matrix, args)
    if args.fix is not None:
        return _fix(matrix, until, args.fix)
    if until is not None:
        from kvmatrix.until import with_total

        matrix = with_total(matrix, until)
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
    plan = plan_text(matrix, steps) + (until.told if until else "")
    if args.estimate:
        sys.stdout.write(plan)
        return 0
    if not args.quiet:
        sys.stderr.write(plan)
    again = ["--allow-commands"] if args.allow_commands else []
    again += [] if args.only is None else [f"--only={args.only}"]
    again += [] if until is None else until.own_flags
    _write_rules(matrix, steps, again, until)
    return 0


def _until(matrix: Matrix, args: argparse.Namespace) -> Until | None:
    """The two stages that were asked for, if they were."""
    if args.until is None:
        if args.until_max is not None or args.fix is not None:
            raise UsageError("--until-max and --fix go with --until W%, such as --until 5%")
        return None
    if args.only is not None:
        raise UsageError("--until repeats all scenarios equally often: --only goes without it")
    from kvmatrix.until import until_of

    return until_of(matrix, args.until, args.until_max)


def _fix(matrix: Matrix, until: Until | None, report: str) -> int:
    import msgspec

    from kvmatrix.until import fix

    assert until is not None
    fixed = fix(matrix, until, report)
    sys.stdout.buffer.write(msgspec.json.encode(fixed) + b"\n")
    short = "" if fixed.total >= fixed.needed else f", {fixed.total} by --until-max"
    complain(
        f"+- {until.text} takes {fixed.needed} repeats in all by the spread of the first"
        f" {fixed.first_repeats}{short}",
        PROG,
    )
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


def _write_rules(matrix: Matrix, steps: list[Step], flags: list[str], until: Until | None) -> None:
    import secrets

    from kvmatrix.disk import experiment_in
    from kvmatrix.rules import rules

    experiment = experiment_in(matrix.out) or secrets.token_hex(6)
    sys.stdout.buffer.write(rules(matrix, steps, experiment, flags, until).encode())


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
