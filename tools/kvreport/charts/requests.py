"""Charts that explain one scenario, request by request, out of the first repeat's samples."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
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
        series, drawn, there = [], 0, 0
        for stratum in STRATA:
            pairs = [
                (at, places[before.index[at]])
                for at in _rows(before, (stratum,))
                if before.index[at] in places
            ]
            points = [
                (before.ttft_s[one], after.ttft_s[two], before.index[one]) for one, two in pairs
            ]
            told = [(x, y, index) for x, y, index in points if x and y]
            thin = _thinned(told)
            drawn, there = drawn + len(thin), there + len(told)
            if thin:
                series.append(
                    Dots(
                        label=self.words.say(f"stratum_{stratum}"),
                        tone=_STRATUM_TONES[stratum],
                        x=[x * 1000 for x, _, _ in thin],
                        y=[y * 1000 for _, y, _ in thin],
                        hints=[
                            f"#{index}: {figures.ms(x)} → {figures.ms(y)}" for x, y, index in thin
                        ],
                        hollow=stratum == "follower",
                    )
                )
        if not series:
            return None
        return Plane(
            name=self.name("cold_against_hit"),
            title=self.words.say("chart_cold_against_hit"),
            note=self.note(drawn, there),
            simulated=self.stamp,
            x=Axis(label=self.words.say("axis_ttft_of", round=self.label(base)), log=True),
            y=Axis(label=self.words.say("axis_ttft_of", round=self.label("hit")), log=True),
            series=series,
            diagonal=self.words.say("chart_diagonal"),
        )

    def by_uncached(self) -> Plane | None:
        """TTFT against the tokens that had to be computed: the slope is what prefill costs."""
        series, drawn, there = [], 0, 0
        for role, samples in self.samples.items():
            told = []
            for at in _rows(samples, (*STRATA, "sentinel")):
                prompt, cached = samples.prompt_tokens[at], samples.cached_tokens[at]
                ttft = samples.ttft_s[at]
                if prompt is not None and cached is not None and ttft is not None:
                    told.append((prompt - cached, ttft, samples.index[at]))
            thin = _thinned(told)
            drawn, there = drawn + len(thin), there + len(told)
            if thin:
                series.append(
                    Dots(
                        label=self.label(role),
                        tone=TONES[role],
                        x=[float(tokens) for tokens, _, _ in thin],
                        y=[ttft * 1000 for _, ttft, _ in thin],
                        hints=[
                            self.words.say(
                                "chart_uncached_hint",
                                index=index,
                                tokens=figures.count(tokens),
                                ttft=figures.ms(ttft),
                            )
                            for tokens, ttft, index in thin
                        ],
                        hollow=role == "no_reuse",
                    )
                )
        if not series:
            return None
        return Plane(
            name=self.name("ttft_by_uncached"),
            title=self.words.say("chart_ttft_by_uncached"),
            note=self.note(drawn, there),
            simulated=self.stamp,
            x=Axis(label=self.words.say("axis_uncached")),
            y=Axis(label=self.words.say("axis_ttft")),
            series=series,
        )

    def hits(self) -> Plane | None:
        """Cached tokens against what a perfect cache would have given: on the diagonal is all."""
        samples = self.samples["hit"]
        series, drawn, there = [], 0, 0
        for stratum in STRATA:
            told = [
                (ideal, cached, samples.index[at])
                for at in _rows(samples, (stratum,))
                if (ideal := samples.ideal_tokens[at]) is not None
                and (cached := samples.cached_tokens[at]) is not None
            ]
            thin = _thinned(told)
            drawn, there = drawn + len(thin), there + len(told)
            if thin:
                series.append(
                    Dots(
                        label=self.words.say(f"stratum_{stratum}"),
                        tone=_STRATUM_TONES[stratum],
                        x=[float(ideal) for ideal, _, _ in thin],
                        y=[float(cached) for _, cached, _ in thin],
                        hints=[
                            self.words.say(
                                "chart_hits_hint",
                                index=index,
                                cached=figures.count(cached),
                                ideal=figures.count(ideal),
                            )
                            for ideal, cached, index in thin
                        ],
                        hollow=stratum == "follower",
                    )
                )
        if not series:
            return None
        return Plane(
            name=self.name("hits_against_ideal"),
            title=self.words.say("chart_hits_against_ideal"),
            note=self.note(drawn, there),
            simulated=self.stamp,
            x=Axis(label=self.words.say("axis_ideal")),
            y=Axis(label=self.words.say("axis_cached")),
            series=series,
            diagonal=self.words.say("chart_all_hit"),
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


def _by_sent(samples: Samples) -> Iterable[int]:
    told = [(sent, at) for at, sent in enumerate(samples.sent_s) if sent is not None]
    return [at for _, at in sorted(told)]


def _thinned(points: Sequence[T]) -> Sequence[T]:
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
