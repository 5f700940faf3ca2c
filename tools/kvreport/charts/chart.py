"""What a chart shows, before it is drawn: series in words and units, and no pixel.

Two setters draw it: `svg` into the HTML page, `png` with matplotlib. A chart says itself how many
requests stand behind it, and whether they were simulated.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

Tone = Literal["base", "other", "bare", "dim", "third"]
"""What a colour means, the same in every chart: the baseline, the hits, no reuse, doubtful."""
Shape = Literal["dots", "steps"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """`label` names quantity and unit. `percent`: values are ratios, shown times 100."""

    label: str
    log: bool = False
    percent: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One value with its 95 % interval, if there is one. `text` stands beside it, `hint` on hover.

    A value that is doubted is drawn dim: what doubts it is part of `text`.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    text: str = ""
    hint: str = ""
    doubted: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class BarSeries:
    label: str
    tone: Tone
    bars: Sequence[Bar]


@dataclass(frozen=True, slots=True, kw_only=True)
class Dots:
    """Points of one kind: `x`, `y` in the axes' units; `hints` has one each, or none at all."""

    label: str
    tone: Tone
    x: Sequence[float]
    y: Sequence[float]
    hints: Sequence[str] = ()
    hollow: bool = False
    line: bool = False
    """The points are joined; a hollow line is dashed. One without a label is in no legend."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A stretch of one request's time, in seconds."""

    start: float
    end: float
    tone: Tone
    hint: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """The rows of one round in a timeline."""

    label: str
    rows: Sequence[Sequence[Span]]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Chart:
    """`name` is the file's stem, unique in a report. `note` says n and what must stand by."""

    name: str
    title: str
    note: str
    simulated: str = ""
    """The word to be stamped on it; empty for what was measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bars(_Chart):
    """Horizontal bars: names are long. `line` is a target with its label."""

    axis: Axis
    categories: Sequence[str]
    series: Sequence[BarSeries]
    line: tuple[float, str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plane(_Chart):
    """Points in a plane, or steps; `diagonal` draws y = x."""

    x: Axis
    y: Axis
    series: Sequence[Dots]
    shape: Shape = "dots"
    diagonal: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline(_Chart):
    x: Axis
    lanes: Sequence[Lane]
    legend: Sequence[tuple[str, Tone]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Radar(_Chart):
    """Values are clipped to 0..1 by whoever makes them; None leaves a gap."""

    axes: Sequence[str]
    series: Sequence[tuple[str, Sequence[float | None]]]


Chart = Bars | Plane | Timeline | Radar


@dataclass(frozen=True, slots=True, kw_only=True)
class Charts:
    """The charts of a report: those over all scenarios, and each scenario's own by its name."""

    summary: Sequence[Chart] = ()
    efficiency: Sequence[Chart] = ()
    scenarios: dict[str, Sequence[Chart]] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Chart]:
        yield from self.summary
        yield from self.efficiency
        for charts in self.scenarios.values():
            yield from charts
