"""Draws a chart as inline SVG for the HTML page.

Colours are classes of the page's style sheet, so that a chart follows light, dark and print. Marks
carry their figures in `data-tip`, which the page's script shows on hover, touch and focus; without
script the browser shows their `<title>`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from html import escape

from kvreport.charts.chart import Bars, Chart, Dots, Plane, Radar, Timeline, Tone
from kvreport.charts.scale import Scale, scale_of
from kvreport.display import beginning, clean, width

WIDE = 640
CELL = 7.2
"""Width of a cell of text at the 13 px that charts are lettered in, on the generous side."""
MOST_CELLS = 32
ROW = 15
RADAR_TONES: tuple[Tone, ...] = ("base", "other", "bare", "third", "dim")


def draw(chart: Chart) -> str:
    match chart:
        case Bars():
            body, high = _bars(chart)
        case Plane():
            body, high = _plane(chart)
        case Timeline():
            body, high = _timeline(chart)
        case Radar():
            body, high = _radar(chart)
    stamp = ""
    if chart.simulated:
        # As large as fits: across the picture, and not taller than a part of it.
        size = min(WIDE * 0.8 / (width(chart.simulated) * 0.62), high * 0.3)
        letters = _text(WIDE / 2, high / 2, chart.simulated, "stamp", "middle")
        stamp = letters.replace("<text ", f'<text font-size="{_n(size)}" ', 1)
    label = escape(clean(f"{chart.title}. {chart.note}"), quote=True)
    return (
        f'<svg class="chart" viewBox="0 0 {WIDE} {_n(high)}" role="img" aria-label="{label}">'
        f"{''.join(body)}{stamp}</svg>"
    )


def _n(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _text(x: float, y: float, text: str, style: str = "", anchor: str = "start") -> str:
    return (
        f'<text x="{_n(x)}" y="{_n(y)}" class="{style}" text-anchor="{anchor}">'
        f"{escape(clean(text))}</text>"
    )


def _cut(text: str, cells: int = MOST_CELLS) -> str:
    text = clean(text)
    if beginning(text, cells) == text:
        return text
    return f"{beginning(text, cells - 1)}…"


def _tip(hint: str) -> str:
    return f' data-tip="{escape(clean(hint), quote=True)}"' if hint else ""


def _titled(hint: str) -> str:
    return f"<title>{escape(clean(hint))}</title>" if hint else ""


def _legend(items: Sequence[tuple[str, str]], left: float, y: float) -> tuple[list[str], float]:
    """A line of keys, wrapped; and the height that it took. An item is (class, label)."""
    parts, x, line = [], left, 0
    for style, label in items:
        shown = _cut(label, 60)
        wide = 22 + width(shown) * CELL + 14
        if x + wide > WIDE and x > left:
            x, line = left, line + 1
        top = y + line * 18
        parts.append(f'<rect x="{_n(x)}" y="{_n(top)}" width="12" height="12" class="{style}"/>')
        parts.append(_text(x + 18, top + 10, shown))
        x += wide
    return parts, (line + 1) * 18


def _across(scale: Scale, box: tuple[float, float, float, float]) -> Iterator[str]:
    """Vertical grid lines with their labels below."""
    left, top, right, bottom = box
    last = -math.inf
    for tick in scale.ticks:
        x = left + scale.share(tick) * (right - left)
        yield f'<path class="grid" d="M{_n(x)} {_n(top)}V{_n(bottom)}"/>'
        label = scale.label(tick)
        half = width(label) * CELL / 2
        if x - half > last + 4:
            yield _text(x, bottom + 16, label, "tick", "middle")
            last = x + half


def _bars(chart: Bars) -> tuple[list[str], float]:
    names = [_cut(one) for one in chart.categories]
    beside = max((width(bar.text) for one in chart.series for bar in one.bars), default=0)
    left = 10 + max((width(one) for one in names), default=0) * CELL
    right = WIDE - min(beside, 34) * CELL - 12
    legend, top = _legend([(f"tone-{one.tone}", one.label) for one in chart.series], left, 4)
    top += 22 if chart.line else 8
    values = [
        end
        for one in chart.series
        for bar in one.bars
        for end in (bar.value, bar.low, bar.high)
        if end is not None
    ]
    if chart.line:
        values.append(chart.line[0])
    scale = scale_of(values, chart.axis, zero=True)
    rows = len(chart.series)
    high = len(names) * (rows * ROW + 10)
    bottom = top + high
    parts = [*legend, *_across(scale, (left, top, right, bottom))]
    for number, name in enumerate(names):
        y = top + 5 + number * (rows * ROW + 10)
        full = _titled(chart.categories[number]) if name != clean(chart.categories[number]) else ""
        label = _text(left - 8, y + rows * ROW / 2 + 4, name, "name", "end")
        parts.append(label.replace("</text>", f"{full}</text>"))
        for row, one in enumerate(chart.series):
            parts += _bar(one.bars[number], one.tone, scale, (left, y + row * ROW, right))
    if chart.line:
        x = left + scale.share(chart.line[0]) * (right - left)
        parts.append(f'<path class="target" d="M{_n(x)} {_n(top)}V{_n(bottom)}"/>')
        anchor = "end" if x > (left + right) / 2 else "start"
        parts.append(_text(x + (-5 if anchor == "end" else 5), top - 4, chart.line[1], "", anchor))
    parts.append(_text((left + right) / 2, bottom + 36, chart.axis.label, "axis", "middle"))
    return parts, bottom + 46


def _bar(bar: object, tone: Tone, scale: Scale, place: tuple[float, float, float]) -> Iterator[str]:
    from kvreport.charts.chart import Bar

    assert isinstance(bar, Bar)
    left, y, right = place
    wide = right - left
    zero = left + scale.share(0.0) * wide
    if bar.value is None:
        yield _text(zero + 6, y + 12, bar.text, "value")
        return
    end = left + scale.share(bar.value) * wide
    style = f"tone-{tone}{' doubted' if bar.doubted else ''}"
    x, length = min(zero, end), max(abs(end - zero), 1.0)
    yield f'<g class="mark" tabindex="0"{_tip(bar.hint)}>{_titled(bar.hint)}'
    yield (
        f'<rect x="{_n(x)}" y="{_n(y + 1)}" width="{_n(length)}" height="{ROW - 2}"'
        f' class="{style}"/>'
    )
    furthest = max(end, zero)
    if bar.low is not None and bar.high is not None:
        low, high = (left + scale.share(one) * wide for one in (bar.low, bar.high))
        middle = y + ROW / 2
        furthest = max(furthest, high)
        yield (
            f'<path class="interval" d="M{_n(low)} {_n(middle)}H{_n(high)}'
            f"M{_n(low)} {_n(middle - 4)}V{_n(middle + 4)}"
            f'M{_n(high)} {_n(middle - 4)}V{_n(middle + 4)}"/>'
        )
    yield f"{_text(furthest + 6, y + 12, _cut(bar.text, 34), 'value')}</g>"


def _plane(chart: Plane) -> tuple[list[str], float]:
    left, right = 74.0, WIDE - 16.0
    items = [
        (f"tone-{one.tone}{' hollow' if one.hollow else ''}", one.label)
        for one in chart.series
        if one.label
    ]
    legend, taken = _legend(items, left, 4)
    top = taken + 8
    bottom = top + 300
    xs = [value for one in chart.series for value in one.x]
    ys = [value for one in chart.series for value in one.y]
    if chart.diagonal:
        # Equal axes: the diagonal is then where it seems to be.
        across = up = scale_of([*xs, *ys], chart.x, zero=not chart.x.log)
    else:
        across = scale_of(xs, chart.x, zero=not chart.x.log)
        up = scale_of(ys, chart.y, zero=not chart.y.log, count=5)
    box = (left, top, right, bottom)
    parts = [*legend, *_across(across, box)]
    for tick in up.ticks:
        y = bottom - up.share(tick) * (bottom - top)
        parts.append(f'<path class="grid" d="M{_n(left)} {_n(y)}H{_n(right)}"/>')
        parts.append(_text(left - 6, y + 4, up.label(tick), "tick", "end"))
    if chart.diagonal:
        parts.append(
            f'<path class="target" d="M{_n(left)} {_n(bottom)}L{_n(right)} {_n(top)}">'
            f"{_titled(chart.diagonal)}</path>"
        )
        parts.append(_text(left + 8, top + 16, f"- - {chart.diagonal}", "tick"))
    for one in chart.series:
        drawn = _line if one.line else _steps if chart.shape == "steps" else _dots
        parts += drawn(one, across, up, box)
    parts.append(_text((left + right) / 2, bottom + 36, chart.x.label, "axis", "middle"))
    middle = (top + bottom) / 2
    parts.append(
        f'<text class="axis" text-anchor="middle" transform="translate(14 {_n(middle)})'
        f' rotate(-90)">{escape(clean(chart.y.label))}</text>'
    )
    return parts, bottom + 46


def _placed(
    one: Dots, across: Scale, up: Scale, box: tuple[float, float, float, float]
) -> Iterable[tuple[float, float]]:
    left, top, right, bottom = box
    for x, y in zip(one.x, one.y, strict=True):
        yield (
            left + across.share(x) * (right - left),
            bottom - up.share(y) * (bottom - top),
        )


def _dots(
    one: Dots, across: Scale, up: Scale, box: tuple[float, float, float, float]
) -> Iterator[str]:
    style = f"dot tone-{one.tone}{' hollow' if one.hollow else ''}"
    hints = one.hints or [""] * len(one.x)
    yield f'<g class="{style}">'
    for (x, y), hint in zip(_placed(one, across, up, box), hints, strict=True):
        tip = f"{one.label}, {hint}" if hint else ""
        yield f'<circle cx="{_n(x)}" cy="{_n(y)}" r="3.6"{_tip(tip)}/>'
    yield "</g>"


def _steps(
    one: Dots, across: Scale, up: Scale, box: tuple[float, float, float, float]
) -> Iterator[str]:
    bottom = box[3]
    path, last = "", bottom
    for x, y in _placed(one, across, up, box):
        path += f"{'L' if path else 'M'}{_n(x)} {_n(last)}V{_n(y)}"
        last = y
    style = f"line tone-{one.tone}{' hollow' if one.hollow else ''}"
    yield f'<path class="{style}" d="{path}H{_n(box[2])}"{_tip(one.label)}/>'


def _line(
    one: Dots, across: Scale, up: Scale, box: tuple[float, float, float, float]
) -> Iterator[str]:
    path = "".join(
        f"{'L' if at else 'M'}{_n(x)} {_n(y)}"
        for at, (x, y) in enumerate(_placed(one, across, up, box))
    )
    style = f"line tone-{one.tone}{' hollow' if one.hollow else ''}"
    yield f'<path class="{style}" d="{path}"{_tip(one.label)}/>'


def _timeline(chart: Timeline) -> tuple[list[str], float]:
    left, right = 10.0, WIDE - 16.0
    legend, taken = _legend([(f"tone-{tone}", label) for label, tone in chart.legend], left, 4)
    top = taken + 6
    ends = [span.end for lane in chart.lanes for row in lane.rows for span in row]
    scale = scale_of([0.0, *ends], chart.x, zero=True)
    y = top
    parts: list[str] = []
    for lane in chart.lanes:
        parts.append(_text(left, y + 13, lane.label, "name"))
        y += 18
        tall = 8 if len(lane.rows) <= 24 else 4
        for row in lane.rows:
            for span in row:
                x = left + scale.share(span.start) * (right - left)
                wide = left + scale.share(span.end) * (right - left) - x
                parts.append(
                    f'<rect x="{_n(x)}" y="{_n(y)}" width="{_n(max(wide, 0.5))}"'
                    f' height="{tall - 1}" class="tone-{span.tone}"{_tip(span.hint)}/>'
                )
            y += tall
        y += 6
    grid = _across(scale, (left, top, right, y))
    parts = [*legend, *grid, *parts]
    parts.append(_text((left + right) / 2, y + 36, chart.x.label, "axis", "middle"))
    return parts, y + 46


def _radar(chart: Radar) -> tuple[list[str], float]:
    items = [
        (f"tone-{RADAR_TONES[at % len(RADAR_TONES)]}{' hollow' if at >= len(RADAR_TONES) else ''}",
         label)
        for at, (label, _) in enumerate(chart.series)
    ]  # fmt: skip
    legend, taken = _legend(items, 10, 4)
    radius = 140.0
    middle, centre = WIDE / 2, taken + 40 + radius
    count = len(chart.axes)
    directions = [
        (math.sin(2 * math.pi * at / count), -math.cos(2 * math.pi * at / count))
        for at in range(count)
    ]
    parts = [*legend]
    for ring in (0.25, 0.5, 0.75, 1.0):
        points = " ".join(
            f"{_n(middle + dx * ring * radius)},{_n(centre + dy * ring * radius)}"
            for dx, dy in directions
        )
        parts.append(f'<polygon class="grid" points="{points}"/>')
        parts.append(_text(middle + 3, centre - ring * radius - 2, f"{ring:g}", "tick"))
    for (dx, dy), label in zip(directions, chart.axes, strict=True):
        end = (middle + dx * radius, centre + dy * radius)
        parts.append(
            f'<path class="grid" d="M{_n(middle)} {_n(centre)}L{_n(end[0])} {_n(end[1])}"/>'
        )
        anchor = "middle" if abs(dx) < 0.1 else "start" if dx > 0 else "end"
        lift = -16 if dy < -0.9 else 18 if dy > 0.9 else 4
        parts.append(_text(end[0] + 12 * dx, end[1] + lift, label, "axis", anchor))
    for (style, label), (_, values) in zip(items, chart.series, strict=True):
        told = [
            (middle + dx * radius * value, centre + dy * radius * value, axis, value)
            for (dx, dy), axis, value in zip(directions, chart.axes, values, strict=True)
            if value is not None
        ]
        points = " ".join(f"{_n(x)},{_n(y)}" for x, y, _, _ in told)
        parts.append(f'<polygon class="shape {style}" points="{points}"/>')
        for x, y, axis, value in told:
            tip = f"{label}: {axis} {value:.2f}"
            parts.append(
                f'<circle class="dot {style}" cx="{_n(x)}" cy="{_n(y)}" r="4"{_tip(tip)}/>'
            )
    return parts, centre + radius + 40
