"""The command line of kvplan."""

from __future__ import annotations

import argparse
import asyncio
import re
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NoReturn

from kvengine.access import api_key, extra_body, headers
from kvpipe.jsonl import encode
from kvpipe.process import UsageError, complain, new_parser, run_tool
from kvpipe.records import Plan, Planned
from kvplan.scenarios import SCENARIOS, Lengths, scenario_named

if TYPE_CHECKING:
    from kvplan.plans import Endpoint, Settings
    from kvplan.shape import Wish

LEAST_CONTEXT = 32
"""Tokens below which a context has no room for a template and a sentence."""

_DESCRIPTION = """\
Makes the requests of a scenario, in the order in which they are to be sent, and
writes a `plan` record and its `planned` records. The same seed and flags give
the same bytes. Pure, but for --url, by which a server counts tokens."""

_EXAMPLES = """\
  kvplan --scenario cold_start | head -1 | jq .asked_tokens
  kvplan --scenario code_generation --contexts 8 --url http://a:8000 > p.jsonl
  kvplan --scenario batch_processing | kvload --url http://a:8000 --workload -
"""


def parser() -> argparse.ArgumentParser:
    """Every flag, in groups."""
    made = new_parser("kvplan", _DESCRIPTION, _EXAMPLES)
    _shape_arguments(made.add_argument_group("shape"))
    _request_arguments(made.add_argument_group("requests"))
    _server_arguments(made.add_argument_group("counting tokens"))
    made.add_argument("-q", "--quiet", action="store_true", help="no line about lengths on stderr")
    return made


def _shape_arguments(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    names = ", ".join(SCENARIOS)
    add("--scenario", metavar="NAME", required=True, help=f"one of {names}")
    add(
        "--requests",
        type=_number("--requests", 1),
        default=30,
        metavar="N",
        help="sentinels apart [30]",
    )
    add(
        "--context-tokens",
        type=_lengths("--context-tokens", LEAST_CONTEXT),
        metavar="N|LO-HI",
        help="length of each context, or a range from which each draws its own "
        "[the scenario's own]; for conversations, of the history at the last turn",
    )
    add(
        "--contexts",
        type=_number("--contexts", 1),
        metavar="K",
        help="independent contexts, or conversations [1; conversations of seven turns]",
    )
    add(
        "--shared-ratio",
        type=_ratio,
        metavar="R",
        help="share of the requests that share a context, 0 to 1 [the scenario's own]",
    )
    add(
        "--order",
        choices=("leaders-first", "shuffled"),
        default="leaders-first",
        help="leaders-first: the first with a context is answered before the others start",
    )
    add(
        "--sentinels",
        type=_number("--sentinels", 0),
        metavar="N",
        help="never-repeated requests [5 %%, at least 3]",
    )
    add(
        "--seed",
        type=_number("--seed", 0),
        default=0,
        metavar="N",
        help="of shape, order and text [0]",
    )
    some = group.add_mutually_exclusive_group()
    some.add_argument(
        "--repeats",
        type=_number("--repeats", 1),
        metavar="N",
        help="plans of one shape with new text [1]",
    )
    some.add_argument(
        "--repeat", type=_number("--repeat", 1), metavar="I", help="only the I-th of those"
    )


def _request_arguments(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--output-tokens",
        type=_number("--output-tokens", 1),
        default=64,
        metavar="N",
        help="asked for [64]",
    )
    add(
        "--api",
        choices=("chat", "completions"),
        default="chat",
        help="completions are token ids where no server counts text [chat]",
    )
    add("--extra-body", metavar="JSON", help="more fields for each body")
    add(
        "--token-ids",
        type=_lengths("--token-ids", 0),
        default="1000-29999",
        metavar="LO-HI",
        help="ids that the model's vocabulary has [1000-29999]",
    )


def _server_arguments(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--url", metavar="URL", help="server that counts, with or without /v1")
    add("--model", metavar="M", help="as the server names it [the only one served]")
    add("--api-key-file", metavar="F", help="file with the key [OPENAI_API_KEY]")
    add("--header", action="append", default=[], metavar="K:V", help="to send with each request")
    add(
        "--block-tokens",
        type=_number("--block-tokens", 1),
        default=16,
        metavar="N",
        help="no two contexts may share so many tokens [16]",
    )


# Complaints about values are raised as UsageError, which argparse lets through: one line that names
# the flag, where its own error would print the whole usage first.


def _number(flag: str, least: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not re.fullmatch(r"\d+", text, re.ASCII) or int(text) < least:
            raise UsageError(f"{flag} '{text}': a whole number of {least} or more is expected")
        return int(text)

    return read


def _ratio(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise UsageError(f"--shared-ratio '{text}': a number from 0 to 1 is expected")
    return value


def _lengths(flag: str, least: int) -> Callable[[str], Lengths]:
    def read(text: str) -> Lengths:
        found = re.fullmatch(r"(\d+)(?:-(\d+))?", text, re.ASCII)
        if found is None:
            raise UsageError(f"{flag} '{text}': neither N nor LO-HI, such as 16000-32000")
        low, high = int(found[1]), int(found[2] or found[1])
        if low > high:
            raise UsageError(f"{flag} '{text}': the lower end comes first: {high}-{low}")
        if low < least:
            raise UsageError(f"{flag} '{text}': at least {least} is expected")
        return Lengths(low=low, high=high)

    return read


def run(argv: Sequence[str] | None) -> int:
    """Write the plans. Raises ToolError, UsageError."""
    args = parser().parse_args(argv)
    scenario = scenario_named(args.scenario)
    # Here and not above: `--help` must not pay for numpy and aiohttp.
    from kvplan.plans import Settings
    from kvplan.shape import Wish

    wish = Wish(
        scenario=scenario,
        requests=args.requests,
        context=args.context_tokens or scenario.context,
        shared_ratio=args.shared_ratio,
        contexts=args.contexts,
        order=args.order,
        sentinels=args.sentinels,
        seed=args.seed,
    )
    settings = Settings(
        api=args.api,
        output_tokens=args.output_tokens,
        block_tokens=args.block_tokens,
        ids=args.token_ids,
        body=extra_body(args.extra_body),
        repeats=(args.repeat,) if args.repeat else tuple(range(1, (args.repeats or 1) + 1)),
    )
    asyncio.run(_write(wish, settings, _endpoint(args), quiet=args.quiet))
    return 0


def _endpoint(args: argparse.Namespace) -> Endpoint | None:
    """The server that counts; None without --url."""
    from kvplan.plans import Endpoint

    if args.url is None:
        if args.model or args.api_key_file or args.header:
            raise UsageError("--model, --api-key-file and --header need --url, which is not given")
        return None
    return Endpoint(
        url=args.url,
        model=args.model,
        api_key=api_key(args.api_key_file),
        headers=headers(args.header),
    )


async def _write(wish: Wish, settings: Settings, endpoint: Endpoint | None, *, quiet: bool) -> None:
    """Each plan when it is made, and a line about it for people."""
    from kvplan.plans import plans

    async for head, requests in plans(wish, settings, endpoint):
        sys.stdout.buffer.write(b"".join(map(encode, [head, *requests])))
        sys.stdout.buffer.flush()
        if not quiet:
            complain(told(head, requests), "kvplan")


def told(head: Plan, requests: Sequence[Planned]) -> str:
    """One line: what the plan is, and the lengths that were asked for and got."""
    got = sum(request.prompt_tokens or 0 for request in requests)
    repeat = f" repeat {head.repeat}" if head.repeat > 1 else ""
    lengths = f"got {got} ({head.calibrated})"
    if head.got_tokens is None:
        lengths = f"got about {got} ({head.note})"
    return (
        f"{head.scenario}{repeat}: {head.requests} requests, {head.cold_requests} of them cold, "
        f"and {head.sentinels} sentinels; asked for {head.asked_tokens} prompt tokens, {lengths}"
    )


def main(argv: Sequence[str] | None = None) -> NoReturn:
    run_tool("kvplan", run, argv)
