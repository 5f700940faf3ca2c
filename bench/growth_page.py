"""The page of the sweeps: a table of each, its bends, and the figure of six panels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from bench.growth_points import Curve, Point
from bench.growth_slopes import TOLERANCE, Bend, slopes
from bench.kept import table
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator

mpl.use("Agg")
import matplotlib.pyplot as plt  # after the backend is chosen

INTRO = """Processor time (user and system) and memory of kvload, kvstats in the last table, with \
all that they started; the server is another process and is not counted. *Beyond start* is less \
what a run of one request takes (ten records for kvstats), for every process that was started \
apart: `-` where that is less than a tenth of the start, or than the start's own runs differ by. \
`slope` is that of this *beyond start* from the point before (the last one at half of it or \
less), both logarithmic: 1 grows in proportion to the variable, 0 not at all. A bend is a \
stretch whose slopes lie more than {tolerance:g} on one side of the expected one. Why it bends \
has been found out [once](../2026-11-20-growth/README.md)."""
LOADED = """`load` is the machine's load average, the median of after each run of a point: \
{low:.1f} to {high:.1f} here, on {cpus} processors. {judged} Processor time is of the process \
alone and suffers less; `spread` is (largest run - smallest) / median of it, and a point whose \
spread was above 20 % was given two more runs. Where a point was run once, it has none."""
QUIET = "The client and its server alone make about 1."
BUSY = """**Others were at work on them**: lateness, TTFT error and wall time say as much about \
these as about the client, and nothing is claimed from them."""
BUSY_FROM = 1.0  # a processor
MARKS = {"cpu": "tab:blue", "memory": "tab:orange"}


def page(curves: Sequence[Curve], cpus: int, command: str) -> list[str]:
    """Markdown, without the conditions."""
    loads = [point.load_average for curve in curves for point in curve.points]
    judged = BUSY if max(loads) > BUSY_FROM * cpus else QUIET
    lines = [
        "# Growth: what the load costs, by six variables",
        "",
        f"    {command}",
        "",
        INTRO.format(tolerance=TOLERANCE),
        "",
        LOADED.format(low=min(loads), high=max(loads), cpus=cpus, judged=judged),
        "",
        "![Processor time and memory against each variable](growth.png)",
        "",
        "## Bends",
        "",
        *bend_table(curves),
    ]
    for curve in curves:
        lines += ["", *section(curve)]
    if any(curve.sweep.name in ("streams", "rate") for curve in curves):
        lines += [
            "",
            "## Lateness",
            "",
            "![Lateness and TTFT error against streams and rate](lateness.png)",
            "",
            "`late p99`: sent less due, of the records; with streams a request is due when its "
            "slot is free. `TTFT error p99`: the record's TTFT less that of the server's log, of "
            "absolute values. Both wait for a processor as everybody does: they are of this "
            "machine under this load, and no property of kvload.",
        ]
    return lines


def bend_table(curves: Sequence[Curve]) -> list[str]:
    """Every stretch that is not as expected."""
    rows = []
    for curve in curves:
        for words, found in (
            ("processor time", curve.cpu_bends()),
            ("memory", curve.memory_bends()),
        ):
            rows += [_bend_row(curve.sweep.name, words, one) for one in found]
    if not rows:
        return [f"None: every slope is within {TOLERANCE:g} of the expected one."]
    return table(("sweep", "of", "from", "to", "slope", "expected", ""), rows)


def _bend_row(sweep: str, of: str, one: Bend) -> tuple[str, ...]:
    ends = (f"{one.low:,.0f}", f"{one.high:,.0f}")
    return (sweep, of, *ends, f"{one.slope:.2f}", f"{one.expected:.0f}", one.way)


def section(curve: Curve) -> list[str]:
    """One sweep: its load, command and points."""
    sweep = curve.sweep
    chunks = curve.points[0].of("chunks") > 0
    late = curve.points[0].median("late_p99") is not None
    head = [sweep.name, "processor", "beyond start", "slope", "a request"]
    head += ["a chunk"] if chunks else []
    head += ["memory", "beyond start", "slope"]
    head += ["late p99", "TTFT error p99", "merged"] if late else []
    head += ["wall", "spread", "runs", "load"]
    by_cpu = {one.high: one.slope for one in slopes(curve.cpu())}
    by_memory = {one.high: one.slope for one in slopes(curve.memory())}
    rows = [_row(curve, one, by_cpu, by_memory, chunks=chunks, late=late) for one in curve.points]
    start = curve.start
    load = f"{sweep.load[0].upper()}{sweep.load[1:]}"
    return [
        f"## {sweep.axis[0].upper()}{sweep.axis[1:]}",
        "",
        f"    {sweep.command}",
        "",
        f"{load}. Starting and ending takes {start.of('cpu_s'):.2f} s and "
        f"{start.of('peak_mb'):.0f} MB. Expected slopes: {sweep.cpu_slope:g} of processor time, "
        f"{sweep.memory_slope:g} of memory. Begun {start.when}, commit {start.commit}.",
        "",
        *table(head, rows),
    ]


def _row(
    curve: Curve,
    point: Point,
    by_cpu: dict[float, float],
    by_memory: dict[float, float],
    *,
    chunks: bool,
    late: bool,
) -> list[str]:
    cpu, memory = curve.cpu_s(point), curve.memory_mb(point)
    a_request = None if cpu is None else cpu / point.of("requests") * 1e3
    a_chunk = None if cpu is None or not chunks else cpu / point.of("chunks") * 1e6
    cells = [
        f"{point.at:,}", f"{point.of('cpu_s'):.2f} s", _cell(cpu, ".2f", " s"),
        _cell(by_cpu.get(point.at), ".2f"), _cell(a_request, ".3g", " ms"),
    ]  # fmt: skip
    cells += [_cell(a_chunk, ",.0f", " µs")] if chunks else []
    cells += [f"{point.of('peak_mb'):,.0f} MB", _cell(memory, ",.0f", " MB")]
    cells += [_cell(by_memory.get(point.at), ".2f")]
    if late:
        cells += [f"{point.of('late_p99'):,.2f} ms", f"{point.of('ttft_p99'):,.2f} ms"]
        cells += [f"{point.of('merged_share'):.0%}"]
    spread = f"{point.spread:.0%}" if len(point.runs) > 1 else "-"
    cells += [f"{point.of('wall_s'):.1f} s", spread, str(len(point.runs))]
    return [*cells, f"{point.load_average:.1f}"]


def _cell(value: float | None, form: str, unit: str = "") -> str:
    return "-" if value is None else f"{value:{form}}{unit}"


def plot(curves: Sequence[Curve], path: Path) -> None:
    """Six panels: processor seconds on the left axis, MB on the right one."""
    figure, every = plt.subplots(
        2, 3, figsize=(15.6, 8.4), layout="constrained", gridspec_kw={"wspace": 0.06}
    )
    for axes in every.flat[len(curves) :]:
        axes.set_visible(False)
    for axes, curve in zip(every.flat, curves, strict=False):
        _panel(axes, curve)
    cpu = [
        plt.Line2D([], [], color=MARKS["cpu"], marker="o", label="processor time (s)"),
        plt.Line2D([], [], color=MARKS["cpu"], marker="o", markerfacecolor="none", linestyle=":",
                   label="the same, beyond start (s)"),
        plt.Line2D([], [], color="grey", linestyle="--", label="as expected"),
        plt.Line2D([], [], color=MARKS["memory"], marker="s", label="most memory (MB, right)"),
    ]  # fmt: skip
    figure.legend(handles=cpu, loc="outside upper center", ncols=4, frameon=False)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _panel(axes: Axes, curve: Curve) -> None:
    sweep, at = curve.sweep, [point.at for point in curve.points]
    axes.set_title(sweep.name)
    every = [[run["cpu_s"] for run in point.runs] for point in curve.points]
    axes.vlines(at, [min(one) for one in every], [max(one) for one in every], color=MARKS["cpu"])
    axes.plot(at, [point.of("cpu_s") for point in curve.points], "o-", color=MARKS["cpu"])
    beyond = curve.cpu()
    shown = [cpu for _, cpu in beyond] + [cpu for one in every for cpu in one]
    if beyond:
        axes.plot(*zip(*beyond, strict=True), "o:", color=MARKS["cpu"], mfc="none")
        x, y = beyond[len(beyond) // 2]
        line = [y * (one / x) ** sweep.cpu_slope for one, _ in beyond]
        axes.plot([one for one, _ in beyond], line, "--", color="grey", linewidth=1)
    axes.set(xlabel=sweep.axis, ylabel="processor time (s)")
    right = axes.twinx()
    memory = [point.of("peak_mb") for point in curve.points]
    right.plot(at, memory, "s-", color=MARKS["memory"], markersize=4, alpha=0.8)
    right.set_ylabel("memory (MB)")
    for one in (axes, right):
        one.set(xscale="log", yscale="log")
    axes.set_ylim(_room(shown))
    right.set_ylim(_room(memory))
    for one in (axes, right):
        _plain_numbers(one, at)
    axes.grid(visible=True, alpha=0.3)


def _room(values: Sequence[float]) -> tuple[float, float]:
    """A logarithmic axis on which all of them are seen, of a decade at least."""
    low, high = min(values) / 1.3, max(values) * 1.3
    middle, least = (low * high) ** 0.5, 10**0.5
    return min(low, middle / least), max(high, middle * least)


def _plain_numbers(axes: Axes, at: Sequence[float]) -> None:
    """At 1, 2 and 5 of each decade, where they are not too many; a short x has its own points."""
    for axis, (low, high) in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
        steps = (1.0,) if high > 500 * low else (1.0, 2.0, 5.0)
        axis.set_major_locator(LogLocator(subs=steps, numticks=20))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
        axis.set_minor_formatter(NullFormatter())
    if at[-1] < 10 * at[0]:
        axes.xaxis.set_major_locator(FixedLocator(at))
        axes.xaxis.set_minor_locator(NullLocator())


def plot_lateness(curves: Sequence[Curve], path: Path) -> None:
    """Lateness and TTFT error of the two sweeps that a client could be late in."""
    mine = [curve for curve in curves if curve.sweep.name in ("streams", "rate")]
    if not mine:
        return
    figure, every = plt.subplots(
        1, len(mine), figsize=(5.2 * len(mine), 4), layout="constrained", squeeze=False
    )
    for axes, curve in zip(every.flat, mine, strict=True):
        at = [point.at for point in curve.points]
        shown: list[float] = []
        for name, words, mark in (
            ("late_p99", "sent after it was due, P99", "o-"),
            ("ttft_p99", "TTFT error, P99", "s-"),
        ):
            values = [max(1e-3, point.of(name)) for point in curve.points]
            axes.plot(at, values, mark, label=words)
            shown += values
        axes.set(xlabel=curve.sweep.axis, ylabel="ms", title=curve.sweep.name)
        axes.set(xscale="log", yscale="log", ylim=_room(shown))
        _plain_numbers(axes, at)
        axes.grid(visible=True, alpha=0.3)
        axes.legend()
    figure.savefig(path, dpi=110)
    plt.close(figure)
