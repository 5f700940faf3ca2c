"""Hours in minutes: does a long run of kvload grow, and does its schedule drift?

  python -m bench.soak --minutes 30              `make soak MINUTES=30`
  python -m bench.soak --minutes 30 --label soak keep samples, page and plot

kvload sends an open loop at a constant rate to kvsim, whose answers stream as an engine's do, and
its records go through tee into kvstats. The memory of all three is looked at while it lasts; how
late requests began stands in the records. Memory must not grow with the requests that were sent,
the second half of the run may not begin later than the first, and request k must have been due at
k / rate to the microsecond. Exit status 1 where it was otherwise.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from bench.conditions import conditions
from bench.kept import folder_of, keep, table

mpl.use("Agg")
import matplotlib.pyplot as plt  # after the backend is chosen

TOOLS = ("kvload", "kvstats", "kvsim")
WARM_SHARE = 0.35
"""Of the run: caches, pools and connections fill until then, and growth is none of it"""
GROWTH_KB = {"kvload": 500.0, "kvstats": 1_000.0, "kvsim": 200.0}
"""At most, for 1,000 requests.

kvload keeps which prompts were sent, for the ideal of later ones; kvstats the figures that exact
percentiles need, up to 200,000 requests; kvsim its log of the last 20,000 requests, which is full
before the warm-in of a long run ends."""
PIECES = 8
"""Of what follows the warm-in: growth is the median over them, so that a burst, after which a
process keeps what it took, is not taken for growth with every request"""
LATE_RATIO, LATE_S = 2.0, 0.002
"""The last quarter's median lateness: at most so many times the second's, or so much more"""
DUE_NS = 1_000
KEPT_SAMPLES = 240


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What is sent, and the engine that it is sent to."""

    rate_rps: float = 50.0
    context_tokens: int = 300
    output_tokens: int = 16
    contexts: int = 64
    port: int = 0
    engine: tuple[str, ...] = (
        *("--prefill-tps", "400000", "--step-ms", "10", "--overhead-ms", "5"),
        *("--decode-ms-per-seq", "0.02", "--capacity-blocks", "8192"),
    )
    """A cache that is full after a thousand requests, so that it is not what grows"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One look: seconds since the first request, requests that had ended, resident kB by tool."""

    at_s: float
    done: int
    rss_kb: Mapping[str, int]
    cpu_s: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Soaked:
    """A run: its samples, each request's (due, lateness) in the order of being due, statuses."""

    rate_rps: float
    samples: Sequence[Sample]
    due_ns: np.ndarray
    late_ns: np.ndarray
    ok: int
    statuses: Mapping[str, int]
    stats: Mapping[str, Any]


def soak(seconds: float, load: Load, every_s: float) -> Soaked:
    """Run it; the processes are gone afterwards."""
    requests = max(40, round(load.rate_rps * seconds))
    with tempfile.TemporaryDirectory(prefix="kv-soak-") as name, _simulated(load) as (url, sim):
        folder = Path(name)
        records, stats, plan = (folder / name for name in ("records.jsonl", "stats.json", "plan"))
        with plan.open("wb") as out:  # by estimate: to have 100,000 prompts counted takes minutes
            subprocess.run(plan_command(requests, load), stdout=out, check=True)
        command = [
            *("kvload", "-q", "--url", url, "--workload", str(plan)),
            *("--rate", f"{load.rate_rps:g}", "--arrival", "constant"),
            *("--rounds", "1", "--warmup", "1"),
        ]
        with _pipeline(command, records, stats) as processes:
            watched = {"kvload": processes[0].pid, "kvstats": processes[2].pid, "kvsim": sim.pid}
            samples = list(_look(processes, watched, records, every_s))
        statuses = {
            name: process.returncode
            for name, process in zip(("kvload", "tee", "kvstats"), processes, strict=True)
        }
        due, late, ok = _requests(records)
        return Soaked(
            rate_rps=load.rate_rps,
            samples=samples,
            due_ns=due,
            late_ns=late,
            ok=ok,
            statuses=statuses,
            stats=json.loads(stats.read_text(encoding="utf-8").splitlines()[0]),
        )


def plan_command(requests: int, load: Load) -> list[str]:
    """What makes the plan; without sentinels, so that kvstats counts what was sent."""
    return [
        *("kvplan", "-q", "--scenario", "long_context_high_reuse", "--sentinels", "0"),
        *("--requests", str(requests), "--contexts", str(load.contexts)),
        *("--context-tokens", str(load.context_tokens)),
        *("--output-tokens", str(load.output_tokens)),
    ]


@contextmanager
def _simulated(load: Load) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    process = subprocess.Popen(
        ["kvsim", "--port", str(load.port), *load.engine], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        yield json.loads(process.stdout.readline())["url"], process
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


@contextmanager
def _pipeline(
    command: Sequence[str], records: Path, stats: Path
) -> Iterator[list[subprocess.Popen[bytes]]]:
    """`kvload ... | tee records | kvstats > stats`, as a shell would have it."""
    with stats.open("wb") as out:
        pipe = subprocess.PIPE
        load = subprocess.Popen(command, stdout=pipe, stdin=subprocess.DEVNULL)
        tee = subprocess.Popen(["tee", str(records)], stdin=load.stdout, stdout=pipe)
        summed = subprocess.Popen(["kvstats"], stdin=tee.stdout, stdout=out)
        assert load.stdout is not None and tee.stdout is not None
        load.stdout.close()
        tee.stdout.close()
        processes = [load, tee, summed]
        try:
            yield processes
            for process in processes:
                process.wait()
        except BaseException:
            for process in processes:
                process.send_signal(signal.SIGKILL)
            raise


def _look(
    processes: Sequence[subprocess.Popen[bytes]],
    watched: Mapping[str, int],
    records: Path,
    every_s: float,
) -> Iterator[Sample]:
    """A sample now and then, from the first request's record on until kvload has gone."""
    while not records.exists() and processes[0].poll() is None:
        time.sleep(0.01)
    begun_s, done = None, 0
    with records.open("rb") as stream:
        while processes[0].poll() is None:
            done += stream.read().count(b'{"record":"request"')
            if done and begun_s is None:
                begun_s = time.monotonic()
            if begun_s is not None:
                seen = {name: tree_of(pid) for name, pid in watched.items()}
                yield Sample(
                    at_s=time.monotonic() - begun_s,
                    done=done,
                    rss_kb={name: kb for name, (kb, _) in seen.items()},
                    cpu_s={name: cpu for name, (_, cpu) in seen.items()},
                )
            time.sleep(every_s)


def tree_of(pid: int) -> tuple[int, float]:
    """Resident kB and processor seconds of a process and its children now."""
    kb, cpu_s = 0, 0.0
    pids = [pid]
    while pids:
        one = Path("/proc") / str(pids.pop())
        try:
            status = (one / "status").read_text(encoding="utf-8", errors="replace")
            fields = (one / "stat").read_text(errors="replace").rpartition(")")[2].split()
            for task in (one / "task").iterdir():
                pids += [int(word) for word in (task / "children").read_text().split()]
        except OSError:
            continue
        found = re.search(r"^VmRSS:\s+(\d+) kB", status, re.MULTILINE)
        kb += int(found[1]) if found else 0
        cpu_s += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return kb, cpu_s


def _requests(records: Path) -> tuple[np.ndarray, np.ndarray, int]:
    """(due, lateness) in ns by the order of being due, and how many were answered."""
    rows, ok = [], 0
    with records.open("rb") as stream:
        for line in stream:
            if line.startswith(b'{"record":"request"'):
                one = json.loads(line)
                rows.append((one["scheduled_ns"], one["start_ns"] - one["scheduled_ns"]))
                ok += one["status"] == "ok"
    found = np.array(sorted(rows), dtype=np.int64)
    return found[:, 0], found[:, 1], ok


# What is asked of it


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """One question: what was measured, what is asked, and whether it was so."""

    name: str
    asked: str
    measured: str
    met: bool


def growth_kb(samples: Sequence[Sample], tool: str) -> float:
    """kB for 1,000 requests after the warm-in: the median of the slopes of its pieces."""
    warm = [one for one in samples if one.at_s >= WARM_SHARE * samples[-1].at_s]
    slopes = []
    for part in np.array_split(np.arange(len(warm)), PIECES):
        done = [warm[place].done / 1000 for place in part]
        slopes.append(float(np.polyfit(done, [warm[place].rss_kb[tool] for place in part], 1)[0]))
    return statistics.median(slopes)


def quarter_ratio(samples: Sequence[Sample], tool: str) -> float:
    """Mean memory of the last quarter by that of the second."""
    quarter = samples[-1].at_s / 4

    def mean(number: int) -> float:
        return statistics.fmean(
            one.rss_kb[tool]
            for one in samples
            if number * quarter <= one.at_s <= (number + 1) * quarter
        )

    return mean(3) / mean(1)


def quarters_late_s(late_ns: np.ndarray) -> list[float]:
    """Median lateness in the four quarters of the schedule."""
    return [float(np.median(part)) / 1e9 for part in np.array_split(late_ns, 4)]


def due_error_ns(due_ns: np.ndarray, rate_rps: float) -> int:
    """How far a request's due time is from k / rate, at most."""
    ideal = due_ns[0] + np.arange(len(due_ns)) * 1e9 / rate_rps
    return int(np.max(np.abs(due_ns - ideal)))


def verdicts(soaked: Soaked) -> list[Verdict]:
    """Every question of a soak."""
    found = []
    for tool in TOOLS:
        slope, ratio = growth_kb(soaked.samples, tool), quarter_ratio(soaked.samples, tool)
        found.append(
            Verdict(
                name=f"memory of {tool}",
                asked=f"at most {GROWTH_KB[tool]:,.0f} kB for 1,000 requests",
                measured=f"{slope:+,.0f} kB for 1,000 requests;"
                f" last quarter {ratio:.3f} times the second",
                met=slope <= GROWTH_KB[tool],
            )
        )
    most = f"{LATE_RATIO:g} times the second, or {LATE_S * 1e3:g} ms more"
    quarters = quarters_late_s(soaked.late_ns)
    second, last = quarters[1], quarters[3]
    found.append(
        Verdict(
            name="lateness, median",
            asked=f"last quarter at most {most}",
            measured=" / ".join(f"{one * 1e3:.3f}" for one in quarters) + " ms by quarter",
            met=last <= max(LATE_RATIO * second, second + LATE_S),
        )
    )
    error = due_error_ns(soaked.due_ns, soaked.rate_rps)
    found.append(
        Verdict(
            name="due time of request k",
            asked=f"k / rate to {DUE_NS:,} ns",
            measured=f"{error:,} ns at most, over {len(soaked.due_ns):,} requests",
            met=error <= DUE_NS,
        )
    )
    counted = soaked.stats["successful_requests"]
    found.append(
        Verdict(
            name="requests",
            asked="all answered, all counted by kvstats, status 0 of all",
            measured=f"{soaked.ok:,} of {len(soaked.due_ns):,} ok, kvstats {counted:,},"
            f" statuses {sorted(set(soaked.statuses.values()))}",
            met=soaked.ok == len(soaked.due_ns) == counted and not any(soaked.statuses.values()),
        )
    )
    return found


def plot(soaked: Soaked, path: Path) -> None:
    """Memory and lateness over the run."""
    figure, (upper, lower) = plt.subplots(2, 1, figsize=(9, 6), layout="constrained", sharex=True)
    minutes = [one.at_s / 60 for one in soaked.samples]
    for tool in TOOLS:
        upper.plot(minutes, [one.rss_kb[tool] / 1024 for one in soaked.samples], label=tool)
    upper.set(ylabel="resident memory (MiB)", ylim=(0, None))
    upper.legend()
    at = (soaked.due_ns - soaked.due_ns[0]) / 6e10
    bins = np.array_split(np.arange(len(at)), min(120, len(at)))
    for share, words in ((50, "median"), (99, "P99")):
        late = [np.percentile(soaked.late_ns[part], share) / 1e6 for part in bins]
        lower.plot([at[part].mean() for part in bins], late, label=words)
    lower.set(yscale="log", xlabel="minutes", ylabel="start less due time (ms)")
    lower.legend()
    for axes in (upper, lower):
        axes.grid(visible=True, alpha=0.3)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def page(soaked: Soaked, found: Sequence[Verdict]) -> list[str]:
    """The verdicts, and what ran."""
    last = soaked.samples[-1]
    used = ", ".join(
        f"{tool} {last.cpu_s[tool]:,.0f} s and {last.rss_kb[tool] / 1024:,.0f} MiB"
        for tool in TOOLS
    )
    return [
        "# Soak",
        "",
        f"`kvload | tee | kvstats` against kvsim for {last.at_s / 60:.1f} minutes:"
        f" {len(soaked.due_ns):,} requests at {soaked.rate_rps:g} a second."
        f" Processor time and memory at the end: {used}.",
        "",
        *table(
            ("question", "asked", "measured", "met"),
            [(one.name, one.asked, one.measured, "yes" if one.met else "**no**") for one in found],
        ),
        "",
        "![Memory and lateness over the run](soak.png)",
        "",
        f"Growth is the median slope of {PIECES} pieces after the first {WARM_SHARE:.0%} of the"
        " run.",
    ]


def kept_samples(samples: Sequence[Sample]) -> list[str]:
    """A line of JSON each, at most KEPT_SAMPLES of them, evenly spread."""
    places = np.linspace(0, len(samples) - 1, min(KEPT_SAMPLES, len(samples))).astype(int)
    return [
        json.dumps(
            {
                "at_s": round(one.at_s, 1),
                "done": one.done,
                "rss_kb": dict(one.rss_kb),
                "cpu_s": {name: round(value, 1) for name, value in one.cpu_s.items()},
            }
        )
        for one in (samples[place] for place in places)
    ]


def main() -> int:
    """Soak, print, and keep what has a label."""
    parser = argparse.ArgumentParser(description="does a long run grow, and does it drift?")
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--rate", type=float, default=Load().rate_rps, help="requests a second")
    parser.add_argument("--every", type=float, help="seconds between looks (default: a 300th)")
    parser.add_argument("--port", type=int, default=0, help="kvsim's (default: a free one)")
    parser.add_argument("--label", help="keep samples, page and plot under this name")
    options = parser.parse_args()
    under = {"command": " ".join(["python -m bench.soak", *sys.argv[1:]])} | conditions()
    seconds = 60 * options.minutes
    load = Load(rate_rps=options.rate, port=options.port)
    under["server"] = "kvsim " + " ".join(load.engine)
    under.pop("compiler")
    soaked = soak(seconds, load, options.every or max(0.2, seconds / 300))
    under["load_average_after"] = round(os.getloadavg()[0], 2)
    found = verdicts(soaked)
    lines = page(soaked, found)
    print("\n".join(lines))
    if options.label:
        folder = folder_of(options.label)
        kept = {"conditions": under, "verdicts": [_row(one) for one in found]}
        keep(folder, "soak", kept, lines)
        text = "\n".join(kept_samples(soaked.samples)) + "\n"
        (folder / "soak.jsonl").write_text(text, encoding="utf-8")
        plot(soaked, folder / "soak.png")
    return 0 if all(one.met for one in found) else 1


def _row(one: Verdict) -> dict[str, Any]:
    return {"name": one.name, "asked": one.asked, "measured": one.measured, "met": one.met}


if __name__ == "__main__":
    sys.exit(main())
