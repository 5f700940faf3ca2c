"""Why a cost bends: turns of the event loop, reads, and what waiting to the microsecond costs.

  python -m bench.growth_causes > causes.md

Counts, beside the sweeps' seconds: how often kvload's event loop turned, how many chunks a read
brought, and the same load by a kvload that does not yield its way through the last millisecond
before a request is due (`drive.TICK_NS`), but sleeps as long as the loop's selector makes it.
"""

from __future__ import annotations

import json
import re
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bench.conditions import conditions, conditions_table
from bench.growth_sweeps import rate_load, streams_load
from bench.kept import table
from bench.loads import BenchError, Load, kvload_command, workload
from bench.server import serving
from bench.watched import Watched, watch

RUNS = 3
COUNTING = """
import asyncio.base_events as events, sys
turns, once = 0, events.BaseEventLoop._run_once
def counted(loop):
    global turns
    turns += 1
    once(loop)
events.BaseEventLoop._run_once = counted
from kvload.cli import main
try:
    main()
finally:
    print("turns", turns, file=sys.stderr)
"""
SLEEPING = """
import kvload.drive
kvload.drive.TICK_NS = 0
from kvload.cli import main
main()
"""
AS_IT_IS = "from kvload.cli import main; main()"


def main() -> None:
    """Both tables."""
    loads: Sequence[Load] = [
        *(streams_load(at) for at in (64, 256, 1024, 4096, 8192)),
        *(rate_load(at) for at in (32, 128, 512, 1024, 2048, 4096)),
    ]
    print("# Why the cost of streams and of rate bends\n")
    print("\n".join(causes(loads, RUNS)))
    under = {"command": "python -m bench.growth_causes", **conditions()}
    print(f"\n{conditions_table(under)}")


def causes(loads: Sequence[Load], runs: int) -> list[str]:
    """A row for each load."""
    head = ("load", "turns a request", "turns a chunk", "chunks a read", "late p99")
    rows = [_row(load, runs) for load in loads]
    return table((*head, "processor", "without yielding", "late p99 then"), rows)


def _row(load: Load, runs: int) -> list[str]:
    found, requests = _run(load, COUNTING)
    counted = re.search(r"turns (\d+)", found.stderr.decode())
    if counted is None:
        raise BenchError(f"{load.name}: no turns were counted")
    turns, chunks = int(counted[1]), load.requests * load.tokens
    reads = sum(row["reads"] for row in requests)
    whole, sleepy, late = [], [], []
    for _ in range(runs):  # in turns: whoever else is at work slows both
        whole.append(_run(load, AS_IT_IS))
        sleepy.append(_run(load, SLEEPING))
    for every in (whole, sleepy):
        late.append(statistics.median(_late_p99(rows) for _, rows in every))
    cpu = [statistics.median(done.total_s for done, _ in every) for every in (whole, sleepy)]
    print(f"bench: {load.name}", file=sys.stderr, flush=True)
    return [
        load.name, f"{turns / load.requests:.2f}", f"{turns / chunks:.3f}",
        f"{chunks / reads:.2f}", f"{late[0]:.2f} ms", f"{cpu[0]:.2f} s", f"{cpu[1]:.2f} s",
        f"{late[1]:.2f} ms",
    ]  # fmt: skip


def _run(load: Load, code: str) -> tuple[Watched, list[dict[str, int]]]:
    """One round by a kvload with something changed; what it cost, and its request records."""
    with tempfile.TemporaryDirectory() as name:
        work = Path(name) / "work.jsonl"
        work.write_text("".join(workload(load.requests, load.tokens)), encoding="utf-8")
        truth = Path(name) / "truth.jsonl"
        with serving(truth, ttft_ms=load.ttft_ms, itl_ms=load.itl_ms) as url:
            _, *flags = kvload_command(load, url, str(work))
            done = watch([sys.executable, "-c", code, *flags, "--salt", "none"])
    if done.status != 0:
        raise BenchError(f"{load.name}: status {done.status}: {done.stderr.decode()[-300:]}")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    return done, [row for row in rows if row["record"] == "request"]


def _late_p99(requests: Sequence[dict[str, int]]) -> float:
    """Sent less due, in ms."""
    late = sorted((row["sent_ns"] - row["scheduled_ns"]) / 1e6 for row in requests)
    return late[min(len(late) - 1, round(0.99 * len(late)))]


if __name__ == "__main__":
    main()
