"""Loads of the bench, kvload under one of them, and its records held against the server's log.

Only durations are compared: a request's TTFT as kvload reports it less the time from the server's
having read the request to its writing the first chunk; the same for the gaps between chunks and for
TPOT. Errors are in ms, reported less truth.
"""

from __future__ import annotations

import json
import random
import statistics
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from bench.server import Served, read_truth, serving
from bench.watched import Watched, watch


class BenchError(Exception):
    """A run that measured nothing; the message is for people."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """How many streams or arrivals a second, and what the server does with each."""

    name: str
    streams: int | None = None
    rate_rps: float | None = None
    requests: int
    ttft_ms: float
    itl_ms: float
    tokens: int
    workers: int = 1

    def shrunk(self, share: float) -> Load:
        """The same shape with fewer streams, requests and chunks: to see that the bench works."""
        if share >= 1:
            return self
        streams = None if self.streams is None else max(1, round(self.streams * share))
        least = 8 if streams is None else 2 * streams
        return replace(
            self,
            streams=streams,
            requests=max(least, round(self.requests * share)),
            tokens=max(4, round(self.tokens * min(1.0, 4 * share))),
        )


FLAT_OUT = Load(
    name="64 streams flat out", streams=64, requests=8192, ttft_ms=0.0, itl_ms=0.0, tokens=64
)
ONE = Load(name="1 stream", streams=1, requests=20, ttft_ms=200.0, itl_ms=20.0, tokens=64)
HUNDRED = Load(name="100 streams", streams=100, requests=400, ttft_ms=200.0, itl_ms=20.0, tokens=64)
THOUSAND = Load(
    name="1,000 streams", streams=1000, requests=2000, ttft_ms=200.0, itl_ms=50.0, tokens=64
)
THOUSAND_BY_TWO = replace(THOUSAND, name="1,000 streams, two workers", workers=2)
FIVE_THOUSAND = Load(
    name="5,000 streams, two workers", streams=5000, requests=10000, ttft_ms=500.0, itl_ms=250.0,
    tokens=24, workers=2,
)  # fmt: skip
OPEN_LOOP = Load(
    name="open loop 200/s", rate_rps=200.0, requests=4000, ttft_ms=50.0, itl_ms=20.0, tokens=8
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One run of kvload under a load."""

    errors: Mapping[str, float]
    """Errors, lateness, rates and costs by name; see `figures`."""
    command: Sequence[str]
    findings: Sequence[str]
    stamp_source: str


def run_kvload(load: Load, *, affinity: Sequence[int] | None = None, port: int = 0) -> Outcome:
    """One round of kvload against a fresh server; BenchError if it failed."""
    with tempfile.TemporaryDirectory() as folder:
        truth, work = Path(folder) / "truth.jsonl", Path(folder) / "work.jsonl"
        work.write_text("".join(workload(load.requests, load.tokens)), encoding="utf-8")
        with serving(truth, ttft_ms=load.ttft_ms, itl_ms=load.itl_ms, port=port) as url:
            command = kvload_command(load, url, str(work))
            done = watch(command, affinity=affinity)
        if done.status != 0:
            raise BenchError(f"{' '.join(command)}: status {done.status}: {_said(done)}")
        told = [json.loads(line) for line in done.stdout.splitlines()]
        served = read_truth(truth)
        alarm = _client_limited(done.stdout, Path(folder) / "records.jsonl")
    requests = [row for row in told if row["record"] == "request"]
    end = next(row for row in told if row["record"] == "end")
    sources = sorted({row["stamp_source"] for row in requests})
    return Outcome(
        errors=figures(load, requests, end, served, done) | _alarms(load, alarm, told, served),
        command=_public(command),
        findings=[one["code"] for one in end["findings"]],
        stamp_source=sources[0] if len(sources) == 1 else "mixed",
    )


def kvload_command(load: Load, url: str, work: str) -> list[str]:
    """What is run; records go to standard output as a user would have them."""
    if load.rate_rps is not None:
        shape = ["--rate", f"{load.rate_rps:g}", "--arrival", "constant"]
    else:
        shape = ["--concurrency", str(load.streams)]
    if load.workers > 1:
        shape += ["--workers", str(load.workers)]
    return [
        *("kvload", "-q", "--url", url, "--workload", work, "--rounds", "1"),
        *("--warmup", "0", "--timeout", "120", *shape),
    ]


def _public(command: Sequence[str]) -> list[str]:
    """The command without the names of a temporary folder and port."""
    shown = list(command)
    shown[shown.index("--url") + 1] = "URL"
    shown[shown.index("--workload") + 1] = "FILE"
    return shown


def _said(done: Watched) -> str:
    lines = done.stderr.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing"


def workload(requests: int, tokens: int) -> Iterator[str]:
    """Prompts of sixty numbers, about 130 tokens each, all of them different."""
    chance = random.Random(1)
    for number in range(requests):
        words = " ".join(str(chance.randrange(10**6)) for _ in range(60))
        yield json.dumps({"prompt": f"{number} {words}", "max_tokens": tokens}) + "\n"


def figures(
    load: Load,
    requests: Sequence[Mapping[str, Any]],
    end: Mapping[str, Any],
    served: Sequence[Served],
    done: Watched,
) -> dict[str, float]:
    """Join the two logs by request id, subtract, and add what it cost.

    `cpu_per_100k`: processor seconds from the first request read until kvload was gone, so that
    parsing and writing count and starting up does not. `ttft_*` over all requests, the P99 being of
    absolute errors. `rps` by the server's log.
    """
    fine = [row for row in requests if row["status"] == "ok"]
    if len(fine) != load.requests:
        raise BenchError(f"{load.name}: {len(fine)} of {load.requests} requests succeeded")
    known = {row.request_id: row for row in served}
    ttft, gaps, tpot = [], [], []
    for row in fine:
        if row["request_id"] not in known:
            raise BenchError(f"{load.name}: {row['request_id']} is not in the server's log")
        written, seen = known[row["request_id"]].write_ns, row["chunk_ns"]
        if len(written) != len(seen):
            raise BenchError(f"{load.name}: {len(seen)} chunks seen, {len(written)} written")
        begun = written[0] - known[row["request_id"]].read_ns
        ttft.append((row["first_token_ns"] - row["sent_ns"]) - begun)
        gaps.append(np.diff(seen) - np.diff(written))
        tpot.append(((seen[-1] - seen[0]) - (written[-1] - written[0])) / max(1, len(seen) - 1))
    chunks = sum(len(row.write_ns) for row in served)
    first_ns, last_ns = served[0].read_ns, max(row.end_ns for row in served)
    late = [row["sent_ns"] - row["scheduled_ns"] for row in fine]
    merged = sum(row["merged_reads"] for row in fine)
    cost_s = done.total_s - done.cpu_at(first_ns)
    return {
        "ttft_p50": _quantile(ttft, 50),
        "ttft_p99": _quantile(ttft, 99, absolute=True),
        "gap_p99": _quantile(np.concatenate(gaps), 99, absolute=True),
        "tpot_p99": _quantile(tpot, 99, absolute=True),
        "late_p50": _quantile(late, 50),
        "late_p99": _quantile(late, 99),
        "late_max": float(max(late)) / 1e6,
        "cpu_per_100k": cost_s / chunks * 1e5,
        "cpu_ratio": (done.cpu_at(last_ns) - done.cpu_at(first_ns)) / ((last_ns - first_ns) / 1e9),
        "chunks_rps": chunks / ((last_ns - first_ns) / 1e9),
        "merged": float(merged),
        "merged_share": merged / chunks,
        "rps": rate_rps(served),
        "arrivals_rps": arrivals_rps(fine),
        "in_flight": float(_in_flight(served)),
        "peak_mb": done.peak_mb,
    }


def _client_limited(records: bytes, path: Path) -> bool:
    """Whether kvstats doubts the client of this run."""
    path.write_bytes(records)
    done = watch(["kvstats", str(path)])
    if done.status not in (0, 1):
        raise BenchError(f"kvstats: status {done.status}: {_said(done)}")
    found = json.loads(done.stdout.splitlines()[0])["findings"]
    return any(one["code"] == "client_limited" for one in found)


def _alarms(
    load: Load, alarm: bool, told: Sequence[Mapping[str, Any]], served: Sequence[Served]
) -> dict[str, float]:
    """1 or 0: the client was doubted although its P99 of TTFT error was small, or the reverse.

    Small is at most 5 ms and 5 % of the TTFT, as kvstats has it for lateness.
    """
    known = {row.request_id: row.ttft_s for row in served}
    errors = [
        abs((row["first_token_ns"] - row["sent_ns"]) / 1e9 - known[row["request_id"]])
        for row in told
        if row["record"] == "request"
    ]
    wrong = float(np.percentile(errors, 99)) > max(0.005, 0.05 * load.ttft_ms / 1e3)
    return {"false_alarm": float(alarm and not wrong), "missed_alarm": float(wrong and not alarm)}


def rate_rps(served: Sequence[Served]) -> float:
    """Answers a second, from the first request read to the last answer written."""
    return len(served) / ((max(row.end_ns for row in served) - served[0].read_ns) / 1e9)


def arrivals_rps(requests: Sequence[Mapping[str, Any]]) -> float:
    """Requests sent a second, by the gaps between them; 0 below two."""
    sent = sorted(row["sent_ns"] for row in requests)
    return (len(sent) - 1) / ((sent[-1] - sent[0]) / 1e9) if len(sent) > 1 else 0.0


def _in_flight(served: Sequence[Served]) -> int:
    """The most requests that the server held at one moment."""
    moves = sorted([(row.read_ns, 1) for row in served] + [(row.end_ns, -1) for row in served])
    held = most = 0
    for _, move in moves:
        held += move
        most = max(most, held)
    return most


def _quantile(values_ns: Sequence[float] | np.ndarray, at: int, *, absolute: bool = False) -> float:
    """In ms."""
    values = np.asarray(values_ns) / 1e6
    return float(np.percentile(np.abs(values) if absolute else values, at))


def medians(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Each figure's median over the runs."""
    return {key: statistics.median(row[key] for row in rows) for key in rows[0]}
