"""How wrong are kvload's stamps? Its records held against the server's log of what it did.

The server is bench/flatserver.c, which is cheap enough not to be the limit; where there is no C
compiler it is `kvsim --flat`, whose own lateness in reading then counts as the client's error.
Both logs stand on one clock (CLOCK_MONOTONIC on this machine), and only durations are compared: a
request's TTFT as kvload reports it less the time from the server's having read the request to its
writing the first chunk; the same for the gaps between chunks and for TPOT.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

FLATSERVER = Path(__file__).with_name("build") / "flatserver"
SHAPES = {
    # name: streams, requests, TTFT ms, ITL ms, output tokens
    "1 stream": (1, 20, 200.0, 20.0, 64),
    "100 streams": (100, 400, 200.0, 20.0, 64),
    "1,000 streams": (1000, 2000, 200.0, 50.0, 64),
}
RATE_SHAPE = ("open loop 200/s", 200.0, 2000, 50.0, 20.0, 8)


@dataclass(frozen=True)
class Errors:
    """Errors of one run, in ms: reported less truth."""

    ttft: np.ndarray
    gap: np.ndarray
    tpot: np.ndarray
    lateness: np.ndarray
    chunks: int
    merged: int
    cpu_s: float
    achieved_rps: float


def main() -> int:
    args = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    args.add_argument("--runs", type=int, default=3, help="runs of each shape (default: 3)")
    args.add_argument("--shape", action="append", choices=[*SHAPES, RATE_SHAPE[0]])
    args.add_argument("--json", help="write every run's figures to this file")
    asked = args.parse_args()
    shapes = asked.shape or [*SHAPES, RATE_SHAPE[0]]
    print(f"{platform.machine()}, {len_cpus()} CPUs, Python {platform.python_version()},", end=" ")
    print(f"{version()}; medians of {asked.runs} runs; errors in ms, reported less truth")
    print(f"against {'bench/flatserver.c' if compiled() else 'kvsim --flat (no C compiler)'}")
    print(
        f"\n{'':16} {'TTFT p50':>9} {'p99':>8} {'gap p99':>8} {'TPOT p99':>9}"
        f" {'late p50':>9} {'p99':>7} {'CPU s/100k':>11} {'merged':>7} {'req/s':>8}"
    )
    kept: list[dict[str, Any]] = []
    for shape in shapes:
        runs = [measure(shape) for _ in range(asked.runs)]
        rows = [row_of(run) for run in runs]
        kept += [{"shape": shape, **row} for row in rows]
        middle = {key: statistics.median(row[key] for row in rows) for key in rows[0]}
        print(
            f"{shape:16} {middle['ttft_p50']:9.3f} {middle['ttft_p99']:8.3f}"
            f" {middle['gap_p99']:8.3f} {middle['tpot_p99']:9.4f} {middle['late_p50']:9.3f}"
            f" {middle['late_p99']:7.3f} {middle['cpu_per_100k']:11.3f}"
            f" {middle['merged']:7.0f} {middle['rps']:8.1f}",
            flush=True,
        )
    if asked.json:
        Path(asked.json).write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    return 0


def len_cpus() -> int:
    return len(os.sched_getaffinity(0))


def version() -> str:
    return subprocess.run(
        ["kvload", "--version"], capture_output=True, text=True, check=True
    ).stdout.strip()


def measure(shape: str) -> Errors:
    """One run of a shape against a fresh kvsim."""
    with tempfile.TemporaryDirectory() as folder:
        truth = Path(folder) / "truth.jsonl"
        if shape in SHAPES:
            streams, requests, ttft, itl, tokens = SHAPES[shape]
            load = ["--concurrency", str(streams)] if streams > 1 else []
        else:
            _, rate, requests, ttft, itl, tokens = RATE_SHAPE
            load = ["--rate", str(rate), "--arrival", "constant"]
        work = Path(folder) / "work.jsonl"
        work.write_text("".join(workload(requests, tokens)), encoding="utf-8")
        with server(str(truth), ttft, itl) as url:
            done = subprocess.run(
                [
                    *("kvload", "-q", "--url", url, "--workload", str(work), "--rounds", "1"),
                    *("--warmup", "0", "--timeout", "120", *load),
                ],
                capture_output=True,
                check=False,
                preexec_fn=lambda: pin(0, last=False),
            )
        if done.returncode != 0:
            sys.exit(f"bench: kvload failed: {done.stderr.decode()}")
        return compare(done.stdout, truth)


def workload(requests: int, tokens: int) -> Iterator[str]:
    chance = random.Random(1)
    for number in range(requests):
        words = " ".join(str(chance.randrange(10**6)) for _ in range(60))
        yield json.dumps({"prompt": f"{number} {words}", "max_tokens": tokens}) + "\n"


@contextmanager
def server(truth: str, ttft_ms: float, itl_ms: float) -> Iterator[str]:
    """The C server, or kvsim where no compiler is; its URL while it runs."""
    times = ["--ttft-ms", str(ttft_ms), "--itl-ms", str(itl_ms), "--truth", truth]
    command = [str(FLATSERVER), *times] if compiled() else ["kvsim", "--flat", *times]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    pin(process.pid, last=True)
    try:
        yield json.loads(process.stdout.readline())["url"]
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


def pin(pid: int, *, last: bool) -> None:
    """The server on the last processor, the client on the others.

    Else the kernel wakes the server on the client's, where it waits until a burst of sends is over.
    """
    if hasattr(os, "sched_setaffinity") and (cpus := sorted(os.sched_getaffinity(0)))[1:]:
        os.sched_setaffinity(pid, cpus[-1:] if last else cpus[:-1])


@cache
def compiled() -> bool:
    """Build bench/flatserver.c if there is a compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return False
    FLATSERVER.parent.mkdir(exist_ok=True)
    source = Path(__file__).with_name("flatserver.c")
    subprocess.run([compiler, "-O2", "-o", str(FLATSERVER), str(source)], check=True)
    return True


def compare(records: bytes, truth: Path) -> Errors:
    """Join the two logs by request id and subtract."""
    told = [json.loads(line) for line in records.splitlines()]
    requests = [r for r in told if r["record"] == "request" and r["status"] == "ok"]
    end = next(r for r in told if r["record"] == "end")
    known = {}
    for line in truth.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        known[row["request_id"]] = row
    missing = [r["request_id"] for r in requests if r["request_id"] not in known]
    if missing or not requests:
        sys.exit(f"bench: {len(missing)} of {len(requests)} requests are not in the truth log")
    ttft, gaps, tpot = [], [], []
    for request in requests:
        row = known[request["request_id"]]
        written, seen = row["write_ns"], request["chunk_ns"]
        if len(written) != len(seen):
            sys.exit(f"bench: {len(seen)} chunks seen, {len(written)} written")
        ttft.append(
            (request["first_token_ns"] - request["sent_ns"]) - (written[0] - row["read_ns"])
        )
        gaps.append(np.diff(seen) - np.diff(written))
        tpot.append(((seen[-1] - seen[0]) - (written[-1] - written[0])) / max(1, len(seen) - 1))
    return Errors(
        ttft=np.array(ttft) / 1e6,
        gap=np.concatenate(gaps) / 1e6,
        tpot=np.array(tpot) / 1e6,
        lateness=np.array([r["sent_ns"] - r["scheduled_ns"] for r in requests]) / 1e6,
        chunks=sum(len(r["chunk_ns"]) for r in requests),
        merged=sum(r["merged_reads"] for r in requests),
        cpu_s=end["client"]["cpu_s"],
        achieved_rps=len(requests) / end["wall_s"],
    )


def row_of(run: Errors) -> dict[str, float]:
    return {
        "ttft_p50": float(np.percentile(run.ttft, 50)),
        "ttft_p99": float(np.percentile(np.abs(run.ttft), 99)),
        "gap_p99": float(np.percentile(np.abs(run.gap), 99)),
        "tpot_p99": float(np.percentile(np.abs(run.tpot), 99)),
        "late_p50": float(np.percentile(run.lateness, 50)),
        "late_p99": float(np.percentile(run.lateness, 99)),
        "cpu_per_100k": run.cpu_s / run.chunks * 1e5,
        "merged": float(run.merged),
        "rps": run.achieved_rps,
    }


if __name__ == "__main__":
    sys.exit(main())
