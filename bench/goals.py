"""Every goal of the client in one run: goal, must, stretch, measured, met.

  python -m bench.goals --label two-cores                `make bench`

Loads take their turns in each of the runs, and every figure is the median over the runs. The ratios
to `vllm bench serve` need its environment (bench/install-peers.sh); without it they stand there as
not compared.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.against import run_kvload_like_a_peer, run_peer
from bench.conditions import conditions
from bench.kept import folder_of, keep, table
from bench.loads import (
    FIVE_THOUSAND,
    FLAT_OUT,
    HUNDRED,
    OPEN_LOOP,
    THOUSAND,
    THOUSAND_BY_TWO,
    BenchError,
    Load,
    kvload_command,
    medians,
    run_kvload,
    workload,
)
from bench.peers import VLLM
from bench.server import serving
from bench.stamps import others
from bench.watched import watch

Figures = Mapping[str, float]
PINNED = (HUNDRED, THOUSAND, OPEN_LOOP)
"""Loads of which stamps are judged: client and server have a processor each where there are two."""


@dataclass(slots=True)
class Results:
    """Every run's figures by case, and why a case was not measured."""

    runs: dict[str, list[Figures]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)

    def turn(self, case: str, measure: Callable[[], Figures]) -> None:
        """One run of a case; one that failed is not tried again."""
        if case in self.skipped:
            return
        began = time.monotonic()
        try:
            self.runs.setdefault(case, []).append(measure())
        except BenchError as error:
            self.skipped[case] = str(error)
        said = self.skipped.get(case, f"{time.monotonic() - began:.0f} s")
        print(f"bench: {case}: {said}", file=sys.stderr, flush=True)

    def median(self, case: str, figure: str) -> float | None:
        """Over the runs; null where it was not measured."""
        seen = self.runs.get(case)
        return medians(seen)[figure] if seen and case not in self.skipped else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One figure of a goal: what it may be at most."""

    case: str
    figure: str
    must: float
    stretch: float | None
    unit: str
    form: str
    absolute: bool = True
    over: str | None = None
    """Case by whose figure `over_figure` it is divided."""
    over_figure: str = ""
    at_least: bool = False
    worst: bool = False
    """The largest of the runs counts, not their median."""

    def value(self, results: Results) -> float | None:
        """As measured; null where it was not."""
        found = results.median(self.case, self.figure)
        if found is not None and self.worst:
            found = max(run[self.figure] for run in results.runs[self.case])
        if found is None or self.over is None:
            return found
        below = results.median(self.over, self.over_figure)
        return None if below is None else found / below

    def holds(self, value: float, limit: float) -> bool:
        """Whether the value is within a limit."""
        if self.at_least:
            return value >= limit
        return (abs(value) if self.absolute else value) <= limit


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """A row of the table; it is met if all of its parts are."""

    name: str
    must: str
    stretch: str
    parts: Sequence[Part]


def _stamps(case: str, p50: tuple[float, float], p99: tuple[float, float]) -> list[Part]:
    return [
        Part(case=case, figure="ttft_p50", must=p50[0], stretch=p50[1], unit="ms", form=".3f"),
        Part(case=case, figure="ttft_p99", must=p99[0], stretch=p99[1], unit="ms", form=".3f"),
    ]


def _start(case: str, must: float, stretch: float) -> Part:
    return Part(case=case, figure="wall_s", must=must, stretch=stretch, unit="s", form=".2f")


KVLOAD_FLAT, VLLM_FLAT = f"kvload, {FLAT_OUT.name}", f"{VLLM.name}, {FLAT_OUT.name}"
HELP, ONE_REQUEST = "--help", "a run of one request"
GOALS: Sequence[Goal] = (
    Goal(
        name="CPU per 100k chunks, 64 streams flat out, of `vllm bench serve`",
        must="0.45 x", stretch="0.36 x",
        parts=[
            Part(case=KVLOAD_FLAT, figure="cpu_whole", over=VLLM_FLAT, over_figure="cpu_loaded",
                 must=0.45, stretch=0.36, unit="x", form=".2f"),
        ],
    ),
    Goal(
        name="requests/s, same case", must="2.2 x", stretch="2.7 x",
        parts=[
            Part(case=KVLOAD_FLAT, figure="rps", over=VLLM_FLAT, over_figure="rps", must=2.2,
                 stretch=2.7, unit="x", form=".2f", at_least=True),
        ],
    ),
    Goal(
        name="TTFT error, 100 streams: p50, p99", must="0.3, 3 ms", stretch="0.1, 1 ms",
        parts=_stamps(HUNDRED.name, (0.3, 0.1), (3.0, 1.0)),
    ),
    Goal(
        name="TTFT error, 1,000 streams: p50, p99", must="1, 10 ms", stretch="0.2, 2 ms",
        parts=_stamps(THOUSAND.name, (1.0, 0.2), (10.0, 2.0)),
    ),
    Goal(
        name="1,000 streams: gap p99, TPOT p99", must="1, 0.1 ms", stretch="0.1, 0.01 ms",
        parts=[
            Part(case=THOUSAND.name, figure="gap_p99", must=1.0, stretch=0.1, unit="ms",
                 form=".3f"),
            Part(case=THOUSAND.name, figure="tpot_p99", must=0.1, stretch=0.01, unit="ms",
                 form=".4f"),
        ],
    ),
    Goal(
        name="open loop 200/s: off the rate, lateness p50, p99", must="0.5 %, 0.3, 2 ms",
        stretch="p99 1 ms",
        parts=[
            Part(case=OPEN_LOOP.name, figure="rate_off_percent", must=0.5, stretch=None, unit="%",
                 form=".3f"),
            Part(case=OPEN_LOOP.name, figure="late_p50", must=0.3, stretch=None, unit="ms",
                 form=".3f"),
            Part(case=OPEN_LOOP.name, figure="late_p99", must=2.0, stretch=1.0, unit="ms",
                 form=".3f"),
        ],
    ),
    Goal(
        name="memory at 1,000 streams, one process", must="100 MB", stretch="70 MB",
        parts=[
            Part(case=THOUSAND.name, figure="peak_mb", must=100.0, stretch=70.0, unit="MB",
                 form=".0f"),
        ],
    ),
    Goal(
        name="`--help`; a run of one request", must="0.3 s; 0.8 s", stretch="0.15 s; 0.5 s",
        parts=[_start(HELP, 0.3, 0.15), _start(ONE_REQUEST, 0.8, 0.5)],
    ),
    Goal(
        name="false alarms of `client_limited`: 100, 1,000 streams, open loop", must="none",
        stretch="",
        parts=[
            Part(case=load.name, figure="false_alarm", must=0.0, stretch=None, unit="", form=".0f",
                 worst=True)
            for load in (HUNDRED, THOUSAND, OPEN_LOOP)
        ],
    ),
    Goal(
        name="two workers: CPU per chunk by that of one, 1,000 streams", must="1.15 x", stretch="",
        parts=[
            Part(case=THOUSAND_BY_TWO.name, figure="cpu_per_100k", over=THOUSAND.name,
                 over_figure="cpu_per_100k", must=1.15, stretch=None, unit="x", form=".2f"),
        ],
    ),
    Goal(
        name="two workers: streams held at once, of 5,000", must="5,000", stretch="",
        parts=[
            Part(case=FIVE_THOUSAND.name, figure="in_flight", must=5000.0, stretch=None,
                 unit="streams", form=",.0f", at_least=True),
        ],
    ),
)  # fmt: skip


def main() -> int:
    """Measure, print, keep; 1 if a must is not met."""
    asked = _arguments()
    found = conditions()
    results = measure_all(asked.runs, asked.share, asked.port, alone=asked.alone)
    rows = [row_of(goal, results) for goal in GOALS]
    page = render(rows, results, asked.runs)
    print("\n".join(page))
    if asked.label:
        found["command"] = "make bench"
        found["kvload_commands"] = [" ".join(kvload_command(load, "URL", "FILE")) for load in LOADS]
        found["vllm"] = VLLM.version() if VLLM.why_not() is None else None
        kept = {
            "conditions": found, "runs": asked.runs, "goals": rows, "figures": results.runs,
            "skipped": results.skipped,
        }  # fmt: skip
        folder = folder_of(asked.label)
        keep(folder, "goals", kept, ["# kvload's goals", "", *page])
        print(f"bench: kept in {folder}", file=sys.stderr)
    return 1 if any(row["met"] == "no" for row in rows) else 0


LOADS = (FLAT_OUT, HUNDRED, THOUSAND, OPEN_LOOP, THOUSAND_BY_TWO, FIVE_THOUSAND)


def _arguments() -> argparse.Namespace:
    args = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    args.add_argument("--runs", type=int, default=3, help="turns of each load (default: 3)")
    args.add_argument("--share", type=float, default=1.0, help="of the streams and requests")
    args.add_argument("--port", type=int, default=0, help="of the server (default: a free one)")
    args.add_argument("--alone", action="store_true", help="without the peer")
    args.add_argument("--label", help="keep the page in bench/runs/DATE-LABEL")
    return args.parse_args()


def measure_all(runs: int, share: float, port: int, *, alone: bool) -> Results:
    """Every case in turn, `runs` times."""
    results = Results()
    if (why := "left out" if alone else VLLM.why_not()) is not None:
        results.skipped[VLLM_FLAT] = f"vllm: {why}"
    for load in (THOUSAND_BY_TWO, FIVE_THOUSAND):
        if not has_workers():
            results.skipped[load.name] = "kvload has no --workers"
    flat = FLAT_OUT.shrunk(share)
    for _ in range(runs):
        results.turn(KVLOAD_FLAT, lambda: run_kvload_like_a_peer(flat, port=port))
        results.turn(VLLM_FLAT, lambda: run_peer(VLLM, flat, port=port))
        for load in LOADS[1:]:
            results.turn(load.name, _kvload(load.shrunk(share), port))
        results.turn(HELP, lambda: _wall(["kvload", "--help"]))
        results.turn(ONE_REQUEST, lambda: _one_request(port))
    return results


def has_workers() -> bool:
    """Whether this kvload knows `--workers`."""
    said = subprocess.run(["kvload", "--help"], capture_output=True, text=True, check=True)
    return "--workers" in said.stdout


def _kvload(load: Load, port: int) -> Callable[[], Figures]:
    def measure() -> Figures:
        pinned = load.name in {one.name for one in PINNED}
        found = run_kvload(load, affinity=others() if pinned else None, port=port)
        asked = load.rate_rps
        off = {} if asked is None else {
            "rate_off_percent": (found.errors["arrivals_rps"] / asked - 1) * 100
        }  # fmt: skip
        return {**found.errors, **off}

    return measure


def _one_request(port: int) -> Figures:
    """One request of one token, answered at once: what is left is starting and ending."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder) / "work.jsonl"
        work.write_text("".join(workload(1, 1)), encoding="utf-8")
        truth = Path(folder) / "truth.jsonl"
        with serving(truth, ttft_ms=0.0, itl_ms=0.0, port=port) as url:
            command = ["kvload", "-q", "--url", url, "--workload", str(work), "--rounds", "1"]
            return _wall([*command, "--warmup", "0"])


def _wall(command: Sequence[str]) -> Figures:
    """The median of five: a start is short, and the disk may be slow once."""
    walls = []
    for _ in range(5):
        done = watch(command)
        if done.status != 0:
            raise BenchError(f"{command[0]}: status {done.status}")
        walls.append(done.wall_s)
    return {"wall_s": statistics.median(walls)}


def row_of(goal: Goal, results: Results) -> dict[str, Any]:
    """What was measured of a goal, and whether it is met: yes, stretch, no, or why not known."""
    values = [part.value(results) for part in goal.parts]
    row: dict[str, Any] = {"goal": goal.name, "must": goal.must, "stretch": goal.stretch}
    known = [(part, value) for part, value in zip(goal.parts, values, strict=True)
             if value is not None]  # fmt: skip
    row["measured"] = ", ".join(f"{value:{part.form}} {part.unit}".strip() for part, value in known)
    row["values"] = values
    if len(known) < len(values):
        row["met"], row["measured"] = _unknown(goal, results, row["measured"])
    elif not all(part.holds(value, part.must) for part, value in known):
        row["met"] = "no"
    elif goal.stretch and all(
        part.stretch is None or part.holds(value, part.stretch) for part, value in known
    ):
        row["met"] = "stretch"
    else:
        row["met"] = "yes"
    return row


def _unknown(goal: Goal, results: Results, measured: str) -> tuple[str, str]:
    """Without the peer there is no ratio, but the figure itself is shown."""
    cases = [case for part in goal.parts for case in (part.case, part.over) if case is not None]
    why = next((results.skipped[case] for case in cases if case in results.skipped), "not measured")
    if goal.parts[0].over != VLLM_FLAT:
        return f"skipped: {why}", measured
    own = results.median(goal.parts[0].case, goal.parts[0].figure)
    return f"not compared: {why}", measured if own is None else f"{own:,.2f} by itself"


def render(rows: Sequence[Mapping[str, Any]], results: Results, runs: int) -> list[str]:
    """The table, and the figures behind it, as Markdown."""
    keys = ("goal", "must", "stretch", "measured", "met")
    lines = [*table(keys, [[str(row[key]) for key in keys] for row in rows]), ""]
    lines += [f"Medians of {runs} runs. Errors are reported less the server's log, p99 of absolute"]
    lines += [
        "values. kvload's CPU counts until it was gone; the peer's while it was answered.",
        "",
    ]
    for case, seen in results.runs.items():
        if case in results.skipped or not seen:
            continue
        figures = medians(seen)
        shown = ", ".join(f"{name} {value:.4g}" for name, value in figures.items())
        lines.append(f"- {case}: {shown}")
    lines += [f"- {case}: {why}" for case, why in results.skipped.items()]
    return lines


if __name__ == "__main__":
    sys.exit(main())
