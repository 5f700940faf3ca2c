"""kvstats on long streams: beside jq computing one mean, and DuckDB the same percentiles.

  python -m bench.stats                    `make bench-stats`: 1,000 to 1,000,000 requests
  python -m bench.stats --full             and 10,000,000 (15 GB of temporary disk)
  python -m bench.stats --label two-cores  keep figures, page and plot

Streams are made from a seed and written as they are made. All read the same file, one after the
other, in turns; every figure is the median over the runs, a ratio the median of the ratios of each
run. DuckDB is no dependency: make puts it into an environment of its own, and without it the page
says that it was not compared.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from bench.conditions import conditions
from bench.kept import folder_of, keep, table
from bench.watched import Watched, watch

from kvpipe.jsonl import encode
from kvpipe.records import Arrival, Barrier, ClientHealth, End, Host, Request, Run

mpl.use("Agg")
import matplotlib.pyplot as plt  # after the backend is chosen

DUCKDB_PYTHON = Path(__file__).parents[1] / ".venv-peers/duckdb/bin/python"
SIZES = (1_000, 10_000, 100_000, 1_000_000)
FULL = 10_000_000
EXACT_REQUESTS = 200_000  # beyond, percentiles of kvstats come from bins 0.1 % wide
BIN_TOLERANCE = 0.002
ONE = "kvstats, one process"
QUANTILES = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99}
JQ_MEAN = """reduce (inputs | select(.record == "request")) as $one ([0, 0];
  [.[0] + $one.first_token_ns - $one.sent_ns, .[1] + 1]) | .[0] / .[1] / 1e9"""
SQL = """
SELECT {columns} FROM (
  SELECT (first_token_ns - sent_ns) / 1e9 AS ttft
  FROM read_json(?, format = 'newline_delimited',
    columns = {{record: 'VARCHAR', first_token_ns: 'BIGINT', sent_ns: 'BIGINT'}})
  WHERE record = 'request')"""
DUCKDB = """
import duckdb, json, sys
duckdb.execute("SET enable_progress_bar = false")
values = duckdb.execute(sys.argv[2], [sys.argv[1]]).fetchone()
print(json.dumps([float(value) for value in values]))
"""

ENDPOINT = "http://127.0.0.1:8001"
MS = 1_000_000
GROUP_REQUESTS = 8  # a million requests are 125,000 groups
CONTEXT_TOKENS = 8_000
QUESTION_TOKENS = 128
BLOCK_TOKENS = 16
ANSWER_TOKENS = 16


def stream_of(requests: int, seed: int = 1) -> Iterator[bytes]:
    """The lines of a cold round of a well-behaved endpoint, as kvload writes them."""
    chance = random.Random(seed)
    yield encode(_run(requests))
    for index in range(requests):
        yield encode(_request(index, chance))
    yield encode(_end(requests))


def _run(requests: int) -> Run:
    return Run(
        run_id="bench-run-000001",
        experiment_id="bench-stats",
        name="long_context_high_reuse",
        scenario="long_context_high_reuse",
        arm="cold",
        tier="local",
        round_num=1,
        rounds=2,
        endpoint_url=ENDPOINT,
        model="m",
        plan_sha256="a" * 64,
        shape_sha256="b" * 64,
        seed=1,
        calibrated="tokenize",
        requests=requests,
        arrival=Arrival(kind="closed", concurrency=32),
        salt="s",
        salt_way="cache_salt",
        block_tokens=BLOCK_TOKENS,
        tool_version="0.1.0",
        host=Host(name="h", system="Linux", python="3.11", cpus=2),
        started_at="2026-01-02T03:04:05+00:00",
    )


def _request(index: int, chance: random.Random) -> Request:
    """One in `GROUP_REQUESTS` leads a context; the others find it cached."""
    leads = index % GROUP_REQUESTS == 0
    prompt = CONTEXT_TOKENS + QUESTION_TOKENS
    cached = 0 if leads else CONTEXT_TOKENS // BLOCK_TOKENS * BLOCK_TOKENS
    sent = index * 4 * MS + chance.randrange(MS)
    first = sent + round(chance.lognormvariate(0, 0.3) * (900 if leads else 60) * MS)
    stamps = [first]
    for _ in range(ANSWER_TOKENS - 1):
        stamps.append(stamps[-1] + round(chance.expovariate(1) * 4 * MS) + 16 * MS)
    return Request(
        run_id="bench-run-000001",
        index=index,
        request_id=f"bench-stats-1-cold-{index}",
        server_request_id=f"chatcmpl-{chance.getrandbits(128):032x}",
        group=f"context-{index // GROUP_REQUESTS}",
        stratum="leader" if leads else "follower",
        endpoint_url=ENDPOINT,
        scheduled_ns=sent - chance.randrange(200_000),
        start_ns=sent - chance.randrange(100_000),
        sent_ns=sent,
        body_sent_ns=sent + 60_000,
        headers_ns=first - 100_000,
        first_byte_ns=first - 100_000,
        first_chunk_ns=first - 50_000,
        first_token_ns=first,
        first_content_ns=first,
        second_token_ns=stamps[1],
        last_token_ns=stamps[-1],
        end_ns=stamps[-1] + MS,
        chunk_ns=stamps,
        stamp_source="kernel",
        merged_reads=0,
        reads=ANSWER_TOKENS + 1,
        connection="reused",
        body_bytes=4 * prompt,
        prompt_tokens=prompt,
        output_tokens=ANSWER_TOKENS,
        cached_tokens=cached,
        token_source="usage",
        usage={
            "prompt_tokens": prompt,
            "total_tokens": prompt + ANSWER_TOKENS,
            "completion_tokens": ANSWER_TOKENS,
            "prompt_tokens_details": {"cached_tokens": cached},
        },
        new_tokens=prompt if leads else QUESTION_TOKENS,
        floor_tokens=10,
        ideal_in_round_lo=cached,
        ideal_in_round_hi=cached,
        ideal_prior_tokens=0,
        status="ok",
        http_status=200,
        finish_reason="length",
        output_sha256=hashlib.sha256(b"%d" % index).hexdigest(),
    )


def _end(requests: int) -> End:
    return End(
        run_id="bench-run-000001",
        complete=True,
        planned=requests,
        sent=requests,
        ok=requests,
        failed=0,
        wall_s=requests * 0.004,
        barrier=Barrier(state="quiet", waited_s=2.0),
        client=ClientHealth(lateness_p99_s=0.0002, loop_lag_p99_s=0.0003),
    )


class Disagreement(Exception):
    """Two tools made different figures of one file."""


Figures = Mapping[str, float]
"""`mean` and the quantiles of TTFT in seconds, as far as a tool made them."""


def kvstats_of(path: Path, affinity: Sequence[int] | None = None) -> tuple[Watched, Figures]:
    """What kvstats took, and its figures."""
    done = _watched([sys.executable, "-m", "kvstats", str(path)], affinity)
    ttft = json.loads(done.stdout)["timings"]["ttft_s"]
    return done, {name: ttft[name] for name in ("mean", *QUANTILES) if ttft[name] is not None}


def one_process_of(path: Path) -> tuple[Watched, Figures]:
    """The same with one processor, where it starts no reading process."""
    return kvstats_of(path, [min(os.sched_getaffinity(0))])


def jq_of(path: Path) -> tuple[Watched, Figures]:
    """What jq took for the mean alone."""
    done = _watched(["jq", "-n", JQ_MEAN, str(path)])
    return done, {"mean": float(done.stdout)}


def duckdb_of(path: Path) -> tuple[Watched, Figures]:
    """What DuckDB took for the mean and the same percentiles, interpolated as kvstats does."""
    columns = ["avg(ttft)", *(f"quantile_cont(ttft, {one})" for one in QUANTILES.values())]
    query = SQL.format(columns=", ".join(columns))
    done = _watched([str(DUCKDB_PYTHON), "-c", DUCKDB, str(path), query])
    return done, dict(zip(("mean", *QUANTILES), json.loads(done.stdout), strict=True))


TOOLS = {"kvstats": kvstats_of, "jq": jq_of, "duckdb": duckdb_of, ONE: one_process_of}


def _watched(command: Sequence[str], affinity: Sequence[int] | None = None) -> Watched:
    done = watch(command, timeout_s=3_600, affinity=affinity, once=True)
    if done.status:
        raise Disagreement(f"{command[0]} exited {done.status}: {done.stderr.decode()[-500:]}")
    return done


def compare(requests: int, runs: int, tools: Sequence[str], folder: Path) -> list[dict[str, Any]]:
    """Every tool over one file, in turns; a row each of medians. Raises where figures differ."""
    path = folder / f"{requests}.jsonl"
    made = not path.exists()
    if made:
        with path.open("wb") as out:
            out.writelines(stream_of(requests))
    size = path.stat().st_size
    seen: dict[str, list[Watched]] = {name: [] for name in tools}
    figures: dict[str, Figures] = {}
    loads = []
    try:
        for _ in range(runs):
            for name in tools:
                done, figures[name] = TOOLS[name](path)
                seen[name].append(done)
                loads.append(os.getloadavg()[0])
    finally:
        if made:
            path.unlink()
    for name in tools:
        agree(requests, name, figures["kvstats"], figures[name])
    return [
        {
            "requests": requests,
            "bytes": size,
            "tool": name,
            "runs": runs,
            "wall_s": statistics.median(one.wall_s for one in every),
            "cpu_s": statistics.median(one.cpu_s for one in every),
            "peak_mb": max(one.peak_mb for one in every),
            "wall_by_jq": _by(seen, name, lambda one: one.wall_s),
            "cpu_by_jq": _by(seen, name, lambda one: one.cpu_s),
            "load_average": statistics.median(loads),
            "walls_s": [one.wall_s for one in every],
            "cpus_s": [one.cpu_s for one in every],
        }
        for name, every in seen.items()
    ]


def _by(
    seen: Mapping[str, Sequence[Watched]], name: str, figure: Callable[[Watched], float]
) -> float | None:
    """The median over the runs of a tool's figure by jq's in the same run."""
    if "jq" not in seen:
        return None
    pairs = zip(seen[name], seen["jq"], strict=True)
    return statistics.median(figure(mine) / figure(jq) for mine, jq in pairs)


def agree(requests: int, name: str, ours: Figures, theirs: Figures) -> None:
    """Means to rounding; percentiles too while they are exact, then to the width of a bin."""
    for figure, value in theirs.items():
        if figure not in ours:
            continue  # too few requests for it
        exact = figure == "mean" or requests <= EXACT_REQUESTS
        allowed = 1e-9 if exact else BIN_TOLERANCE
        if abs(ours[figure] - value) > allowed * abs(value):
            raise Disagreement(
                f"{requests:,} requests, {figure} of TTFT: kvstats {ours[figure]}, {name} {value}"
            )


def plot(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Time and memory against length, both axes logarithmic."""
    figure, every = plt.subplots(1, 3, figsize=(13, 4), layout="constrained")
    figures = {
        "wall_s": "wall time (s)",
        "cpu_s": "processor time (s)",
        "peak_mb": "most memory, all processes (MB)",
    }
    for axes, (figure_, words) in zip(every, figures.items(), strict=True):
        for name, mark in zip(TOOLS, "os^v", strict=True):
            mine = [row for row in rows if row["tool"] == name]
            n = [row["requests"] for row in mine]
            # Who was gone before the first look has no memory to show.
            axes.plot(n, [row[figure_] or math.nan for row in mine], marker=mark, label=name)
        axes.set(xscale="log", yscale="log", xlabel="requests", ylabel=words)
        axes.grid(visible=True, alpha=0.3)
    every[0].legend()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def goals(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """At a million requests: goal, must, measured, met."""
    at = {row["tool"]: row for row in rows if row["requests"] == 1_000_000}
    if "kvstats" not in at:
        return ["No goal is for fewer than a million requests."]
    ours = at["kvstats"]
    found = [
        ("wall time", 15.0, ours["wall_s"], "s"),
        ("memory of all processes together", 200.0, ours["peak_mb"], "MB"),
    ]
    if ours["wall_by_jq"] is not None:
        found.append(("wall time, of jq's for one mean", 0.5, ours["wall_by_jq"], ""))
        found.append(("processor time, of jq's", 0.5, ours["cpu_by_jq"], ""))
    if ONE in at and at[ONE]["cpu_by_jq"] is not None:
        found.append(("processor time of one process, of jq's", 0.5, at[ONE]["cpu_by_jq"], ""))
    return table(
        ("kvstats, a million requests", "at most", "measured", "met"),
        [
            (name, f"{most:g} {unit}".strip(), f"{got:.3g} {unit}".strip(), _met(got, most))
            for name, most, got, unit in found
        ],
    )


def _met(got: float, most: float) -> str:
    return "yes" if got <= most else f"no, {got / most:.2g} times as much"


def page(rows: Sequence[Mapping[str, Any]], missing: Sequence[str]) -> list[str]:
    """Both tables."""
    lines = [
        "# kvstats on long streams",
        "",
        "kvstats makes all of a round's statistics and findings; jq the mean TTFT alone; DuckDB "
        "the mean and four percentiles of TTFT, from the three columns that these need. Their "
        "figures agree, or there is no page. Ratios are of neighbouring runs, so that whoever "
        "else used the machine slowed both.",
        "",
        *goals(rows),
        "",
    ]
    cells = [
        (f"{row['requests']:,}", f"{row['bytes'] / 1e6:,.0f} MB", str(row["tool"]),
         f"{row['wall_s']:.2f} s", _ratio(row["wall_by_jq"]), f"{row['cpu_s']:.2f} s",
         _ratio(row["cpu_by_jq"]), f"{row['peak_mb']:,.0f} MB" if row["peak_mb"] else "-",
         str(row["runs"]), f"{row['load_average']:.1f}")
        for row in rows
    ]  # fmt: skip
    head = ("requests", "file", "tool", "wall", "of jq's", "processor", "of jq's", "memory")
    lines += table((*head, "runs", "load"), cells)
    lines += [
        "",
        "![Wall time, processor time and memory against the number of requests](stats.png)",
        "",
        "`load` is the system's load average over the last minute, the median of after each run: "
        "on two idle processors it would be about 1. `kvstats, one process` has one processor to "
        "share and starts no reading process; nor does kvstats itself where the load is above 0.75 "
        "a processor. Memory is the most that all processes held at one "
        "look (ten a second), shared pages counted once, or the first one's own high-water mark.",
    ]
    return [*lines, *(f"\nNot compared: {name} is not installed." for name in missing)]


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def versions() -> dict[str, str]:
    """Of the tools that are compared."""
    asked = {
        "jq": ["jq", "--version"],
        "duckdb": [str(DUCKDB_PYTHON), "-c", "import duckdb; print(duckdb.__version__)"],
    }
    found = {}
    for name, command in asked.items():
        if shutil.which(command[0]):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            found[name] = done.stdout.strip()
    return found


def main() -> None:
    """Measure, print, and keep what has a label."""
    parser = argparse.ArgumentParser(description="kvstats beside jq and DuckDB on long streams")
    parser.add_argument("--full", action="store_true", help="ten million requests too (15 GB)")
    parser.add_argument("--most", type=int, default=SIZES[-1], help="longest stream, in requests")
    parser.add_argument("--runs", type=int, default=3, help="runs of each, for the median")
    parser.add_argument(
        "--long-runs", type=int, default=3, help="runs of each with a million requests"
    )
    parser.add_argument(
        "--streams", type=Path, help="folder where N.jsonl may be from an earlier look"
    )
    parser.add_argument("--label", help="keep figures, page and plot under this name")
    options = parser.parse_args()
    there = {
        "kvstats": True,
        "jq": shutil.which("jq") is not None,
        "duckdb": DUCKDB_PYTHON.exists(),
        ONE: hasattr(os, "sched_getaffinity"),
    }
    tools = [name for name, is_there in there.items() if is_there]
    sizes = [size for size in SIZES if size <= options.most] + [FULL] * options.full
    rows: list[dict[str, Any]] = []
    under: dict[str, Any] = {"command": " ".join(["python -m bench.stats", *sys.argv[1:]])}
    under |= conditions() | versions()
    for unused in ("kvload", "compiler", "server"):
        under.pop(unused, None)
    missing = [name for name in there if name not in tools]
    with tempfile.TemporaryDirectory(prefix="kvstats-bench-") as scratch:
        for size in sizes:
            runs = 1 if size == FULL else options.long_runs if size == SIZES[-1] else options.runs
            rows += compare(size, runs, tools, options.streams or Path(scratch))
            print(f"bench: {size:,} requests", file=sys.stderr, flush=True)
            under["load_average_after"] = round(os.getloadavg()[0], 2)
            lines = page(rows, missing)
            if options.label:  # what there is so far is kept if the rest is not waited for
                folder = folder_of(options.label)
                keep(folder, "stats", {"conditions": under, "rows": rows}, lines)
                plot(rows, folder / "stats.png")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
