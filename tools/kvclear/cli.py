"""Command line of kvclear."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import NoReturn

from kvclear.account import Account
from kvclear.order import Order, engines_of, hook_of
from kvclear.procedure import clear
from kvclear.site import Site
from kvclear.verdict import conclude
from kvengine.access import api_key, headers
from kvengine.engines import ENGINES
from kvengine.urls import base_url, redact
from kvpipe.jsonl import write_record
from kvpipe.process import UsageError, complain, new_parser, run_tool, version
from kvpipe.records import Cleared

DESCRIPTION = """\
Clears the caches between two scenarios, and proves it: prompts that were
cached before must not be cached after. Writes one `cleared` record; what is
done is told on stderr as it happens. Status 0 means cleared and shown.
"""

EXAMPLES = """\
  kvclear --vllm http://a:8000 --vllm http://b:8000 --mooncake http://m:9003
  kvclear --vllm http://a:8000 --command 'docker restart vllm' --wait 5
  kvclear --config run.yaml > cleared.json
  kvload --config run.yaml --isolation cleared.json | kvstats
one line out:
  {"record":"cleared","schema":1,...,"verified":true,"reason":"shown empty ..."}
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = new_parser("kvclear", DESCRIPTION, EXAMPLES)
    what = top.add_argument_group("what to clear")
    kinds = ", ".join(sorted(ENGINES))
    add = what.add_argument
    add("--engine", metavar="KIND=URL", action="append", default=[], help=f"KIND: {kinds}")
    add("--vllm", metavar="URL", action="append", default=[], help="the same as --engine vllm=URL")
    add(
        "--mooncake",
        metavar="URL",
        action="append",
        default=[],
        help="the same as --engine mooncake=URL: the master's admin port, 9003",
    )
    add("--config", metavar="FILE", help="take it from a run's or a matrix' config; flags win")
    add("--local-only", action="store_true", help="reset the engines, leave the stores alone")
    add("--global", dest="everyone", action="store_true", help="remove other people's keys too")
    ways = top.add_argument_group("other ways")
    add = ways.add_argument
    add("--command", metavar="CMD", action="append", default=[], help="run a shell command")
    add("--health", metavar="URL", action="append", default=[], help="wait until it answers 200")
    add("--http", metavar='"METHOD URL"', action="append", default=[], help="send a request")
    add("--metadata-clear", metavar="URL", help="POST to URL/clear, as some documents say")
    add("--wait", metavar="S", type=_seconds, help="sleep for S seconds after the clear")
    add("--timeout", metavar="S", type=_seconds, help="how long --health may take [600]")
    how = top.add_argument_group("how")
    add = how.add_argument
    add("--model", metavar="M", help="model to ask the engines for [the one served]")
    add("--api-key-file", metavar="F", help="file with the engines' key [$OPENAI_API_KEY]")
    add(
        "--header",
        metavar="K:V",
        action="append",
        default=[],
        help="send this header too; @FILE: one a line",
    )
    add("--probe-salt", action="store_true", help="clear nothing: tell which salts isolate here")
    add("--dry-run", action="store_true", help="say what would be cleared, and clear nothing")
    return top


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Entry point of the executable."""
    run_tool("kvclear", run, argv)


def run(argv: Sequence[str] | None) -> int:
    """Clear, write the record, and say how it went by the status."""
    args = parser().parse_args(argv)
    order = read_order(args)
    if args.probe_salt:
        from kvclear.probing import run as probe_salts  # texts, which a clear does not need

        return probe_salts(order)
    account = Account()
    site = asyncio.run(clear(order, account))
    record = cleared(site)
    word = {True: "cleared", False: "NOT cleared", None: "not shown to be cleared"}
    if not order.dry_run:
        mark = " (SIMULATED)" if record.simulated else ""
        complain(f"{word[record.verified]}{mark}: {record.reason}")
    write_record(record)
    return 0 if record.verified or order.dry_run else 1


def read_order(args: argparse.Namespace) -> Order:
    """Flags over config over defaults; UsageError and ToolError in one line."""
    base = _configured(args.config)
    for url in (*args.health, *([args.metadata_clear] if args.metadata_clear else [])):
        base_url(url)
    order = replace(
        base,
        engines=engines_of(args.engine, args.vllm, args.mooncake) or base.engines,
        model=args.model or base.model,
        api_key=api_key(args.api_key_file),
        headers=tuple(headers(args.header).items()),
        metadata_clear=args.metadata_clear or base.metadata_clear,
        hooks=tuple(map(hook_of, args.http)),
        commands=tuple(args.command),
        wait_s=base.wait_s if args.wait is None else args.wait,
        health=tuple(args.health) or base.health,
        timeout_s=base.timeout_s if args.timeout is None else args.timeout,
        local_only=args.local_only or base.local_only,
        everyone=args.everyone or base.everyone,
        dry_run=args.dry_run,
    )
    if not order.anything:
        raise UsageError("nothing to clear: name engines with --vllm and --mooncake (see --help)")
    return order


def cleared(site: Site) -> Cleared:
    """The record of what was done and shown."""
    order, account = site.order, site.account
    verified, reason = conclude(account.proofs, account.steps)
    if order.dry_run and not account.proofs:
        verified, reason = None, "dry run: nothing was sent that changes a cache"
    floors = [node.floor_tokens for node in site.nodes if node.floor_tokens is not None]
    return Cleared(
        tool_version=version(),
        cleared_at=datetime.now(UTC).isoformat(timespec="seconds"),
        dry_run=order.dry_run,
        steps=account.steps,
        proofs=account.proofs,
        verified=verified,
        reason=reason,
        engines=[f"{engine.kind}={redact(url)}" for engine, url in order.engines],
        simulated=any(node.identity.simulated for node in site.nodes),
        floor_tokens=max(floors, default=None),
        elapsed_s=account.elapsed_s,
    )


def _configured(path: str | None) -> Order:
    if path is None:
        return Order()
    from kvclear.config import order_of  # YAML and schemas, which no other order needs

    return order_of(path)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1e9:
        raise argparse.ArgumentTypeError(f"'{text}' is no number of seconds")
    return value
