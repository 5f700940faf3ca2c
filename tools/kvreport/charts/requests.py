"""Charts that explain one scenario, request by request, out of the first repeat's samples."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from kvpipe.records import Samples, Stratum
from kvreport import figures
from kvreport.charts.chart import Axis, Chart, Dots, Lane, Plane, Span, Timeline, Tone
from kvreport.experiments import Experiment, Repeat, Role
from kvreport.rounds import Round
from kvreport.words import Words

T = TypeVar("T")
MOST_DOTS = 1_500
"""Points of one kind that a chart draws; of more, every k-th in the order of the plan."""
MOST_ROWS = 60
"""Requests of a round that a timeline draws, the first that were sent."""
TONES: dict[Role, Tone] = {"cold": "base", "hit": "other", "no_reuse": "bare"}
STRATA: tuple[Stratum, ...] = ("leader", "unique", "follower")


def request_charts(experiment: Experiment, words: Words, number: int = 1) -> list[Chart]:
    """What the samples of one repeat show; nothing for old stats files, which have none.

    `number` is the scenario's place in the report: it tells the charts' names apart.
    """
    repeat = next((one for one in experiment.repeats if one.hit and _told(one.hit)), None)
    if repeat is None:
        return []
    maker = _Maker(experiment, repeat, words, number)
    charts = (
        maker.distribution(),
        maker.cold_against_hit(),
        maker.by_uncached(),
        maker.hits(),
        maker.timeline(),
    )
    return [one for one in charts if one is not None]


def _told(one: Round) -> bool:
    return one.stats.samples is not None


_Point = tuple[float, float, int]
"""Two values of a request, and its place in the plan."""
_Value = Callable[[int], tuple[float | None, float | None]]
"""Both values of the request in one place of the samples, None where it has none."""


@dataclass(frozen=True, slots=True)
class _Kind:
    """The requests that share a colour."""

    label: str
    tone: Tone
    hollow: bool
    points: list[_Point]


class _Maker:
    def __init__(self, experiment: Experiment, repeat: Repeat, words: Words, number: int) -> None:
        self.number = number
        self.words = words
        self.repeat = repeat
        self.many = len(experiment.repeats) > 1
        self.stamp = words.say("chart_simulated") if experiment.simulated else ""
        self.samples: dict[Role, Samples] = {}
        roles: tuple[Role, ...] = ("cold", "no_reuse", "hit")
        for role in roles:
            first = next(iter(repeat.of(role)), None)
            if first and first.stats.samples:
                self.samples[role] = first.stats.samples

    def name(self, chart: str) -> str:
        return f"{self.number:02d}_{chart}"

    def label(self, role: Role, stratum: Stratum | None = None) -> str:
        said = self.words.say(f"role_{role}")
        if stratum is None:
            return said
        return f"{said}: {self.words.say(f'stratum_{stratum}')}"

    def note(self, drawn: int, there: int) -> str:
        words = self.words
        parts = [words.say("chart_requests", count=figures.count(drawn))]
        if drawn < there:
            parts = [
                words.say(
                    "chart_requests_of", count=figures.count(drawn), there=figures.count(there)
                )
            ]
        if self.many:
            parts.append(words.say("chart_repeat", number=self.repeat.number))
        return " ".join(parts)

    def distribution(self) -> Plane | None:
        """Cumulative share of requests by TTFT, one staircase a kind of request and arm."""
        series, count = [], 0
        for role, samples in self.samples.items():
            for stratum in STRATA:
                values = sorted(
                    samples.ttft_s[at] * 1000  # type: ignore[operator]
                    for at in _rows(samples, (stratum,))
                    if samples.ttft_s[at] is not None
                )
                if not values:
                    continue
                count += len(values)
                x, y = _staircase(values)
                series.append(
                    Dots(
                        label=f"{self.label(role, stratum)} (n\u00a0=\u00a0{len(values)})",
                        tone=TONES[role],
                        x=x,
                        y=y,
                        hollow=stratum == "follower",
                    )
                )
        if not series:
            return None
        return Plane(
            name=self.name("ttft_distribution"),
            title=self.words.say("chart_ttft_distribution"),
            note=self.note(count, count),
            simulated=self.stamp,
            x=Axis(label=self.words.say("axis_ttft"), log=_wide(series)),
            y=Axis(label=self.words.say("axis_share"), percent=True),
            series=series,
            shape="steps",
        )

    def cold_against_hit(self) -> Plane | None:
        """Each request's TTFT in both rounds: below the diagonal the hit was faster."""
        base: Role = "cold" if "cold" in self.samples else "no_reuse"
        if base not in self.samples or "hit" not in self.samples:
            return None
        before, after = self.samples[base], self.samples["hit"]
        places = {index: at for at, index in enumerate(after.index)}

        def both(at: int) -> tuple[float | None, float | None]:
            there = places.get(before.index[at])
            # A TTFT of 0 has no place on a logarithmic axis.
            return before.ttft_s[at] or None, None if there is None else after.ttft_s[there] or None

        return self._scatter(
            "cold_against_hit",
            self._by_stratum(before, both),
            lambda x, y, index: f"#{index}: {figures.ms(x)} → {figures.ms(y)}",
            x=Axis(label=self.words.say("axis_ttft_of", round=self.label(base)), log=True),
            y=Axis(label=self.words.say("axis_ttft_of", round=self.label("hit")), log=True),
            scale=(1000, 1000),
            diagonal=self.words.say("chart_diagonal"),
        )

    def by_uncached(self) -> Plane | None:
        """TTFT against the tokens that had to be computed: the slope is what prefill costs."""

        def points(samples: Samples) -> list[_Point]:
            def cost(at: int) -> tuple[float | None, float | None]:
                prompt, cached = samples.prompt_tokens[at], samples.cached_tokens[at]
                if prompt is None or cached is None:
                    return None, None
                return prompt - cached, samples.ttft_s[at]

            return _points(samples, (*STRATA, "sentinel"), cost)

        return self._scatter(
            "ttft_by_uncached",
            (
                _Kind(self.label(role), TONES[role], role == "no_reuse", points(samples))
                for role, samples in self.samples.items()
            ),
            lambda tokens, ttft, index: self.words.say(
                "chart_uncached_hint",
                index=index,
                tokens=figures.count(tokens),
                ttft=figures.ms(ttft),
            ),
            x=Axis(label=self.words.say("axis_uncached")),
            y=Axis(label=self.words.say("axis_ttft")),
            scale=(1, 1000),
        )

    def hits(self) -> Plane | None:
        """Cached tokens against what a perfect cache would have given: on the diagonal is all."""
        samples = self.samples["hit"]
        return self._scatter(
            "hits_against_ideal",
            self._by_stratum(
                samples, lambda at: (samples.ideal_tokens[at], samples.cached_tokens[at])
            ),
            lambda ideal, cached, index: self.words.say(
                "chart_hits_hint",
                index=index,
                cached=figures.count(cached),
                ideal=figures.count(ideal),
            ),
            x=Axis(label=self.words.say("axis_ideal")),
            y=Axis(label=self.words.say("axis_cached")),
            diagonal=self.words.say("chart_all_hit"),
        )

    def _by_stratum(self, samples: Samples, value: _Value) -> Iterator[_Kind]:
        for stratum in STRATA:
            points = _points(samples, (stratum,), value)
            label = self.words.say(f"stratum_{stratum}")
            yield _Kind(label, _STRATUM_TONES[stratum], stratum == "follower", points)

    def _scatter(
        self,
        chart: str,
        kinds: Iterable[_Kind],
        hint: Callable[[float, float, int], str],
        *,
        x: Axis,
        y: Axis,
        scale: tuple[float, float] = (1, 1),
        diagonal: str = "",
    ) -> Plane | None:
        """Requests as points, thinned kind by kind; `scale` brings them into the axes' units."""
        series, drawn, there = [], 0, 0
        for kind in kinds:
            thin = thinned(kind.points)
            drawn, there = drawn + len(thin), there + len(kind.points)
            if thin:
                series.append(
                    Dots(
                        label=kind.label,
                        tone=kind.tone,
                        x=[float(one) * scale[0] for one, _, _ in thin],
                        y=[float(two) * scale[1] for _, two, _ in thin],
                        hints=[hint(*point) for point in thin],
                        hollow=kind.hollow,
                    )
                )
        if not series:
            return None
        return Plane(
            name=self.name(chart),
            title=self.words.say(f"chart_{chart}"),
            note=self.note(drawn, there),
            simulated=self.stamp,
            x=x,
            y=y,
            series=series,
            diagonal=diagonal,
        )

    def timeline(self) -> Timeline | None:
        """When each request was due, sent, answered and ended, round under round."""
        lanes, drawn, there = [], 0, 0
        for role, samples in self.samples.items():
            rows = [row for at in _by_sent(samples) if (row := list(self._spans(samples, at)))]
            there += len(rows)
            drawn += len(rows[:MOST_ROWS])
            if rows:
                lanes.append(Lane(label=self.label(role), rows=rows[:MOST_ROWS]))
        if not lanes:
            return None
        legend: list[tuple[str, Tone]] = [
            (self.words.say("span_prefill"), "base"),
            (self.words.say("span_decode"), "other"),
        ]
        if any(span.tone == "dim" for lane in lanes for row in lane.rows for span in row):
            legend.insert(0, (self.words.say("span_late"), "dim"))
        return Timeline(
            name=self.name("timeline"),
            title=self.words.say("chart_timeline"),
            note=self.note(drawn, there),
            simulated=self.stamp,
            x=Axis(label=self.words.say("axis_since_start")),
            lanes=lanes,
            legend=legend,
        )

    def _spans(self, samples: Samples, at: int) -> Iterator[Span]:
        sent, ttft, e2e = samples.sent_s[at], samples.ttft_s[at], samples.e2e_s[at]
        if sent is None or ttft is None or e2e is None:
            return
        due = samples.ttft_due_s[at]
        hint = f"#{samples.index[at]}: TTFT {figures.ms(ttft)}, E2E {figures.ms(e2e)}"
        late = due - ttft if due is not None else 0.0
        if late > 0.001:
            yield Span(start=sent - late, end=sent, tone="dim", hint=hint)
        yield Span(start=sent, end=sent + ttft, tone="base", hint=hint)
        yield Span(start=sent + ttft, end=sent + e2e, tone="other", hint=hint)


_STRATUM_TONES: dict[Stratum, Tone] = {"leader": "base", "unique": "bare", "follower": "other"}


def _rows(samples: Samples, strata: Sequence[Stratum]) -> Iterator[int]:
    """Places of the successful requests of some strata, in order of the plan."""
    kept = [at for at, one in enumerate(samples.stratum) if one in strata and samples.ok[at]]
    yield from sorted(kept, key=lambda at: samples.index[at])


def _points(samples: Samples, strata: Sequence[Stratum], value: _Value) -> list[_Point]:
    """The requests of some strata that have both values."""
    found = ((*value(at), samples.index[at]) for at in _rows(samples, strata))
    return [(x, y, index) for x, y, index in found if x is not None and y is not None]


def _by_sent(samples: Samples) -> Iterable[int]:
    told = [(sent, at) for at, sent in enumerate(samples.sent_s) if sent is not None]
    return [at for _, at in sorted(told)]


def thinned(points: Sequence[T]) -> Sequence[T]:
    step = math.ceil(len(points) / MOST_DOTS) or 1
    return points[::step]


def _staircase(values: Sequence[float], most: int = 300) -> tuple[list[float], list[float]]:
    """Sorted values and their cumulative share, at most `most` steps."""
    n = len(values)
    places = range(n) if n <= most else [round(at * (n - 1) / (most - 1)) for at in range(most)]
    return [values[at] for at in places], [(at + 1) / n for at in places]


def _wide(series: Sequence[Dots]) -> bool:
    """Whether values lie too far apart for a linear axis."""
    values = [x for one in series for x in one.x if x > 0]
    return bool(values) and max(values) / min(values) > 8
