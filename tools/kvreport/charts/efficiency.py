"""Charts of a fit: TTFT by computed tokens with the line through it, and computing against loading.

Lines that bound an interval are dashed; they are the interval of each length by itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from kvreport import figures
from kvreport.charts.chart import Axis, Chart, Dots, Plane, Tone
from kvreport.charts.requests import thinned
from kvreport.conclusion import Conclusion
from kvreport.efficiency import Efficiency, fitted
from kvreport.efficiency_line import SOURCES, Fit, Refused, Rows, Source, Span
from kvreport.efficiency_rows import grounds
from kvreport.efficiency_worth import BreakEven
from kvreport.experiments import Experiment
from kvreport.words import Words

STEPS = 48
"""Lengths that a line is drawn through."""
TONES: dict[Source, Tone] = {
    "local": "other", "store": "third", "remote": "third", "cached": "dim",
}  # fmt: skip
MS = 1000


def efficiency_charts(
    conclusion: Conclusion, experiments: Sequence[Experiment], words: Words
) -> list[Chart]:
    """Two for each endpoint with a fit; nothing for those without."""
    charts: list[Chart] = []
    if not any(one.figures for one in conclusion.efficiency):
        return charts
    found = grounds(experiments, conclusion.scenarios)
    for number, (ground, one) in enumerate(zip(found, conclusion.efficiency, strict=True), 1):
        rows, fit = fitted(ground)
        if isinstance(fit, Refused) or not one.figures:
            continue
        maker = _Maker(one, rows, fit, words, number)
        charts.append(maker.by_computed())
        even = maker.break_even()
        if even:
            charts.append(even)
    return charts


class _Maker:
    def __init__(self, one: Efficiency, rows: Rows, fit: Fit, words: Words, number: int) -> None:
        self.one, self.rows, self.fit, self.words = one, rows, fit, words
        self.number = number
        self.stamp = words.say("chart_simulated") if one.simulated else ""
        self.longest = one.lengths[-1]
        count = figures.count(one.requests)
        self.note = f"{one.name}. {words.say('chart_requests', count=count)}"

    def plane(self, name: str, x: str, series: Sequence[Dots]) -> Plane:
        return Plane(
            name=f"efficiency_{self.number:02d}_{name}",
            title=self.words.say(f"chart_{name}"),
            note=self.note,
            simulated=self.stamp,
            x=Axis(label=self.words.say(x)),
            y=Axis(label=self.words.say("axis_ttft")),
            series=series,
        )

    def by_computed(self) -> Plane:
        """Every request, and what the line says of a prompt without any cached token."""
        rows, words = self.rows, self.words
        most = np.column_stack([rows.uncached, *(rows.cached[name] for name in SOURCES)])
        kinds = np.argmax(most, axis=1)
        series = []
        for at, kind in enumerate(("computed", *SOURCES)):
            own = np.flatnonzero(kinds == at)
            if len(own):
                points = thinned([(rows.uncached[row], rows.ttft_s[row]) for row in own])
                series.append(
                    Dots(
                        label=words.say(f"eff_kind_{kind}"),
                        tone="base" if kind == "computed" else TONES[SOURCES[at - 1]],
                        x=[float(x) for x, _ in points],
                        y=[float(y) * MS for _, y in points],
                        hollow=kind == "computed",
                    )
                )
        label = words.say("chart_fit_line")
        series += self.line(label, "bare", [self.computing(n) for n in self.lengths()], named=True)
        return self.plane("ttft_fit", "axis_uncached", series)

    def break_even(self) -> Plane | None:
        """TTFT of a prompt that is computed, and of one that is cached, by its length."""
        sources = [one for one in SOURCES if self.fit.has(f"c_{one}")]
        if not sources:
            return None
        words = self.words
        computing = [self.computing(n) for n in self.lengths()]
        series = [*self.line(words.say("chart_compute"), "base", computing, named=True)]
        for source in sources:
            label = words.say("chart_load", tier=words.say(f"eff_source_{source}"))
            loading = [self.loading(source, n) for n in self.lengths()]
            series += self.line(label, TONES[source], loading)
        for even in self.one.break_even:
            if even.word == "from" and even.high:
                series += self.band(even, computing[-1].value * MS)
        return self.plane("break_even", "axis_tokens", series)

    def band(self, even: BreakEven, top: float) -> Iterator[Dots]:
        """Both ends of the break-even's interval."""
        said = self.words.say(
            "chart_break_even_at",
            tokens=figures.tokens(even.tokens),
            low=figures.tokens(even.low),
            high=figures.tokens(even.high),
        )
        for label, end in ((said, even.low), ("", even.high)):
            yield Dots(label=label, tone="dim", x=[end or 0.0] * 2, y=[0.0, top], line=True)

    def lengths(self) -> list[float]:
        return [float(n) for n in np.linspace(0, self.longest, STEPS)]

    def computing(self, tokens: float) -> Span:
        return self.fit.contrast({"a": 1.0, "b": tokens, "b2": tokens**2})

    def loading(self, source: Source, tokens: float) -> Span:
        fixed = {f"d_{source}": 1.0} if self.fit.has(f"d_{source}") else {}
        return self.fit.contrast({"a": 1.0, f"c_{source}": tokens} | fixed)

    def line(
        self, label: str, tone: Tone, spans: Sequence[Span], *, named: bool = False
    ) -> Iterator[Dots]:
        """The line, and both ends of its interval; `named`: the legend says what those are."""
        x = self.lengths()
        y = [max(0.0, one.value) * MS for one in spans]
        yield Dots(label=label, tone=tone, x=x, y=y, line=True)
        said = self.words.say("chart_interval_of") if named else ""
        for name, ends in (
            (said, [one.low for one in spans]),
            ("", [one.high for one in spans]),
        ):
            y = [max(0.0, end) * MS for end in ends]
            yield Dots(label=name, tone=tone, x=x, y=y, line=True, hollow=True)
