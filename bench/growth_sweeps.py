"""The six sweeps: what is varied, under which load, and one run of each point.

What counts is the processor time and memory of kvload (or kvstats) and of all that it started; the
server is another process and is not counted.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.loads import BenchError, Load, figures, kvload_command, workload
from bench.server import read_truth, serving
from bench.stats import stream_of
from bench.watched import Watched, watch

Figures = Mapping[str, float]
LATE = ("late_p50", "late_p99", "ttft_p99", "merged_share")
SPARE_FILES = 200  # beside the streams' own


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """One variable; each run of a point gives `cpu_s`, `peak_mb`, `wall_s` and counts."""

    name: str
    axis: str
    """Of the plot: the variable and its unit."""
    points: Sequence[int]
    measure: Callable[[int, Path], Figures]
    """One run; files that its other runs need too are kept in the folder."""
    load: str
    """The load in a sentence, and what stays the same."""
    command: str
    cpu_slope: float
    """What processor time does where nothing is wrong: 1 grows in proportion, 0 stays."""
    memory_slope: float
    smallest: Callable[[Path], Figures]
    """A run with hardly any load: what starting and ending costs."""
    starts: Callable[[int], int] = lambda _: 1
    """How many times that is spent at a point."""
    long_from: int = sys.maxsize
    """From here a run is so long that one is enough."""


def streams_load(streams: int) -> Load:
    """Ten tokens a second from every stream."""
    return Load(
        name=f"{streams} streams", streams=streams, requests=streams, ttft_ms=500.0, itl_ms=100.0,
        tokens=16,
    )  # fmt: skip


def rate_load(rate: int) -> Load:
    """An open loop for two seconds."""
    return Load(
        name=f"{rate} requests/s", rate_rps=float(rate), requests=2 * rate, ttft_ms=50.0,
        itl_ms=20.0, tokens=4,
    )  # fmt: skip


def workers_load(workers: int) -> Load:
    """The same thousand streams for any number of workers."""
    return Load(
        name=f"{workers} workers", streams=1024, requests=2048, ttft_ms=200.0, itl_ms=100.0,
        tokens=8, workers=workers,
    )  # fmt: skip


PROMPTS, PROMPT_STREAMS = 256, 4
PLAN, SHARD_STREAMS = 4096, 512
ONE = Load(name="one request", streams=1, requests=1, ttft_ms=1.0, itl_ms=1.0, tokens=2)


def loaded(load: Load, folder: Path, work: Path | None = None) -> dict[str, float]:
    """One round of kvload under a load, held against the server's log; BenchError if it failed."""
    if work is None:
        work = folder / "work.jsonl"
        work.write_text("".join(workload(load.requests, load.tokens)), encoding="utf-8")
    truth = folder / "truth.jsonl"
    with serving(truth, ttft_ms=load.ttft_ms, itl_ms=load.itl_ms) as url:
        command = [*kvload_command(load, url, str(work)), "--salt", "none"]
        done = watch(command, once=load.workers > 1)
    told = _records(done)
    requests = [row for row in told if row["record"] == "request"]
    end = next(row for row in told if row["record"] == "end")
    served = read_truth(truth)
    found = figures(load, requests, end, served, done)
    chunks = float(sum(len(row.write_ns) for row in served))
    return _cost([done], len(requests), chunks) | {name: found[name] for name in LATE}


def _records(done: Watched) -> list[dict[str, Any]]:
    if done.status != 0:
        said = done.stderr.decode(errors="replace").strip()[-300:]
        raise BenchError(f"{done.command[0]}: status {done.status}: {said}")
    return [json.loads(line) for line in done.stdout.splitlines()]


def _cost(every: Sequence[Watched], requests: int, chunks: float) -> dict[str, float]:
    return {
        "cpu_s": sum(one.total_s for one in every),
        "peak_mb": sum(one.peak_mb for one in every),
        "wall_s": max(one.end_ns for one in every) / 1e9 - min(one.start_ns for one in every) / 1e9,
        "requests": float(requests),
        "chunks": chunks,
    }


def _plan(folder: Path, requests: int, context_tokens: int, output_tokens: int) -> Path:
    """A plan of kvplan's, made once."""
    path = folder / f"plan-{requests}-{context_tokens}.jsonl"
    if not path.exists():
        command = [
            "kvplan", "--scenario", "cold_start", "--requests", str(requests), "--sentinels", "0",
            "--context-tokens", str(context_tokens), "--output-tokens", str(output_tokens),
        ]  # fmt: skip
        with path.open("wb") as out:
            subprocess.run(command, stdout=out, stderr=subprocess.DEVNULL, check=True)
    return path


def prompts(tokens: int, folder: Path) -> Figures:
    """Whole prompts, shared by nobody; one length, whatever that costs."""
    for old in folder.glob("plan-*.jsonl"):
        if f"-{tokens}." not in old.name:
            old.unlink()  # the longest has 130 MB
    load = Load(
        name=f"prompts of {tokens}", streams=PROMPT_STREAMS, requests=PROMPTS, ttft_ms=1.0,
        itl_ms=1.0, tokens=4,
    )  # fmt: skip
    return loaded(load, folder, _plan(folder, PROMPTS, tokens, 4))


def shards(count: int, folder: Path) -> Figures:
    """One plan by several kvloads at once; cost and memory of all of them together."""
    plan = _plan(folder, PLAN, 128, 4)
    with serving(folder / "truth.jsonl", ttft_ms=50.0, itl_ms=20.0) as url:
        commands = [
            [
                "kvload", "-q", "--url", url, "--workload", str(plan), "--round", "1",
                "--warmup", "0", "--salt", "none", "--shard", f"{number}/{count}",
                "--concurrency", str(max(1, SHARD_STREAMS // count)),
            ]
            for number in range(count)
        ]  # fmt: skip
        with ThreadPoolExecutor(count) as pool:
            every = list(pool.map(watch, commands))
    told = [row for done in every for row in _records(done) if row["record"] == "request"]
    if len({row["index"] for row in told}) != PLAN:
        raise BenchError(f"{count} shards sent {len(told)} of {PLAN} requests")
    return _cost(every, PLAN, float(sum(len(row["chunk_ns"]) for row in told)))


def records(requests: int, folder: Path) -> Figures:
    """kvstats in one process: how many it starts elsewhere depends on who else is busy."""
    path = folder / f"{requests}.jsonl"
    if not path.exists():
        for old in folder.glob("*.jsonl"):
            old.unlink()  # two long ones might not fit
        with path.open("wb") as out:
            out.writelines(stream_of(requests))
    alone = [min(os.sched_getaffinity(0))] if hasattr(os, "sched_getaffinity") else None
    done = watch(
        [sys.executable, "-m", "kvstats", str(path)], timeout_s=600, affinity=alone, once=True
    )
    (stats,) = _records(done)
    if stats["record"] != "round_stats":
        raise BenchError(f"kvstats wrote a {stats['record']}")
    return _cost([done], requests, 0.0)


def one_request(folder: Path) -> Figures:
    """What kvload takes to start and to end; with bare lines numpy is among it."""
    return loaded(ONE, folder)


def one_planned(folder: Path) -> Figures:
    """The same with a plan of kvplan's."""
    return loaded(ONE, folder, _plan(folder, 1, 100, 2))


def few_records(folder: Path) -> Figures:
    """What kvstats takes to start and to end."""
    return records(10, folder)


def most_streams() -> int:
    """As many as this process' children may hold open."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0] - SPARE_FILES


KVLOAD = "kvload --url URL --workload FILE --rounds 1 --warmup 0 --salt none"
SWEEPS: Sequence[Sweep] = (
    Sweep(
        name="streams", axis="streams at once", points=(1, 8, 64, 256, 1024, 4096, 8192),
        measure=lambda at, folder: loaded(streams_load(at), folder), smallest=one_request,
        load="one request a stream: first token after 500 ms, 16 tokens, one every 100 ms",
        command=f"{KVLOAD} --concurrency N", cpu_slope=1.0, memory_slope=1.0,
    ),
    Sweep(
        name="rate", axis="requests a second", points=(4, 32, 128, 512, 1024, 2048, 4096),
        measure=lambda at, folder: loaded(rate_load(at), folder), smallest=one_request,
        load="two seconds of constant arrivals: first token after 50 ms, 4 tokens, one every 20 ms",
        command=f"{KVLOAD} --rate N --arrival constant", cpu_slope=1.0, memory_slope=1.0,
    ),
    Sweep(
        name="prompts", axis="prompt length (tokens)",
        points=(100, 400, 1600, 6400, 25_600, 128_000), measure=prompts, smallest=one_planned,
        load=f"{PROMPTS} prompts of kvplan's that share nothing, {PROMPT_STREAMS} at once, answered"
        " with 4 tokens in 4 ms; kvplan's own time is not counted",
        command=f"{KVLOAD} --concurrency {PROMPT_STREAMS}", cpu_slope=1.0, memory_slope=1.0,
    ),
    Sweep(
        name="workers", axis="workers", points=(1, 2, 3, 4, 6, 8),
        measure=lambda at, folder: loaded(workers_load(at), folder), smallest=one_request,
        load="the same 2,048 requests over 1,024 streams: first token after 200 ms, 8 tokens, one"
        " every 100 ms",
        command=f"{KVLOAD} --concurrency 1024 --workers N", cpu_slope=0.0, memory_slope=1.0,
    ),
    Sweep(
        name="shards", axis="shards", points=(1, 2, 3, 4, 6, 8), measure=shards,
        smallest=one_planned, starts=lambda count: count,
        load=f"one plan of {PLAN:,} requests over {SHARD_STREAMS} streams by N kvloads at the same"
        " time: first token after 50 ms, 4 tokens, one every 20 ms; cost of all together",
        command=f"{KVLOAD} --shard I/N --concurrency {SHARD_STREAMS}/N", cpu_slope=0.0,
        memory_slope=1.0,
    ),
    Sweep(
        name="records", axis="requests in the file",
        points=(1000, 3162, 10_000, 31_623, 100_000, 316_228, 1_000_000),
        measure=records, smallest=few_records, long_from=1_000_000,
        load="a cold round of 16 tokens a request, 1.5 kB a line, read on one processor",
        command="kvstats FILE", cpu_slope=1.0, memory_slope=0.0,
    ),
)  # fmt: skip
