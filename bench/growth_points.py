"""Points of a sweep: the median of a few runs, what of it is the load's, and what is kept of it."""

from __future__ import annotations

import json
import os
import statistics
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.growth_slopes import Bend, bends
from bench.growth_sweeps import Figures, Sweep

SPREAD = 0.2
EXTRA_RUNS = 2
FLOOR = 0.1
"""Share of what starting takes: less than this above it is not told from nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One value of a sweep's variable; `at` 0 is a run with hardly any load."""

    sweep: str
    at: int
    runs: Sequence[Figures]
    load_average: float
    """Of the machine over the last minute, the median of after each run."""
    when: str
    commit: str | None

    def median(self, figure: str) -> float | None:
        """Over the runs; null where the sweep does not have it."""
        seen = [run[figure] for run in self.runs if figure in run]
        return statistics.median(seen) if seen else None

    def of(self, figure: str) -> float:
        """Of a figure that every sweep has."""
        return statistics.median(run[figure] for run in self.runs)

    @property
    def spread(self) -> float:
        """Of processor time: largest less smallest run, by the median."""
        every = [run["cpu_s"] for run in self.runs]
        return (max(every) - min(every)) / statistics.median(every)

    def line(self) -> dict[str, Any]:
        """As a line of the file that is kept."""
        figures = {name: round(self.of(name), 6) for name in self.runs[0]}
        return {
            "record": "point", "sweep": self.sweep, "at": self.at, **figures,
            "spread": round(self.spread, 3), "load_average": self.load_average, "when": self.when,
            "commit": self.commit, "runs": list(self.runs),
        }  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """A sweep that was measured: its points in order, and what starting takes."""

    sweep: Sweep
    start: Point
    points: Sequence[Point]

    def cpu_s(self, point: Point) -> float | None:
        """Processor time beyond starting and ending; null where that is as good as all."""
        return self._beyond(point, "cpu_s")

    def memory_mb(self, point: Point) -> float | None:
        """Memory beyond what is held with hardly any load; null where that is as good as all."""
        return self._beyond(point, "peak_mb")

    def _beyond(self, point: Point, figure: str) -> float | None:
        starts = self.sweep.starts(point.at)
        every = [run[figure] for run in self.start.runs]
        start = self.start.of(figure)
        more = point.of(figure) - start * starts
        return more if more >= starts * max(FLOOR * start, max(every) - min(every)) else None

    def cpu_bends(self) -> list[Bend]:
        """Where processor time grows otherwise than in proportion to the work."""
        return bends(self.cpu(), self.sweep.cpu_slope)

    def memory_bends(self) -> list[Bend]:
        """The same of memory."""
        return bends(self.memory(), self.sweep.memory_slope)

    def cpu(self) -> list[tuple[float, float]]:
        """The points whose load shows."""
        return self._known(self.cpu_s)

    def memory(self) -> list[tuple[float, float]]:
        """The points whose memory shows."""
        return self._known(self.memory_mb)

    def _known(self, figure: Callable[[Point], float | None]) -> list[tuple[float, float]]:
        found = [(float(point.at), figure(point)) for point in self.points]
        return [(at, value) for at, value in found if value is not None]


def curve_of(
    sweep: Sweep,
    points: Sequence[int],
    runs: int,
    commit: str | None,
    say: Callable[[Point], None],
) -> Curve:
    """Measure one sweep, in a folder of its own for its files."""

    def point(at: int, measure: Callable[[Path], Figures], times: int, extra: int) -> Point:
        found: list[Figures] = []
        loads: list[float] = []
        while len(found) < times or (len(found) < times + extra and _disturbed(found)):
            found.append(measure(folder))
            loads.append(os.getloadavg()[0])
        now = datetime.now(UTC).isoformat(timespec="seconds")
        made = Point(
            sweep=sweep.name, at=at, runs=found, load_average=round(statistics.median(loads), 2),
            when=now, commit=commit,
        )  # fmt: skip
        say(made)
        return made

    with tempfile.TemporaryDirectory(prefix="growth-") as name:
        folder = Path(name)
        start = point(0, sweep.smallest, runs, EXTRA_RUNS)
        every = []
        for at in points:
            long = at >= sweep.long_from
            every.append(
                point(
                    at,
                    lambda where, at=at: sweep.measure(at, where),  # type: ignore[misc]
                    1 if long else runs,
                    0 if long else EXTRA_RUNS,
                )
            )
    return Curve(sweep=sweep, start=start, points=every)


def _disturbed(found: Sequence[Figures]) -> bool:
    """Whether somebody else shows in the runs: two more then, and the median is of all."""
    if len(found) < 2:
        return False
    every = sorted(run["cpu_s"] for run in found)
    return every[-1] - every[0] > SPREAD * statistics.median(every)


def written(curves: Iterable[Curve], conditions: Mapping[str, Any]) -> str:
    """JSON lines: conditions, every point with its runs, and the bends."""
    lines: list[Mapping[str, Any]] = [{"record": "conditions", **conditions}]
    for curve in curves:
        lines += [point.line() for point in (curve.start, *curve.points)]
        for figure, found in (("cpu", curve.cpu_bends()), ("memory", curve.memory_bends())):
            lines += [
                {
                    "record": "bend", "sweep": curve.sweep.name, "of": figure, "low": one.low,
                    "high": one.high, "slope": round(one.slope, 3), "expected": one.expected,
                }
                for one in found
            ]  # fmt: skip
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)


def read_curves(path: Path, sweeps: Sequence[Sweep]) -> list[Curve]:
    """The sweeps that an earlier run kept; none if there is no such file."""
    if not path.exists():
        return []
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    found: dict[str, list[Point]] = {}
    for row in rows:
        if row["record"] == "point":
            point = Point(
                sweep=row["sweep"], at=row["at"], runs=row["runs"],
                load_average=row["load_average"], when=row["when"], commit=row["commit"],
            )  # fmt: skip
            found.setdefault(point.sweep, []).append(point)
    return [
        Curve(sweep=sweep, start=points[0], points=points[1:])
        for sweep in sweeps
        if (points := found.get(sweep.name))
    ]
