"""One run of a peer, or of kvload in the same way: what it reports against the server's log."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from bench.loads import BenchError, Load, kvload_command, rate_rps, workload
from bench.peers import Peer, Told, environment_of
from bench.server import Served, read_truth, serving
from bench.watched import Watched, watch

TIMEOUT_S = 180.0


def run_peer(peer: Peer, load: Load, *, port: int = 0) -> dict[str, float]:
    """Figures of one run; BenchError with what it said last if it failed."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        truth = folder / "truth.jsonl"
        with serving(truth, ttft_ms=load.ttft_ms, itl_ms=load.itl_ms, port=port) as url:
            done = watch(
                peer.command(load, url, folder),
                env=environment_of(peer, os.environ),
                cwd=folder,
                timeout_s=TIMEOUT_S,
            )
        served = read_truth(truth)
        if done.status != 0:
            raise BenchError(f"{peer.name}: status {done.status}: {last_words(done)}")
        try:
            told = peer.read(folder)
        except (KeyError, ValueError, StopIteration, TypeError) as error:
            raise BenchError(f"{peer.name}: its report cannot be read: {error!r}") from error
    return figures_of(told, served, done, load)


def run_kvload_like_a_peer(load: Load, *, port: int = 0) -> dict[str, float]:
    """The same of kvload: TTFT and gaps as kvstats tells them."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        truth, work, records = folder / "truth.jsonl", folder / "work.jsonl", folder / "run.jsonl"
        work.write_text("".join(workload(load.requests, load.tokens)), encoding="utf-8")
        with serving(truth, ttft_ms=load.ttft_ms, itl_ms=load.itl_ms, port=port) as url:
            done = watch(kvload_command(load, url, str(work)), timeout_s=TIMEOUT_S)
        if done.status != 0:
            raise BenchError(f"kvload: status {done.status}: {last_words(done)}")
        records.write_bytes(done.stdout)
        stats = watch(["kvstats", str(records)])
        told = json.loads(stats.stdout)["timings"]
        served = read_truth(truth)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    merged = sum(row["merged_reads"] or 0 for row in rows if row["record"] == "request")
    share = {"merged_share": merged / (load.requests * load.tokens)}
    return share | figures_of(
        Told(
            ttft_p50=told["ttft_s"]["p50"] * 1e3,
            ttft_p99=_ms(told["ttft_s"]["p99"]),
            gap_p99=_ms(told["itl_s"]["p99"]),
        ),
        served,
        done,
        load,
    )


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1e3


def figures_of(told: Told, served: Sequence[Served], done: Watched, load: Load) -> dict[str, float]:
    """Its report less the truth, percentile by percentile, and what it cost.

    `cpu_loaded` is processor time while the server was being asked, `cpu_whole` from the first
    request until it was gone, which holds parsing, statistics and reports too; both per 100,000
    chunks. A peer's own probes before the load are left out: the last requests count.
    """
    if len(served) < load.requests:
        raise BenchError(f"{len(served)} of {load.requests} requests were answered whole")
    loaded = served[-load.requests :]
    first_ns, last_ns = loaded[0].read_ns, max(row.end_ns for row in loaded)
    chunks = sum(len(row.write_ns) for row in loaded)
    if chunks != load.requests * load.tokens:
        raise BenchError(f"it asked for {chunks} chunks, not {load.requests * load.tokens}")
    true_ttft = np.array([row.ttft_s for row in loaded]) * 1e3
    true_gap = np.concatenate([np.diff(row.write_ns) for row in loaded]) / 1e6
    begun, ended = done.cpu_at(first_ns), done.cpu_at(last_ns)
    found = {
        "rps": rate_rps(loaded),
        "cpu_loaded": (ended - begun) / chunks * 1e5,
        "cpu_whole": (done.total_s - begun) / chunks * 1e5,
        "peak_mb": done.peak_mb,
        "wall_s": done.wall_s,
        "start_s": (first_ns - done.start_ns) / 1e9,
    }
    for name, reported, truth, at in (
        ("ttft_p50", told.ttft_p50, true_ttft, 50),
        ("ttft_p99", told.ttft_p99, true_ttft, 99),
        ("gap_p99", told.gap_p99, true_gap, 99),
    ):
        if reported is not None:
            found[name] = reported - float(np.percentile(truth, at))
    return found


def last_words(done: Watched) -> str:
    """The last line that a failed client said."""
    text = (done.stderr + b"\n" + done.stdout).decode(errors="replace")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:200] if lines else "it said nothing"
