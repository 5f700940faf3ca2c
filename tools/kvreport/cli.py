"""kvreport's command line: reads round stats, concludes, writes the report."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kvpipe.process import ToolError, UsageError, complain, new_parser, run_tool, version

if TYPE_CHECKING:
    from kvreport.conclusion import Conclusion

PROG = "kvreport"
FORMATS = ("text", "md", "json")
TARGETS = "ttft_reduction=0.6 throughput_increase=1.5 tpot_ratio=0.8..1.2"
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
        "                [--target NAME=VALUE ...] [--baseline NAME]",
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
        choices=FORMATS,
        metavar="FORMAT",
        help="text, md or json; several with -o (default: text, or all of them with -o)",
    )
    made.add_argument(
        "-o",
        "--output",
        metavar="DIR",
        help="write report.txt, report.md, report.json there; stdout stays empty",
    )
    made.add_argument("--lang", choices=("en",), default="en", help="language (default: en)")
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
        "--color",
        choices=("auto", "always", "never"),
        default="auto",
        help="bold headings in text (default: auto, on a terminal only)",
    )
    return made


def run(argv: Sequence[str] | None = None) -> int:
    """The report on stdout or in files; 1 if a named target failed or something had no partner."""
    options = parser().parse_args(argv)
    formats: list[str] = list(dict.fromkeys(options.format or ()))
    if len(formats) > 1 and not options.output:
        raise UsageError("several formats need -o DIR: stdout takes one")
    conclusion = _conclusion(options)
    if options.output:
        _write_files(conclusion, Path(options.output), formats or list(FORMATS), options)
    else:
        name = formats[0] if formats else "text"
        sys.stdout.write(_rendered(conclusion, name, options, terminal=sys.stdout.isatty()))
    return _status(conclusion)


def _conclusion(options: argparse.Namespace) -> Conclusion:
    # What computes is imported late: `--help` must not wait for numpy and scipy.
    from kvreport.conclude import conclude
    from kvreport.contrasts import contrasted
    from kvreport.experiments import group
    from kvreport.inputs import read_rounds
    from kvreport.targets import parse

    wished = parse(options.target)
    rounds = read_rounds(options.files)
    if not rounds:
        sources = ", ".join(options.files) or "stdin"
        raise ToolError(f"nothing to read: no round stats in {sources} (did kvstats fail?)")
    experiments = group(rounds)
    conclusion = conclude(experiments, wished, tool_version=version(), progress=_progress)
    if options.baseline is None:
        return conclusion
    return contrasted(conclusion, experiments, options.baseline)


def _progress(done: int, total: int) -> None:
    """Only where somebody may be waiting for it."""
    if total >= 50 and done % 10 == 0 and sys.stderr.isatty():
        print(f"\r{PROG}: {done}/{total} scenarios", end="", file=sys.stderr, flush=True)
        if done + 10 >= total:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def _rendered(
    conclusion: Conclusion, name: str, options: argparse.Namespace, *, terminal: bool
) -> str:
    from kvreport.formats import RENDERERS, Setting

    setting = Setting(
        language=options.lang,
        columns=shutil.get_terminal_size((80, 24)).columns,
        colour=_colour(options.color, terminal=terminal),
    )
    return RENDERERS[name](conclusion, setting)


def _colour(wish: str, *, terminal: bool) -> bool:
    if wish != "auto":
        return wish == "always"
    return terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _write_files(
    conclusion: Conclusion, folder: Path, formats: Sequence[str], options: argparse.Namespace
) -> None:
    from kvreport.formats import FILES

    folder.mkdir(parents=True, exist_ok=True)
    for name in formats:
        path = folder / FILES[name]
        text = _rendered(conclusion, name, options, terminal=False)
        path.write_text(text, encoding="utf-8")
        print(path, file=sys.stderr)


def _status(conclusion: Conclusion) -> int:
    """Says on stderr why the answer is no or partial."""
    from kvreport.phrasing import reason
    from kvreport.words import Words

    words = Words("en")
    status = 0
    for one in conclusion.incomparable:
        missing = words.listed([words.say(f"missing_{role}") for role in one.missing])
        why = f"{missing} is not there" if one.missing else reason(one.refused[0], words)
        complain(f"nothing to compare in '{one.name}': {why}", PROG)
        status = 1
    for name, result in conclusion.failed_targets:
        shown = words.say(f"tally_{result.status}")
        told = result.reason and result.status not in ("not_reachable", "met", "not_met")
        because = f" ({reason(result.reason or '', words)})" if told else ""
        complain(f"target {result.target.name} is {shown} in '{name}'{because}", PROG)
        status = 1
    return status


def main() -> None:
    run_tool(PROG, run)
