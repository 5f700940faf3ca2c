"""The first screen of several scenarios: the same five lines over all, then a line for each.

What was compared, what one hit is worth, whether the target is met, how sure, what is wrong; and,
where scenarios were set against each other, what came of that.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from kvreport import figures, phrasing
from kvreport.conclusion import Conclusion, Contrast, Modes, Scenario
from kvreport.contrast import difference
from kvreport.modes import TARGET
from kvreport.placed import Placed
from kvreport.words import Words

MOST = 4
"""Scenarios, or kinds of doubt, that are told one by one."""
SEVERITIES = ("invalid", "warning")


def overview(
    conclusion: Conclusion, words: Words, *, compared: Sequence[str], shapes: Sequence[str]
) -> list[tuple[str, str]]:
    """`compared` and `shapes` say for each scenario what was compared in it, and what was sent."""
    scenarios = conclusion.scenarios
    rows = [(words.say("compared"), _compared(scenarios, words, compared, shapes))]
    worth = _worth(scenarios, words)
    if worth:
        rows.append((words.say("one_hit"), worth))
    target = tally(scenarios, words)
    if target:
        rows.append((words.say("target"), target))
    rows += _across(conclusion, words)
    rows.append((words.say("how_sure"), _sure(scenarios, words)))
    rows.append((words.say("doubts"), _doubts(scenarios, words)))
    return rows


def tally(scenarios: Sequence[Scenario], words: Words) -> str | None:
    """`TTFT reduction of 60 %, 5 scenarios: 3 met, 2 not shown.`"""
    results = [found for one in scenarios if (found := one.result("ttft_reduction"))]
    if not results:
        return None
    counts = Counter(one.status for one in results)
    parts = [
        words.say("tally_part", count=count, status=words.say(f"tally_{status}"))
        for status, count in counts.most_common()
    ]
    return words.say(
        "tally",
        wish=phrasing.wish(results[0].target, words),
        count=len(results),
        parts=words.say("tally_and").join(parts),
    )


def _compared(
    scenarios: Sequence[Scenario], words: Words, compared: Sequence[str], shapes: Sequence[str]
) -> str:
    """One sentence where it is true of all; else what they have in common."""
    if len(set(compared)) == 1:
        return compared[0]
    models = dict.fromkeys(model for one in scenarios if (model := one.answer.model))
    plain = all(one.comparable and not one.same_arm and one.cold is not None for one in scenarios)
    return words.say(
        "overview_compared" if plain else "overview_compared_mixed",
        shapes=words.names(list(dict.fromkeys(shapes)), MOST),
        where=words.say("where_engine", engine=words.names([*models], MOST)) if models else "",
    )


def _worth(scenarios: Sequence[Scenario], words: Words) -> str | None:
    """From the least to the most that a hit saves, of those that may be told, and how judged."""
    effects = [one.one_hit for one in scenarios]
    told = [1 - one.ratio for one in effects if one and one.verdict.word not in ("withheld",)]
    judged = Counter(phrasing.short_verdict(one, words) for one in effects)
    parts = words.say("tally_and").join(
        words.say("tally_part", count=count, status=said) for said, count in judged.most_common()
    )
    if not told:
        return words.say("overview_no_hit", parts=parts)
    low, high = min(told), max(told)
    span = figures.percent(high)
    if figures.percent(low) != span:
        first = figures.percent(low).removesuffix(figures.NBSP + "%")
        span = words.say("span", low=first, high=span)
    return words.say("overview_hit", span=span, parts=parts)


def _across(conclusion: Conclusion, words: Words) -> Iterator[tuple[str, str]]:
    """PD against non-PD, and the others against the baseline."""
    by_name = {one.name: one for one in conclusion.scenarios}
    if conclusion.modes:
        said = [_mode(one, by_name[one.pd], words) for one in conclusion.modes]
        yield words.say("modes"), _cut(said, words)
    if conclusion.baseline and conclusion.contrasts:
        said = [_contrast(one, conclusion.baseline, words) for one in conclusion.contrasts]
        yield words.say("col_baseline"), _cut(said, words)


def _cut(said: Sequence[str], words: Words) -> str:
    shown = list(said[:MOST])
    if len(said) > MOST:
        shown.append(words.say("overview_more", count=len(said) - MOST))
    return words.say("semicolon").join(shown)


def _mode(one: Modes, scenario: Scenario, words: Words) -> str:
    """`split: a PD hit takes 0.54 times the TTFT of alone (target: at most 1.25): met`."""
    if one.refused:
        what = _what(one, words)
        return words.say("overview_refused", name=one.pd, base=one.non_pd, what=what)
    effect, result = one.effects.get("ttft_hit"), scenario.result(TARGET)
    return words.say(
        "overview_mode",
        pd=one.pd,
        non_pd=one.non_pd,
        ratio=f"{effect.ratio:.2f}" if effect else words.say("none"),
        status=phrasing.status(result, words),
    )


def _contrast(one: Contrast, base: str, words: Words) -> str:
    """`b against a: TTFT +48.1 % in round 2, 44.0 to 52.3 % with 95 % confidence, slower`."""
    effect = one.effects.get("ttft_hit") or next(iter(one.effects.values()), None)
    if one.refused or effect is None:
        what = _what(one, words)
        return words.say("overview_refused", name=one.name, base=base, what=what)
    same = effect.verdict.word == "same"
    return words.say(
        "overview_contrast_same" if same else "overview_contrast",
        name=one.name,
        base=base,
        round=words.say(f"arm_{effect.other}"),
        change=figures.change(effect.ratio),
        interval=phrasing.interval(effect, words, "change"),
        verdict=phrasing.verdict(effect, words),
    )


def _what(one: Modes | Contrast, words: Words) -> str:
    """Why two were not paired: what differs, or that there is nothing to pair."""
    if one.refused == "samples":
        return words.say("reason_other_samples")
    return difference(one, words)


def _sure(scenarios: Sequence[Scenario], words: Words) -> str:
    """By what stands behind the intervals: repeats, one run, or nothing."""
    counts = Counter(map(_ground, scenarios))
    parts = [
        words.say(f"overview_{ground}", count=counts[ground])
        for ground in ("repeats", "two", "run", "nothing")
        if counts[ground]
    ]
    return words.say("semicolon").join(parts)


def _ground(scenario: Scenario) -> str:
    effect = scenario.one_hit or scenario.effects.get("ttft")
    if effect is None or effect.no_interval in ("no_samples", "no_pairs", "first_stage"):
        return "nothing"
    if effect.repeats == 2:
        return "two"
    return "repeats" if effect.repeats > 2 else "run"


def _doubts(scenarios: Sequence[Scenario], words: Words) -> str:
    """Kinds of finding, the worst first, with who has them."""
    found: dict[str, tuple[Placed, list[str]]] = {}
    for severity in SEVERITIES:
        for one in scenarios:
            for placed in one.findings:
                if placed.finding.severity == severity:
                    _, names = found.setdefault(placed.finding.code, (placed, []))
                    names.append(phrasing.name(one))
    old = [phrasing.name(one) for one in scenarios if one.old]
    parts = [
        words.say(
            "overview_doubt",
            doubt=words.maybe(f"mark_{code}") or phrasing.reason(code, words),
            names=words.names(list(dict.fromkeys(names)), MOST),
        )
        for code, (_, names) in list(found.items())[:MOST]
    ]
    if old:
        parts.append(words.say("overview_old", names=words.names(old, MOST)))
    if len(found) > MOST:
        parts.append(words.say("doubts_more", count=len(found) - MOST))
    return words.say("semicolon").join(parts) or words.say("doubts_none")
