"""What experiment fits into a minute here: the arithmetic behind quick/run.sh.

    shape.py length --url URL              contexts to probe with, in tokens: what the model takes
    shape.py fit PROBE.stats.jsonl ...     kvload's words for what fits

The probe is a round of two requests. Nothing is known yet of hits, so every request is taken for a
miss: what fits then fits a cache that gives nothing, too.
"""

from __future__ import annotations

import argparse
import asyncio
import secrets
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from kvengine.access import api_key, headers
from kvengine.identify import identify
from kvengine.server import Server
from kvpipe.jsonl import decode_as
from kvpipe.process import ToolError, complain, new_parser, run_tool
from kvpipe.records import RoundStats

PROG = "quick"
LENGTHS = (2700, 1800, 1200, 800, 500, 300)
"""Contexts, in tokens: the longest that fits is the most telling."""
LEAST_TOKENS = 200
QUESTION_TOKENS = 64  # what a request of this scenario adds to its context
OUTPUT_TOKENS = 4
HEAD_TOKENS = 96  # room for a salt at the head of the prompt, where fields are ignored
SENTINEL_TOKENS = 1024  # at most: kvplan's own limit
TOO_LONG = (400, 413, 422)
"""What endpoints answer to a prompt that they do not take; a shorter one may be taken."""
PATIENCE = 3.0
"""Sending for so many times the budget is refused: that is no quick look any more."""

# Assumed, in seconds, where the probe does not tell; generous, since a promise is kept by them.
BARRIER_S = 1.5  # two looks a second apart
BLIND_S = 0.2
PROMPT_S = 0.1  # to have one more prompt counted
REPORT_S = 4.0
PROBES = 4  # short requests that find out how salts are taken
WARMUPS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How fast the endpoint answered the probe. `around_s` is what a call takes besides sending."""

    prompt_tokens: float
    ttft_s: float
    e2e_s: float
    around_s: float
    barrier_s: float = BARRIER_S

    def request_s(self, tokens: float) -> float:
        """A miss of `tokens`: prefill by length, at worst; the rest as it was."""
        return self.ttft_s * tokens / self.prompt_tokens + (self.e2e_s - self.ttft_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """An experiment: independent requests, each cold and then as a hit."""

    context_tokens: int
    requests: int
    sentinels: int
    repeats: int = 1
    control: bool = False

    @property
    def prompt_tokens(self) -> int:
        return self.context_tokens + QUESTION_TOKENS

    @property
    def rounds(self) -> int:
        """Cold and hit, and no_reuse where there is a control; repeats always have one."""
        return self.repeats * (3 if self.control or self.repeats > 1 else 2)

    @property
    def sent(self) -> int:
        """Requests of all rounds, sentinels included; neither warm-up nor probes."""
        return self.rounds * (self.requests + self.sentinels)

    def words(self, seed: int) -> list[str]:
        """For kvload. Several repeats bring their control with them."""
        return [
            *("--requests", str(self.requests), "--context-tokens", str(self.context_tokens)),
            *("--sentinels", str(self.sentinels), "--output-tokens", str(OUTPUT_TOKENS)),
            *("--repeats", str(self.repeats), "--warmup", str(WARMUPS), "--seed", str(seed)),
            *(("--control",) if self.control and self.repeats == 1 else ()),
        ]


def shapes(longest: int) -> Iterator[Shape]:
    """What may be run, the most telling first.

    Three repeats have an interval of their own; sixteen or twelve requests a bootstrap within the
    run, five are the fewest that give any interval. Only then is the context made shorter.
    """
    full = min(longest, LENGTHS[0])
    yield Shape(context_tokens=full, requests=8, sentinels=5, repeats=3)
    yield Shape(context_tokens=full, requests=16, sentinels=8, control=True)
    for length in [full, *(one for one in LENGTHS if one < full)]:
        yield Shape(context_tokens=length, requests=12, sentinels=6)
        yield Shape(context_tokens=length, requests=8, sentinels=4)
        yield Shape(context_tokens=length, requests=5, sentinels=3)


def sending_s(shape: Shape, pace: Pace) -> float:
    """Seconds in requests, warm-up and probes included, if nothing ever hits."""
    one = pace.request_s(shape.prompt_tokens)
    sentinel = pace.request_s(min(SENTINEL_TOKENS, shape.prompt_tokens))
    rounds = shape.rounds * (shape.requests * one + shape.sentinels * sentinel)
    return rounds + WARMUPS * (shape.rounds // shape.repeats) * one + PROBES * sentinel


def estimate_s(shape: Shape, pace: Pace) -> float:
    """Seconds until the report is there."""
    prompts = shape.repeats * (shape.requests + shape.sentinels)
    rests = shape.rounds + 2 * WARMUPS
    return (
        sending_s(shape, pace)
        + pace.around_s
        + prompts * PROMPT_S
        + rests * pace.barrier_s
        + REPORT_S
    )


def fit(pace: Pace, left_s: float, longest: int) -> Shape:
    """The most telling shape that fits into the time, else the smallest of all."""
    possible = list(shapes(longest))
    fitting = (one for one in possible if estimate_s(one, pace) <= left_s)
    return next(fitting, min(possible, key=lambda one: estimate_s(one, pace)))


def length_of(max_model_len: int | None) -> int:
    """Tokens of context that a model takes besides everything else; ToolError if too few."""
    if max_model_len is None:
        return LENGTHS[0]
    room = max_model_len - QUESTION_TOKENS - OUTPUT_TOKENS - HEAD_TOKENS
    if room < LEAST_TOKENS:
        raise ToolError(
            f"the model takes {max_model_len} tokens: too few for a prompt whose hit can be told"
            f" from a miss ({max_model_len - room + LEAST_TOKENS} or more are needed)"
        )
    return min(LENGTHS[0], room)


def pace_of(stats: RoundStats, elapsed_s: float) -> Pace | None:
    """What the probe tells; None if nothing was answered. The better of its requests counts."""
    ttft, e2e = stats.timings.ttft_s.min, stats.timings.e2e_s.min
    if ttft is None or e2e is None or stats.samples is None:
        return None
    told = [tokens for tokens in stats.samples.prompt_tokens if tokens]
    planned = stats.run if not isinstance(stats.run, list) else stats.run[0]
    tokens = sum(told) / len(told) if told else _asked(planned.config)
    seen = stats.barrier is not None and stats.barrier.state == "quiet"
    return Pace(
        prompt_tokens=tokens,
        ttft_s=ttft,
        e2e_s=max(e2e, ttft),
        around_s=max(0.0, elapsed_s - (stats.total_time_s or 0.0)),
        barrier_s=BARRIER_S if seen else BLIND_S,
    )


def _asked(config: dict[str, object]) -> float:
    """Tokens that the probe asked for, where answers have no usage."""
    return float(str(config["context_tokens"])) + QUESTION_TOKENS


def in_make(message: str) -> str:
    """How make takes the flag that a complaint asks for."""
    hints = {"--api-key-file": "KEY_FILE=FILE", "--model": "MODEL=NAME"}
    told = [hint for flag, hint in hints.items() if flag in message]
    return f" (make quick: {told[0]})" if told else ""


async def look(args: argparse.Namespace) -> int:
    """The context to probe with; says who answers there."""
    key = api_key(args.api_key_file)
    async with Server(args.url, key, headers(args.header)) as server:
        try:
            found = await identify(server, args.model)
        except ToolError as error:
            raise ToolError(f"{error}{in_make(str(error))}") from None
        about = " ".join(part for part in (found.engine, found.version) if part)
        tokens = length_of(found.max_model_len)
        shorter = f" (it takes {found.max_model_len} tokens)" if tokens < LENGTHS[0] else ""
        complain(f"{server.shown}: model {found.model} on {about}{shorter}", PROG)
    return tokens


def choose(args: argparse.Namespace) -> int:
    """Words for kvload on stdout; 1 if the probe was not answered."""
    now = time.time()
    lines = Path(args.stats).read_bytes().splitlines()
    stats = decode_as(RoundStats, lines[0], args.stats) if lines else None
    pace = pace_of(stats, now - args.began) if stats else None
    if stats is None or pace is None:
        complain(unanswered(stats, args.probed), PROG)
        return 1
    left_s = args.seconds - (now - args.begun)
    shape = fit(pace, left_s, args.longest)
    total_s = estimate_s(shape, pace)
    if sending_s(shape, pace) > PATIENCE * args.seconds:
        raise ToolError(
            f"too slow for a quick look: a prompt of {pace.prompt_tokens:.0f} tokens takes"
            f" {pace.ttft_s:.1f} s, and the smallest experiment {total_s:.0f} s; take the time:"
            " kvload --url URL --scenario cold_start --requests 5 | kvstats | kvreport"
        )
    complain(told(shape, pace, total_s), PROG)
    print(" ".join(shape.words(secrets.randbelow(2**31))))
    return 0


def unanswered(stats: RoundStats | None, tokens: int) -> str:
    """Why the probe brought nothing, in a line; ToolError where a shorter one would not either."""
    found = [one for one in stats.findings if one.code == "errors"] if stats else []
    why = f": {found[0].message}" if found else ""
    line = f"a prompt of {tokens} tokens was not answered{why}"
    refused = stats is not None and set(stats.status_counts) == {"http_error"}
    if refused and not any(f"HTTP {status} " in why for status in TOO_LONG):
        raise ToolError(line)
    return line


def told(shape: Shape, pace: Pace, total_s: float) -> str:
    """What was seen, and what is made of it."""
    repeats = f"{shape.repeats} repeats of " if shape.repeats > 1 else ""
    control = " and a control" if shape.rounds // shape.repeats > 2 else ""
    return (
        f"a prompt of {pace.prompt_tokens:.0f} tokens has its first token after {pace.ttft_s:.2f} s"
        f" here: {repeats}{shape.requests} requests of {shape.prompt_tokens} tokens, cold and as"
        f" hits{control}, {shape.sentinels} sentinels a round; about {total_s:.0f} s"
    )


def parser() -> argparse.ArgumentParser:
    made = new_parser(PROG, "What experiment fits into a minute here.", "  see quick/run.sh\n")
    what = made.add_subparsers(dest="what", required=True)
    length = what.add_parser("length", help="tokens of context that the model takes")
    length.add_argument("--url", required=True)
    length.add_argument("--model")
    length.add_argument("--api-key-file")
    length.add_argument("--header", action="append", default=[])
    fitting = what.add_parser("fit", help="kvload's words for what fits")
    fitting.add_argument("stats", help="stats of the probe")
    fitting.add_argument("--begun", type=float, required=True, help="when all began (epoch)")
    fitting.add_argument("--began", type=float, required=True, help="when the probe began")
    fitting.add_argument("--seconds", type=float, required=True, help="for everything")
    fitting.add_argument("--longest", type=int, required=True, help="context at most")
    fitting.add_argument("--probed", type=int, required=True, help="context of the probe")
    return made


def run(argv: Sequence[str] | None) -> int:
    args = parser().parse_args(argv)
    if args.what == "fit":
        return choose(args)
    longest = asyncio.run(look(args))
    print(longest, min(longest, LENGTHS[-1]))
    return 0


if __name__ == "__main__":
    run_tool(PROG, run, sys.argv[1:])
