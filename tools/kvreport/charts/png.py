"""Draws charts as PNG files with matplotlib, without a display.

Colours are those of Okabe and Ito (2008), which colour-blind readers can tell apart; what is
hollow or dashed on screen is so here too.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from io import BytesIO
from typing import Any

from kvreport.charts.chart import Bars, Chart, Dots, Plane, Radar, Timeline, Tone
from kvreport.charts.fonts import drawable, installed
from kvreport.charts.scale import scale_of
from kvreport.display import NBSP, beginning, clean, width

COLOURS: dict[Tone, str] = {
    "base": "#0072B2",
    "other": "#D55E00",
    "bare": "#009E73",
    "third": "#CC79A7",
    "dim": "#8C8C8C",
}
RADAR_TONES: tuple[Tone, ...] = ("base", "other", "bare", "third", "dim")
INK = "#222222"
WIDE = 9.0
DPI = 120
MOST_CELLS = 44


def png(chart: Chart) -> bytes:
    """The chart as a PNG file."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    settings: dict[Any, Any] = {
        "font.family": installed() or ["sans-serif"],
        "font.size": 9,
        "axes.unicode_minus": False,
        "text.parse_math": False,
    }
    with mpl.rc_context(settings), warnings.catch_warnings():
        # A sign that no font has is a box in a name: no reason for Python's warning on stderr.
        warnings.filterwarnings("ignore", message="Glyph ")
        figure = Figure(figsize=(WIDE, _height(chart)), dpi=DPI, layout="constrained")
        FigureCanvasAgg(figure)
        match chart:
            case Bars():
                _bars(figure, chart)
            case Plane():
                _plane(figure, chart)
            case Timeline():
                _timeline(figure, chart)
            case Radar():
                _radar(figure, chart)
        _frame(figure, chart)
        out = BytesIO()
        figure.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()


def _shown(text: str) -> str:
    return drawable(clean(text).replace(NBSP, " "))


def _cut(text: str, cells: int = MOST_CELLS) -> str:
    text = _shown(text)
    if beginning(text, cells) == text:
        return text
    return f"{beginning(text, cells - 1)}…"


def _wrapped(text: str, cells: int) -> str:
    from kvreport.display import wrap

    return "\n".join(wrap(_shown(text), cells))


def _height(chart: Chart) -> float:
    """Inches; long charts are cut to what an image may measure."""
    if isinstance(chart, Bars):
        rows = len(chart.categories) * (len(chart.series) * 0.22 + 0.14)
        return min(2.2 + rows, 200.0)
    if isinstance(chart, Timeline):
        rows = sum(len(lane.rows) + 3 for lane in chart.lanes)
        return 2.0 + rows * 0.07
    return 6.6 if isinstance(chart, Radar) else 5.2


def _frame(figure: Any, chart: Chart) -> None:
    """Title, note, and the stamp over what was simulated."""
    title = f"{chart.title} ({chart.simulated})" if chart.simulated else chart.title
    figure.suptitle(_wrapped(title, 90), fontsize=12, fontweight="bold", color=INK)
    figure.supxlabel(_wrapped(chart.note, 125), fontsize=8, color="#555555")
    if chart.simulated:
        figure.text(
            0.5,
            0.5,
            _shown(chart.simulated),
            fontsize=40,
            color=INK,
            alpha=0.08,
            rotation=18,
            ha="center",
            va="center",
            fontweight="bold",
        )


def _plain(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#DDDDDD", linewidth=0.7)
    axes.set_axisbelow(True)


def _keys(axes: Any, count: int) -> None:
    if count:
        axes.legend(
            loc="lower left",
            bbox_to_anchor=(0, 1.0),
            ncols=min(count, 3),
            frameon=False,
            fontsize=8,
        )


def _bars(figure: Any, chart: Bars) -> None:
    axes = figure.add_subplot()
    _plain(axes)
    axes.grid(visible=False, axis="y")
    many = len(chart.series)
    thick = 0.8 / many
    ends = [0.0]
    for at, series in enumerate(chart.series):
        for row, bar in enumerate(series.bars):
            y = row - 0.4 + thick * (at + 0.5)
            if bar.value is None:
                axes.text(0, y, f" {_cut(bar.text)}", va="center", fontsize=8, color=INK)
                continue
            axes.barh(
                y,
                bar.value,
                thick * 0.9,
                color=COLOURS["dim"] if bar.doubted else COLOURS[series.tone],
                hatch="///" if bar.doubted else None,
                edgecolor="white",
                linewidth=0.4,
            )
            furthest = max(bar.value, 0.0)
            if bar.low is not None and bar.high is not None:
                axes.plot([bar.low, bar.high], [y, y], color=INK, linewidth=1.2)
                axes.plot([bar.low, bar.high], [y, y], "|", color=INK, markersize=5)
                furthest = max(furthest, bar.high)
                ends.append(bar.low)
            ends += [bar.value, furthest]
            axes.annotate(
                _cut(bar.text),
                (furthest, y),
                xytext=(5, 0),
                textcoords="offset points",
                va="center",
                fontsize=8,
                color=INK,
            )
    if chart.line:
        axes.axvline(chart.line[0], color=INK, linestyle="--", linewidth=1)
        ends.append(chart.line[0])
        axes.annotate(
            _shown(chart.line[1]),
            (chart.line[0], -0.5),
            xytext=(4, 3),
            textcoords="offset points",
            fontsize=8,
            color=INK,
        )
    scale = scale_of(ends, chart.axis, zero=True)
    # Room on the right for the figures beside the bars.
    beside = max((width(bar.text) for one in chart.series for bar in one.bars), default=0)
    room = min(beside, MOST_CELLS) * 0.011 * (scale.high - scale.low)
    axes.set_xlim(scale.low, scale.high + room)
    axes.set_xticks(scale.ticks, [scale.label(tick) for tick in scale.ticks])
    axes.set_yticks(range(len(chart.categories)), [_cut(one) for one in chart.categories])
    axes.set_ylim(len(chart.categories) - 0.4, -0.6)
    axes.set_xlabel(_shown(chart.axis.label))
    handles = [
        axes.barh(0, 0, color=COLOURS[one.tone], label=_shown(one.label)) for one in chart.series
    ]
    _keys(axes, len(handles))


def _plane(figure: Any, chart: Plane) -> None:
    axes = figure.add_subplot()
    _plain(axes)
    xs = [value for one in chart.series for value in one.x]
    ys = [value for one in chart.series for value in one.y]
    if chart.diagonal:
        across = up = scale_of([*xs, *ys], chart.x, zero=not chart.x.log)
        ends = (across.low, across.high)
        axes.plot(ends, ends, "--", color=INK, linewidth=1, label=_shown(chart.diagonal))
    else:
        across = scale_of(xs, chart.x, zero=not chart.x.log)
        up = scale_of(ys, chart.y, zero=not chart.y.log)
    for one in chart.series:
        _series(axes, one, steps=chart.shape == "steps", last=across.high)
    for scale, set_scale, set_limits, set_ticks in (
        (across, axes.set_xscale, axes.set_xlim, axes.set_xticks),
        (up, axes.set_yscale, axes.set_ylim, axes.set_yticks),
    ):
        if scale.axis.log:
            set_scale("log")
        set_ticks(scale.ticks, [scale.label(tick) for tick in scale.ticks])
        set_ticks([], minor=True)
        set_limits(scale.low, scale.high)
    axes.set_xlabel(_shown(chart.x.label))
    axes.set_ylabel(_shown(chart.y.label))
    _keys(axes, sum(bool(one.label) for one in chart.series) + bool(chart.diagonal))


def _series(axes: Any, one: Dots, *, steps: bool, last: float) -> None:
    colour, label = COLOURS[one.tone], _shown(one.label) or "_nolegend_"
    if steps and not one.line:
        x, y = [one.x[0], *one.x, last], [0.0, *one.y, one.y[-1]]
        style = "--" if one.hollow else "-"
        axes.step(x, y, style, where="post", color=colour, linewidth=1.6, label=label)
        return
    if one.line:
        style = "--" if one.hollow else "-"
        axes.plot(one.x, one.y, style, color=colour, linewidth=1.6, label=label)
        return
    axes.scatter(
        one.x,
        one.y,
        s=22,
        facecolors="none" if one.hollow else colour,
        edgecolors=colour,
        alpha=0.8,
        label=label,
        clip_on=False,
        zorder=3,
    )


def _timeline(figure: Any, chart: Timeline) -> None:
    axes = figure.add_subplot()
    _plain(axes)
    axes.grid(visible=False, axis="y")
    y, places, last = 0.0, [], 0.0
    for lane in chart.lanes:
        y += 1
        places.append((y, lane.label))
        for row in lane.rows:
            y += 1
            for span in row:
                axes.barh(y, span.end - span.start, 0.85, left=span.start, color=COLOURS[span.tone])
                last = max(last, span.end)
        y += 2
    scale = scale_of([0.0, last], chart.x, zero=True)
    axes.set_xlim(scale.low, scale.high)
    axes.set_ylim(y, 0)
    axes.set_yticks([])
    for place, label in places:
        axes.text(0, place, _shown(label), fontsize=8, fontweight="bold", va="center", color=INK)
    axes.set_xlabel(_shown(chart.x.label))
    for label, tone in chart.legend:
        axes.barh(0, 0, color=COLOURS[tone], label=_shown(label))
    _keys(axes, len(chart.legend))


def _radar(figure: Any, chart: Radar) -> None:
    axes = figure.add_subplot(projection="polar")
    count = len(chart.axes)
    angles = [2 * math.pi * at / count for at in range(count)]
    axes.set_theta_offset(math.pi / 2)
    axes.set_theta_direction(-1)
    for at, (label, values) in enumerate(chart.series):
        told = [(angle, one) for angle, one in zip(angles, values, strict=True) if one is not None]
        around: Sequence[tuple[float, float]] = [*told, told[0]]
        colour = COLOURS[RADAR_TONES[at % len(RADAR_TONES)]]
        style = "--" if at >= len(RADAR_TONES) else "-"
        theta, radius = [one for one, _ in around], [two for _, two in around]
        axes.plot(theta, radius, style, color=colour, linewidth=1.6, marker="o", markersize=4,
                  label=_cut(label))  # fmt: skip
        axes.fill(theta, radius, color=colour, alpha=0.08)
    axes.set_ylim(0, 1)
    axes.tick_params(axis="x", pad=16)
    axes.set_yticks([0.25, 0.5, 0.75, 1.0], ["0.25", "0.5", "0.75", "1"], fontsize=7)
    axes.set_xticks(angles, [_wrapped(one, 20) for one in chart.axes], fontsize=8)
    axes.legend(loc="upper left", bbox_to_anchor=(-0.35, 1.05), frameon=False, fontsize=8)
