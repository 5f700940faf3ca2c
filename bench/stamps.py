"""How wrong are kvload's stamps? Its records held against the server's log of what it did.

  python -m bench.stamps --runs 3 --load '100 streams'

One row a load, medians of the runs; errors in ms, reported less truth. Client and server have a
processor each where there are two, so that what is left is the client's own error.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.conditions import conditions, conditions_table
from bench.loads import HUNDRED, ONE, OPEN_LOOP, THOUSAND, BenchError, medians, run_kvload

LOADS = {load.name: load for load in (ONE, HUNDRED, THOUSAND, OPEN_LOOP)}


def main() -> int:
    """Measure and print."""
    args = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    args.add_argument("--runs", type=int, default=3, help="runs of each load (default: 3)")
    args.add_argument("--load", action="append", choices=list(LOADS), help="only this one")
    args.add_argument("--share", type=float, default=1.0, help="of the streams and requests")
    args.add_argument("--json", help="write every run's figures to this file")
    asked = args.parse_args()
    print(conditions_table(conditions()))
    print(
        f"\n{'':16} {'TTFT p50':>9} {'p99':>8} {'gap p99':>8} {'TPOT p99':>9}"
        f" {'late p50':>9} {'p99':>7} {'CPU s/100k':>11} {'merged':>7} {'req/s':>8}"
    )
    kept: list[dict[str, Any]] = []
    try:
        for name in asked.load or LOADS:
            load = LOADS[name].shrunk(asked.share)
            runs = [run_kvload(load, affinity=others()).errors for _ in range(asked.runs)]
            kept += [{"load": name, **run} for run in runs]
            print(_row(name, medians(runs)), flush=True)
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    if asked.json:
        Path(asked.json).write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    return 0


def others() -> Sequence[int] | None:
    """The processors that are not the server's; None where there is but one."""
    found = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    return found[:-1] if found[1:] else None


def _row(name: str, row: dict[str, float]) -> str:
    return (
        f"{name:16} {row['ttft_p50']:9.3f} {row['ttft_p99']:8.3f} {row['gap_p99']:8.3f}"
        f" {row['tpot_p99']:9.4f} {row['late_p50']:9.3f} {row['late_p99']:7.3f}"
        f" {row['cpu_per_100k']:11.3f} {row['merged']:7.0f} {row['rps']:8.1f}"
    )


if __name__ == "__main__":
    sys.exit(main())
