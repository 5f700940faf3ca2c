"""Every flag of kvplan, and which of them go together."""

from __future__ import annotations

import argparse

from kvpipe.process import UsageError, new_parser
from kvplan import values
from kvplan.analysis.command import add_analysis_arguments
from kvplan.scenarios import SCENARIOS

LEAST_CONTEXT = 32
"""Tokens below which a context has no room for a template and a sentence."""

_USAGE = """\
kvplan --scenario NAME [flags of a scenario]
       kvplan --trace FILE [flags of a trace]
       kvplan --conversations FILE | --prompts FILE [--hash-only]"""

_DESCRIPTION = """\
Makes the requests of a scenario, of a trace of real traffic or of one's own
files, in the order in which they are to be sent, and writes a `plan` record and
its `planned` records. The same seed and flags give the same bytes. Pure, but
for --url, by which a server counts tokens."""

_EXAMPLES = """\
  kvplan --scenario cold_start | head -1 | jq .asked_tokens
  kvplan --scenario code_generation --contexts 8 --url http://a:8000 > p.jsonl
  kvplan --scenario batch_processing | kvload --url http://a:8000 --workload -
  kvplan --trace t.jsonl --scale 1/4 --limit 300 --api completions > p.jsonl
  kvplan --prompts log.jsonl --hash-only --url http://a:8000 > trace.jsonl
"""

SOURCES = ("scenario", "trace", "conversations", "prompts")
_FILES = ("conversations", "prompts")

# Flags that mean something for some sources only.
_OWNERS: dict[str, tuple[str, ...]] = {
    "requests": ("scenario",),
    "context_tokens": ("scenario",),
    "contexts": ("scenario",),
    "shared_ratio": ("scenario",),
    "order": ("scenario",),
    "time_unit": ("trace", "prompts"),
    "trace_block_tokens": ("trace", *_FILES),
    "speedup": ("trace",),
    "spread": ("trace",),
    "scale": ("trace",),
    "window": ("trace",),
    "limit": ("trace", *_FILES),
    "hash_only": _FILES,
    "repeats": ("scenario", "trace"),
    "repeat": ("scenario", "trace"),
}


def parser() -> argparse.ArgumentParser:
    """Every flag, in groups."""
    made = new_parser("kvplan", _DESCRIPTION, _EXAMPLES, _USAGE)
    sources = made.add_argument_group("what of").add_mutually_exclusive_group(required=True)
    _source_arguments(sources)
    _scenario_arguments(made.add_argument_group("of a scenario"))
    _trace_arguments(made.add_argument_group("of a trace"))
    _file_arguments(made.add_argument_group("of files of one's own"))
    _plan_arguments(made.add_argument_group("of every plan"))
    _request_arguments(made.add_argument_group("requests"))
    _server_arguments(made.add_argument_group("counting tokens"))
    add_analysis_arguments(made.add_argument_group("analysis, before anything is sent"))
    made.add_argument("-q", "--quiet", action="store_true", help="no line about lengths on stderr")
    return made


def check(args: argparse.Namespace) -> None:
    """UsageError for a flag that the chosen source has no use for."""
    source = next(name for name in SOURCES if getattr(args, name) is not None)
    for name, owners in _OWNERS.items():
        if getattr(args, name) not in (None, False) and source not in owners:
            flag = name.replace("_", "-")
            hint = " (--limit N takes the first N)" if flag == "requests" else ""
            owned = " and --".join(owners)
            raise UsageError(f"--{flag} is for --{owned}, not for --{source}{hint}")
    if args.trace_block_tokens is not None and args.trace is None and not args.hash_only:
        raise UsageError("--trace-block-tokens is of a trace: read by --trace, made by --hash-only")


def _source_arguments(group: argparse._MutuallyExclusiveGroup) -> None:
    add = group.add_argument
    names = ", ".join(SCENARIOS)
    add("--scenario", metavar="NAME", help=f"one of {names}")
    add(
        "--trace",
        metavar="FILE",
        help="requests with timestamp, input_length, output_length and hash_ids, one JSON object "
        "a line, as Mooncake and Qwen publish them; - is stdin, gzip is read too",
    )
    add(
        "--conversations",
        metavar="FILE",
        help="ShareGPT's form, or objects with messages, as a JSON list or one a line: turn by "
        "turn, with the file's own answers",
    )
    add(
        "--prompts",
        metavar="FILE",
        help="lines of text, or of JSON objects with prompt, text or messages, and perhaps "
        "timestamp and output_length",
    )


def _scenario_arguments(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--requests",
        type=values.number("--requests", 1),
        metavar="N",
        help="sentinels apart [30]",
    )
    add(
        "--context-tokens",
        type=values.lengths("--context-tokens", LEAST_CONTEXT),
        metavar="N|LO-HI",
        help="length of each context, or a range from which each draws its own "
        "[the scenario's own]; for conversations, of the history at the last turn",
    )
    add(
        "--contexts",
        type=values.number("--contexts", 1),
        metavar="K",
        help="independent contexts, or conversations [1; conversations of seven turns]",
    )
    add(
        "--shared-ratio",
        type=values.ratio,
        metavar="R",
        help="share of the requests that share a context, 0 to 1 [the scenario's own]",
    )
    add(
        "--order",
        choices=("leaders-first", "shuffled"),
        help="leaders-first, the default: the first with a context is answered before the others "
        "start",
    )


def _trace_arguments(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--time-unit",
        choices=("ms", "s"),
        help="of its timestamps [ms; s in Qwen's form and in logs of prompts]",
    )
    add(
        "--trace-block-tokens",
        type=values.number("--trace-block-tokens", 1),
        metavar="N",
        help="tokens that one of its hash_ids stands for [512; 16 in Qwen's form; what the file "
        "says; with --hash-only --block-tokens]",
    )
    add(
        "--window",
        type=values.window,
        metavar="A-B",
        help="only what came from second A up to second B, counted from its first request",
    )
    add(
        "--limit",
        type=values.number("--limit", 1),
        metavar="N",
        help="the first N of those, or of a file's conversations or prompts",
    )
    add("--speedup", type=values.speedup, metavar="X", help="arrivals X times as fast [1]")
    add(
        "--spread",
        action="store_true",
        help="requests of one stamp come spread over the time up to the next, by seed",
    )
    add(
        "--scale",
        type=values.scale,
        metavar="X",
        help="blocks of X times as many tokens, as many of them and shared as before, and outputs "
        "as much shorter; 0.25 or 1/4 makes blocks of 512 blocks of 128 [1]",
    )


def _file_arguments(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--hash-only",
        action="store_true",
        help="write no plan but a trace: times, lengths and numbers for blocks, without the text",
    )


def _plan_arguments(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--sentinels",
        type=values.number("--sentinels", 0),
        metavar="N",
        help="never-repeated requests [5 %%, at least 3]",
    )
    add(
        "--seed",
        type=values.number("--seed", 0),
        default=0,
        metavar="N",
        help="of shape, order and text [0]",
    )
    some = group.add_mutually_exclusive_group()
    some.add_argument(
        "--repeats",
        type=values.number("--repeats", 1),
        metavar="N",
        help="plans of one shape with new text [1]",
    )
    some.add_argument(
        "--repeat", type=values.number("--repeat", 1), metavar="I", help="only the I-th of those"
    )


def _request_arguments(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--output-tokens",
        type=values.number("--output-tokens", 1),
        metavar="N",
        help="asked for [64]; of a trace, no more than N [as many as it says, scaled]",
    )
    add(
        "--api",
        choices=("chat", "completions"),
        default="chat",
        help="completions are token ids where no server counts text, and of a trace always [chat]",
    )
    add("--extra-body", metavar="JSON", help="more fields for each body")
    add(
        "--token-ids",
        type=values.lengths("--token-ids", 0),
        default="1000-29999",
        metavar="LO-HI",
        help="ids that the model's vocabulary has [1000-29999]",
    )


def _server_arguments(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--url", metavar="URL", help="server that counts, with or without /v1")
    add("--model", metavar="M", help="as the server names it [the only one served]")
    add("--api-key-file", metavar="F", help="file with the key [OPENAI_API_KEY]")
    add(
        "--header",
        action="append",
        default=[],
        metavar="K:V",
        help="to send with each request; @FILE: one a line",
    )
    add(
        "--block-tokens",
        type=values.number("--block-tokens", 1),
        default=16,
        metavar="N",
        help="the engine's: no two contexts may share so many tokens [16]",
    )
