"""kvreport's command line: reads round stats, concludes, writes the report."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kvpipe.process import ToolError, UsageError, complain, new_parser, run_tool, version

if TYPE_CHECKING:
    from kvreport.conclusion import Conclusion
    from kvreport.output import Output

PROG = "kvreport"
FORMATS = ("text", "md", "html", "json", "csv", "junit", "png")
TARGETS = "ttft_reduction=0.6 throughput_increase=1.5 tpot_ratio=0.8..1.2 pd_ttft_ratio=1.25"
EXAMPLES = """\
  kvload --url URL --scenario long_context_high_reuse | kvstats | kvreport
  kvreport r1.json r2.json --target ttft_reduction=0.6
  kvreport before=monday.jsonl after=today.jsonl --baseline before
  kvreport --format md --format json -o out *.stats.jsonl
"""


def parser() -> argparse.ArgumentParser:
    made = new_parser(
        PROG,
        "Round stats in, conclusions out: what a KV cache is worth, and how sure that is.",
        EXAMPLES,
        usage="kvreport [[LABEL=]FILE ...] [--format FORMAT ...] [-o DIR]\n"
        "                [--target NAME=VALUE ...] [--baseline NAME]\n"
        "                [--until W%% [--until-max N] [--until-first N]] [--audit]",
    )
    made.add_argument(
        "files",
        nargs="*",
        metavar="[LABEL=]FILE",
        help="round stats of kvstats, or old stats files; - or nothing: stdin; LABEL replaces "
        "the name of what is in the file",
    )
    made.add_argument(
        "--format",
        action="append",
        choices=(*FORMATS, "brief", "all"),
        metavar="FORMAT",
        help="text, md, html, json, csv, junit, png (the charts, with -o), brief (the answer in a "
        "sentence or two, and the doubts) or all (brief apart); several with -o "
        "(default: text, or all of them with -o)",
    )
    made.add_argument(
        "-o",
        "--output",
        metavar="DIR",
        help="write report.txt, report.md, report.html, report.json, report.csv, report.xml "
        "(JUnit) and charts/*.png there; stdout stays empty",
    )
    made.add_argument("--lang", choices=("en", "zh"), default="en", help="language (default: en)")
    made.add_argument(
        "--target",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help=f"a target that decides the exit status; reported by default: {TARGETS}; "
        "also e2e_reduction, prefill_reduction",
    )
    made.add_argument(
        "--baseline", metavar="NAME", help="set every other scenario against this one"
    )
    made.add_argument(
        "--kv-bytes-per-token",
        type=above_zero,
        metavar="N",
        help="bytes of KV cache a token takes, for load speeds in bytes (default: as the engine's "
        "counters of loads say)",
    )
    _add_until(made)
    made.add_argument(
        "--audit",
        action="store_true",
        help="read records too (plan, run, request, server_metrics, end, round_stats, a report as "
        "JSON), derive the verdict from them alone, and say what disagrees; text, md or json",
    )
    made.add_argument(
        "--color",
        choices=("auto", "always", "never"),
        default="auto",
        help="bold headings in text (default: auto, on a terminal only)",
    )
    return made


def _add_until(made: argparse.ArgumentParser) -> None:
    made.add_argument(
        "--until",
        metavar="W%",
        help="say how many repeats give the TTFT ratio to +- W%% in two stages (Stein): from the "
        "spread of the first repeats, never from the result (default: as the runs recorded it)",
    )
    made.add_argument(
        "--until-max",
        type=whole,
        metavar="N",
        help="repeats that nobody will pay more of: caps the `total` that --format json tells",
    )
    made.add_argument(
        "--until-first",
        type=whole,
        metavar="N",
        help="repeats of the first stage, 3 or more, where the runs did not record them "
        "(default: all that there are)",
    )


def above_zero(text: str) -> float:
    """A size that something can be multiplied by."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"'{text}': a number above 0 is expected, such as 131072")
    return value


def whole(text: str) -> int:
    """A number of repeats that two stages can be made of."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 3:
        raise argparse.ArgumentTypeError(f"'{text}': three repeats or more are expected")
    return value


def run(argv: Sequence[str] | None = None) -> int:
    """The report on stdout or in files; 1 if a named target failed or something had no partner."""
    options = parser().parse_args(argv)
    formats: list[str] = list(dict.fromkeys(options.format or ()))
    if options.audit:
        return _audit(options, formats)
    if len(formats) > 1 and not options.output:
        raise UsageError("several formats need -o DIR: stdout takes one")
    if not options.output and {"png", "all"} & {*formats}:
        raise UsageError("--format png and all need -o DIR: charts are files")
    output = _output(options)
    if options.output:
        every = not formats or "all" in formats
        output.to_folder(Path(options.output), FORMATS if every else formats)
    else:
        output.to_stdout(formats[0] if formats else "text")
    return _status(output.conclusion)


def _audit(options: argparse.Namespace, formats: list[str]) -> int:
    """The audit on stdout; 1 if anything disagrees."""
    from kvreport.audit import output
    from kvreport.targets import parse

    if options.output or len(formats) > 1 or not set(formats) <= set(output.FORMATS):
        raise UsageError(f"--audit writes one of {', '.join(output.FORMATS)} to stdout")
    form = formats[0] if formats else "text"
    return output.run(
        options.files, parse(options.target), form, language=options.lang, colour=options.color
    )


def _output(options: argparse.Namespace) -> Output:
    # What computes is imported late: `--help` must not wait for numpy and scipy.
    import msgspec

    from kvreport.capacity import capacities
    from kvreport.conclude import conclude
    from kvreport.contrasts import contrasted
    from kvreport.efficiency import efficiencies
    from kvreport.efficiency_cost import churns
    from kvreport.enough import Wish
    from kvreport.experiments import group
    from kvreport.inputs import read_inputs
    from kvreport.modes import compared
    from kvreport.output import Output
    from kvreport.prediction import predictions
    from kvreport.targets import parse, parse_pd

    wished, until = parse(options.target), _until(options)
    inputs = read_inputs(options.files)
    if not (inputs.rounds or inputs.searches or inputs.outcomes):
        sources = ", ".join(options.files) or "stdin"
        raise ToolError(f"nothing to read: no round stats in {sources} (did kvstats fail?)")
    experiments = group(inputs.rounds)
    conclusion = conclude(
        experiments,
        wished,
        tool_version=version(),
        until=Wish(
            half_width=until,
            first_repeats=options.until_first,
            maximum=options.until_max,
        ),
        progress=_progress,
    )
    conclusion = msgspec.structs.replace(
        conclusion,
        capacities=capacities(inputs.searches),
        outcomes=inputs.outcomes,
        efficiency=efficiencies(experiments, conclusion.scenarios, options.kv_bytes_per_token),
        churn=churns(experiments),
    )
    conclusion = msgspec.structs.replace(
        conclusion, predictions=predictions(inputs.rounds, inputs.analyses)
    )
    if options.baseline is not None:
        conclusion = contrasted(conclusion, experiments, options.baseline)
    conclusion = compared(conclusion, experiments, parse_pd(options.target), options.baseline)
    return Output(
        prog=PROG,
        conclusion=conclusion,
        experiments=experiments,
        language=options.lang,
        colour=options.color,
    )


def _until(options: argparse.Namespace) -> float | None:
    from kvpipe.stein import half_width

    if options.until is None:
        if options.until_first:
            raise UsageError("--until-first needs --until W%, such as --until 5%")
        return None
    return half_width(options.until)


def _progress(done: int, total: int) -> None:
    """Only where somebody may be waiting for it."""
    if total >= 50 and done % 10 == 0 and sys.stderr.isatty():
        print(f"\r{PROG}: {done}/{total} scenarios", end="", file=sys.stderr, flush=True)
        if done + 10 >= total:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def _status(conclusion: Conclusion) -> int:
    """Says on stderr why the answer is no or partial."""
    from kvreport.display import clean
    from kvreport.phrasing import reason
    from kvreport.words import Words

    words = Words("en")
    status = 0
    used = {one.name for one in conclusion.predictions}  # made of a cold round alone
    used |= conclusion.contrasted
    for one in conclusion.incomparable:
        if one.name in used:
            continue
        missing = words.listed([words.say(f"missing_{role}") for role in one.missing])
        why = "no repeat of it has both a cold round and a hit"
        if one.missing or one.refused:
            why = f"{missing} is not there" if one.missing else reason(one.refused[0], words)
        complain(f"nothing to compare in '{clean(one.name)}': {why}", PROG)
        status = 1
    for case in conclusion.capacities:
        if case.verdict == "none":
            why = words.listed([reason(code, words) for code in case.reasons])
            complain(f"the capacity of '{case.name}' is not compared: {why}", PROG)
            status = 1
    for outcome in conclusion.outcomes:
        if outcome.state != "succeeded":
            state = words.say(f"outcome_{outcome.state}")
            complain(f"scenario '{clean(outcome.name)}' of the matrix: {state}", PROG)
            status = 1
    for name, result in conclusion.failed_targets:
        shown = words.say(f"tally_{result.status}")
        told = result.reason and result.status not in ("not_reachable", "met", "not_met")
        because = f" ({reason(result.reason or '', words)})" if told else ""
        complain(f"target {result.target.name} is {shown} in '{clean(name)}'{because}", PROG)
        status = 1
    return status


def main() -> None:
    run_tool(PROG, run)
