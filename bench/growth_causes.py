"""Why a cost bends: turns of the event loop, reads, and what waiting to the microsecond costs.

  python -m bench.growth_causes > causes.md

Counts, beside the sweeps' seconds: how many chunks a read brought, how often kvload's event loop
turned, and both for a kvload that does not yield its way through the last millisecond before a
request is due (`drive.TICK_NS`), but sleeps as long as the loop's selector makes it.
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
COUNTED = """
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
PLAIN = "from kvload.cli import main; main()"
WORDS = """`turns` are those of kvload's event loop. *Sleeping* is the same kvload without the
yielding of the last millisecond before a request is due: what it saves is what punctuality costs.
Loads are those of the sweeps; processor time is with starting and ending, the median of three."""
SLEEPING = "import kvload.drive; kvload.drive.TICK_NS = 0; "


def main() -> None:
    """One table, and the conditions."""
    loads: Sequence[Load] = [
        *(streams_load(at) for at in (64, 256, 1024, 4096, 8192)),
        *(rate_load(at) for at in (32, 128, 512, 1024, 2048, 4096)),
    ]
    print("# Why the cost of streams and of rate bends\n")
    print(f"{' '.join(WORDS.split())}\n")
    print("\n".join(causes(loads, RUNS)))
    under = {"command": "python -m bench.growth_causes", **conditions()}
    print(f"\n{conditions_table(under)}")


def causes(loads: Sequence[Load], runs: int) -> list[str]:
    """A row for each load."""
    head = ("load", "chunks a read", "turns a chunk", "processor", "late p99")
    rows = [_row(load, runs) for load in loads]
    return table((*head, "turns, sleeping", "processor, sleeping", "late p99, sleeping"), rows)


def _row(load: Load, runs: int) -> list[str]:
    """The whole client, and the one that sleeps, in turns: who else is at work slows both."""
    chunks = load.requests * load.tokens
    _, requests = _run(load, COUNTED)
    reads = sum(row["reads"] for row in requests)
    every: dict[str, list[tuple[Watched, list[dict[str, int]]]]] = {"": [], SLEEPING: []}
    for _ in range(runs):
        for change, seen in every.items():
            seen.append(_run(load, change + PLAIN))
    cells = [load.name, f"{chunks / reads:.2f}"]
    for change, seen in every.items():
        cells += [
            f"{_turns(load, change) / chunks:.3f}",
            f"{statistics.median(done.total_s for done, _ in seen):.2f} s",
            f"{statistics.median(_late_p99(rows) for _, rows in seen):.2f} ms",
        ]
    print(f"bench: {load.name}", file=sys.stderr, flush=True)
    return cells


def _turns(load: Load, change: str) -> int:
    done, _ = _run(load, change + COUNTED)
    counted = re.search(r"turns (\d+)", done.stderr.decode())
    if counted is None:
        raise BenchError(f"{load.name}: no turns were counted")
    return int(counted[1])


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
