"""The documents' five charts: every scenario in one picture.

A change is never drawn without its interval where there is one, nor a doubted one without the word
that doubts it. Round means of several kinds of request carry the mixture line in the note.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from kvreport import figures, phrasing
from kvreport.charts.chart import Axis, Bar, Bars, BarSeries, Chart, Radar
from kvreport.conclusion import Conclusion, Scenario
from kvreport.effects import Effect
from kvreport.words import Words

BARS_MOST = 40
"""Of more scenarios than this those with the largest and the smallest change are drawn: a picture
of two hundred bars is read by nobody. The tables have all of them."""
RADAR_MOST = 6
"""More shapes than this in one radar cannot be told apart."""


def summary_charts(conclusion: Conclusion, words: Words) -> list[Chart]:
    """`ttft_comparison` ... `performance_radar`; those that have something to show."""
    shown = [one for one in conclusion.scenarios if one.comparable and not one.same_arm]
    maker = _Maker(conclusion, shown, words)
    return [
        one
        for one in (
            maker.means("ttft_comparison", "ttft"),
            maker.means("throughput_comparison", "throughput"),
            maker.ttft_reduction(),
            maker.throughput_increase(),
            maker.radar(),
        )
        if one is not None
    ]


class _Maker:
    def __init__(self, conclusion: Conclusion, scenarios: list[Scenario], words: Words) -> None:
        self.conclusion = conclusion
        self.scenarios = scenarios
        self.words = words

    def stamp(self, scenarios: Sequence[Scenario]) -> str:
        """The word over the picture if anything in it was simulated."""
        found = [one.simulated for one in scenarios]
        if not any(found):
            return ""
        return self.words.say("chart_simulated" if all(found) else "chart_partly_simulated")

    def names(self, scenarios: Sequence[Scenario]) -> list[str]:
        return [phrasing.told_apart(one, self.conclusion, self.words) for one in scenarios]

    def having(self, effect: str) -> list[tuple[Scenario, Effect]]:
        return [(one, one.effects[effect]) for one in self.scenarios if effect in one.effects]

    def note(
        self,
        shown: Sequence[tuple[Scenario, Effect]],
        found: Sequence[tuple[Scenario, Effect]],
        *parts: str,
    ) -> str:
        """How much stands behind the picture; what is missing in it is said too."""
        words = self.words
        pairs = sum(effect.pairs or 0 for _, effect in shown)
        runs = sum(effect.repeats for _, effect in shown)
        counts = {"scenarios": len(shown), "repeats": runs}
        said = [words.say("chart_n", **counts)]
        if pairs:
            said = [words.say("chart_n_pairs", **counts, pairs=figures.count(pairs))]
        if len(shown) < len(found):
            said.append(words.say("chart_bars_most", drawn=len(shown), count=len(found)))
            kept = {id(one) for one, _ in shown}
            held = [one for one, effect in found if _doubted(effect) and id(one) not in kept]
            if held:
                names = words.names(self.names(held))
                said.append(words.say("chart_radar_doubted", names=names))
        there = {id(one) for one, _ in found}
        absent = [one for one in self.scenarios if id(one) not in there]
        if absent:
            said.append(words.say("chart_absent", names=words.names(self.names(absent))))
        return " ".join([*said, *(part for part in parts if part)])

    def means(self, name: str, key: str) -> Bars | None:
        """Both rounds' means side by side."""
        found = self.having(key)
        if not found:
            return None
        rate = key == "throughput"
        shown = telling(found)
        words, scenarios = self.words, [one for one, _ in shown]
        base = [self._mean(one, effect, effect.base_mean) for one, effect in shown]
        other = [self._mean(one, effect, effect.other_mean) for one, effect in shown]
        mixed = [] if rate else phrasing.mixtures(scenarios, words)
        return Bars(
            name=name,
            title=words.say(f"chart_{name}"),
            note=self.note(shown, found, *mixed),
            simulated=self.stamp(scenarios),
            axis=Axis(label=words.say("axis_rps" if rate else "axis_ttft")),
            categories=self.names(scenarios),
            series=[
                BarSeries(label=words.say("col_baseline"), tone="base", bars=base),
                BarSeries(label=words.say("col_hit"), tone="other", bars=other),
            ],
        )

    def _mean(self, scenario: Scenario, effect: Effect, value: float) -> Bar:
        shown = figures.figure(effect.metric, value)
        doubts = phrasing.invalid_marks(scenario, effect, self.words)
        shown = f"{shown} {doubts}" if doubts else shown
        scale = 1.0 if effect.metric.endswith("_rps") else 1000.0
        hint = f"{phrasing.name(scenario)}: {shown}"
        return Bar(value=value * scale, text=shown, hint=hint, doubted=_doubted(effect))

    def ttft_reduction(self) -> Bars | None:
        """The whole round's reduction, and what one hit is worth."""
        found = [
            (one, effect)
            for one in self.scenarios
            if (effect := one.effects.get("ttft") or one.one_hit)
        ]
        if not found:
            return None
        shown = telling(found)
        words, scenarios = self.words, [one for one, _ in shown]
        series = [("chart_whole_round", "base", [one.effects.get("ttft") for one in scenarios])]
        if any(one.one_hit for one in scenarios):
            series.append(("chart_one_hit", "other", [one.one_hit for one in scenarios]))
        return Bars(
            name="ttft_reduction_comparison",
            title=words.say("chart_ttft_reduction_comparison"),
            note=self.note(
                shown, found, words.say("chart_interval"), *phrasing.mixtures(scenarios, words)
            ),
            simulated=self.stamp(scenarios),
            axis=Axis(label=words.say("axis_reduction"), percent=True),
            categories=self.names(scenarios),
            series=[
                BarSeries(
                    label=words.say(label),
                    tone="base" if tone == "base" else "other",
                    bars=[
                        self._change(one, effect, falling=True)
                        for one, effect in zip(scenarios, effects, strict=True)
                    ],
                )
                for label, tone, effects in series
            ],
            line=self.line("ttft_reduction"),
        )

    def throughput_increase(self) -> Bars | None:
        found = self.having("throughput")
        if not found:
            return None
        shown = telling(found)
        words, scenarios = self.words, [one for one, _ in shown]
        bars = [self._change(one, effect, falling=False) for one, effect in shown]
        return Bars(
            name="throughput_increase_comparison",
            title=words.say("chart_throughput_increase_comparison"),
            note=self.note(shown, found, words.say("chart_interval")),
            simulated=self.stamp(scenarios),
            axis=Axis(label=words.say("axis_increase"), percent=True),
            categories=self.names(scenarios),
            series=[BarSeries(label=words.say("chart_increase"), tone="other", bars=bars)],
            line=self.line("throughput_increase"),
        )

    def _change(self, scenario: Scenario, effect: Effect | None, *, falling: bool) -> Bar:
        """A change with its interval; nothing is drawn where no percentage may be said."""
        words = self.words
        if effect is None or scenario.refused:
            return Bar(value=None, text=phrasing.change_cell(scenario, effect, words))
        bounds = effect.bounds()
        sign = -1 if falling else 1
        ends = sorted(sign * (bound - 1) for bound in bounds) if bounds else (None, None)
        change = sign * (effect.ratio - 1)
        text = phrasing.marked(figures.percent(change), scenario, effect, words)
        if not falling and scenario.unsaturated:
            text = f"{text} ({words.say('unsaturated')})"
        if effect.verdict.word == "same":
            text = f"{words.say('same')} {text}"
        span = phrasing.span_of(effect, words, "reduction" if falling else "change")
        interval = f" ({span})" if span else ""
        verdict = phrasing.verdict_cell(effect, words)
        return Bar(
            value=change,
            low=ends[0],
            high=ends[1],
            text=text,
            hint=f"{phrasing.name(scenario)}: {text}{interval}; {verdict}",
            doubted=_doubted(effect),
        )

    def line(self, target: str) -> tuple[float, str] | None:
        for one in self.scenarios:
            result = one.result(target)
            if result:
                wish = phrasing.wish(result.target, self.words)
                return result.target.asked[0], self.words.say("chart_target", wish=wish)
        return None

    def radar(self) -> Radar | None:
        """Shares of an ideal, each clipped to 0..1; the axes say of what."""
        words = self.words
        able = [one for one in self.scenarios if not one.old and not _withheld(one)]
        chosen = sorted(able, key=_gain, reverse=True)[:RADAR_MOST]
        shapes = [(one, list(_shares(one))) for one in chosen]
        shapes = [(one, values) for one, values in shapes if any(v is not None for v in values)]
        if not shapes:
            return None
        scenarios = [one for one, _ in shapes]
        parts = [words.say("chart_radar_note")]
        doubted = [one for one in self.scenarios if _withheld(one)]
        if doubted:
            parts.append(words.say("chart_radar_doubted", names=words.names(self.names(doubted))))
        if len(able) > len(chosen):
            parts.append(words.say("chart_radar_most", most=RADAR_MOST, count=len(able)))
        return Radar(
            name="performance_radar",
            title=words.say("chart_performance_radar"),
            note=" ".join(parts),
            simulated=self.stamp(scenarios),
            axes=[words.say(f"radar_{name}") for name in RADAR],
            series=list(zip(self.names(scenarios), (values for _, values in shapes), strict=True)),
        )


def telling(found: Sequence[tuple[Scenario, Effect]]) -> Sequence[tuple[Scenario, Effect]]:
    """All of them in the report's order; of many the two ends, from the largest gain down.

    Changes that a finding withheld are drawn only where the others leave room.
    """
    if len(found) <= BARS_MOST:
        return found
    sound = sorted((one for one in found if not _doubted(one[1])), key=_gained, reverse=True)
    if len(sound) <= BARS_MOST:
        return [*sound, *(one for one in found if _doubted(one[1]))][:BARS_MOST]
    half = BARS_MOST // 2
    return [*sound[:half], *sound[-half:]]


def _doubted(effect: Effect) -> bool:
    return effect.verdict.word == "withheld"


def _gained(one: tuple[Scenario, Effect]) -> float:
    """Times gain by falling, rates by rising."""
    theta = one[1].theta
    return theta if one[1].metric.endswith("_rps") else -theta


RADAR = ("ttft", "one_hit", "e2e", "throughput", "hits", "tpot")


def _withheld(scenario: Scenario) -> bool:
    """Whether a finding keeps what one hit is worth from being said."""
    value = scenario.one_hit
    return bool(scenario.refused) or value is None or value.verdict.word == "withheld"


def _gain(scenario: Scenario) -> float:
    found = scenario.one_hit
    return 1 - found.ratio if found else float("-inf")


def _shares(scenario: Scenario) -> Iterator[float | None]:
    """In the order of RADAR: reductions as they are, throughput as a share of its target's rise,
    hits of the ideal, and TPOT as the smaller by the larger of the two."""
    effects = scenario.effects
    yield _clipped(_reduction(effects.get("ttft")))
    yield _clipped(_reduction(scenario.one_hit))
    yield _clipped(_reduction(effects.get("e2e")))
    rise, wish = effects.get("throughput"), scenario.result("throughput_increase")
    asked = wish.target.asked[0] if wish else None
    yield _clipped((rise.ratio - 1) / asked) if rise and asked else None
    hits = next((row.other for row in scenario.metrics if row.name == "efficiency"), None)
    yield _clipped(hits)
    tpot = effects.get("tpot")
    yield min(tpot.ratio, 1 / tpot.ratio) if tpot else None


def _reduction(effect: Effect | None) -> float | None:
    """None for what a finding withheld: a doubted number has no place in a shape."""
    if effect is None or effect.verdict.word == "withheld":
        return None
    return 1 - effect.ratio


def _clipped(value: float | None) -> float | None:
    return None if value is None else min(1.0, max(0.0, value))
