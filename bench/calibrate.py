"""What kvload alone does on this machine: a calibration for `kvload --calibration FILE`.

  python -m bench.calibrate calibration.json             `make calibrate`

A ladder of loads against a server that is not the limit (bench/flatserver.c; without a C compiler
`kvsim --flat`), the client where a user would have it: not pinned to a processor. Know your
machine's limit before you blame a server.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from bench.conditions import processor
from bench.loads import BenchError, Load, Outcome, medians, run_kvload
from bench.server import server_name

from kvload.host import this_host
from kvpipe.jsonl import encode
from kvpipe.process import version
from kvpipe.records import CalibratedLoad, Calibration

TTFT_MS, ITL_MS, TOKENS = 200.0, 25.0, 40
LADDER = (1, 10, 50, 100, 200, 500, 1000)
RATES = (10.0, 50.0, 200.0)


def loads(streams: Sequence[int], rates: Sequence[float]) -> list[Load]:
    """Two waves of each number of streams; four seconds of each rate."""
    closed = [
        Load(
            name=f"{number} streams", streams=number, requests=max(8, 2 * number),
            ttft_ms=TTFT_MS, itl_ms=ITL_MS, tokens=TOKENS,
        )
        for number in streams
    ]  # fmt: skip
    opened = [
        Load(
            name=f"{rate:g} requests/s", rate_rps=rate, requests=max(8, round(4 * rate)),
            ttft_ms=TTFT_MS, itl_ms=ITL_MS, tokens=TOKENS,
        )
        for rate in rates
    ]  # fmt: skip
    return closed + opened


def main() -> int:
    """Measure, write, and say what it means."""
    args = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    args.add_argument("out", help="file that the record is written to")
    args.add_argument("--runs", type=int, default=3, help="runs of each load (default: 3)")
    args.add_argument("--streams", type=int, nargs="+", default=LADDER)
    args.add_argument("--rates", type=float, nargs="*", default=RATES)
    args.add_argument("--workers", type=int, default=1, help="as you will give it to kvload")
    args.add_argument("--port", type=int, default=0, help="of the server (default: a free one)")
    asked = args.parse_args()
    before = os.getloadavg()[0]
    wanted = [replace(one, workers=asked.workers) for one in loads(asked.streams, asked.rates)]
    print(f"{'':16} {'chunks/s':>9} {'TTFT p50':>9} {'p99':>8} {'gap p99':>8} {'late p99':>9}")
    done = []
    try:
        for load in wanted:
            runs = [run_kvload(load, port=asked.port) for _ in range(asked.runs)]
            done.append(calibrated(load, runs))
            print(_row(load, done[-1]), flush=True)
    except BenchError as error:
        print(f"calibrate: {error}", file=sys.stderr)
        return 2
    record = Calibration(
        made_at=datetime.now(UTC).isoformat(timespec="seconds"),
        host=this_host(),
        processor=processor(),
        load_average=before,
        tool_version=version(),
        server=server_name(),
        loads=done,
    )
    Path(asked.out).write_bytes(encode(record))
    print(f"calibrate: {asked.out}: give it to kvload --calibration {asked.out}", file=sys.stderr)
    if before > 0.5:
        print(
            f"calibrate: the machine was busy before (load average {before:.1f}): the record holds"
            " that too; repeat it when it is quiet",
            file=sys.stderr,
        )
    return 0


def calibrated(load: Load, runs: Sequence[Outcome]) -> CalibratedLoad:
    """The medians of the runs, in seconds."""
    middle = medians([run.errors for run in runs])
    sources = {run.stamp_source for run in runs}
    source = sources.pop() if len(sources) == 1 else "mixed"
    return CalibratedLoad(
        streams=load.streams,
        rate_rps=load.rate_rps,
        workers=load.workers,
        requests=load.requests,
        runs=len(runs),
        chunks_rps=middle["chunks_rps"],
        ttft_s=load.ttft_ms / 1e3,
        itl_s=load.itl_ms / 1e3,
        ttft_error_p50_s=middle["ttft_p50"] / 1e3,
        ttft_error_p99_s=middle["ttft_p99"] / 1e3,
        gap_error_p99_s=middle["gap_p99"] / 1e3,
        tpot_error_p99_s=middle["tpot_p99"] / 1e3,
        lateness_p50_s=middle["late_p50"] / 1e3,
        lateness_p99_s=middle["late_p99"] / 1e3,
        cpu_per_100k_s=middle["cpu_per_100k"],
        cpu_ratio=middle["cpu_ratio"],
        merged_share=middle["merged_share"],
        stamp_source="kernel" if source == "kernel" else "user" if source == "user" else "mixed",
    )


def _row(load: Load, found: CalibratedLoad) -> str:
    return (
        f"{load.name:16} {found.chunks_rps:9,.0f} {found.ttft_error_p50_s * 1e3:9.3f}"
        f" {found.ttft_error_p99_s * 1e3:8.3f} {found.gap_error_p99_s * 1e3:8.3f}"
        f" {found.lateness_p99_s * 1e3:9.3f}"
    )


if __name__ == "__main__":
    sys.exit(main())
