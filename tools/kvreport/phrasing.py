"""Words for one scenario's codes, shared by the chapters: titles, verdicts, marks, statuses."""

from __future__ import annotations

from kvpipe.records import Finding
from kvreport import conditions, figures
from kvreport.conclusion import Conclusion, Scenario
from kvreport.effects import Effect
from kvreport.figures import NBSP
from kvreport.targets import Result, Target
from kvreport.words import Words

NODES = "🌐"


def report_title(conclusion: Conclusion, words: Words) -> str:
    kinds = [one.kind for one in conclusion.scenarios]
    named = [words.say(f"kind_{kind}") for kind in ("unit cost", "load") if kind in kinds]
    named += [words.say("kind_capacity")] if conclusion.capacities else []
    if conclusion.outcomes and not named:
        return words.say("title_matrix")
    named = named or [words.say("kinds_unknown")]
    form = "title"
    if conclusion.simulated:
        form = "title_simulated" if all(conclusion.each_simulated) else "title_partly"
    return words.say(form, kinds=words.listed(named))


def anchor(number: int) -> str:
    """Where the details of the scenario in this place of the report stand."""
    return f"scenario-{number}"


def name(scenario: Scenario) -> str:
    """The name as tables show it: scenarios that cross nodes are marked in every one of them."""
    return f"{NODES}{NBSP}{scenario.name}" if scenario.nodes else scenario.name


def told_apart(scenario: Scenario, conclusion: Conclusion, words: Words) -> str:
    """The name, with SIMULATED behind it where only some of a table's scenarios are."""
    shown = name(scenario)
    if scenario.simulated and not all(one.simulated for one in conclusion.scenarios):
        return words.say("simulated_name", name=shown)
    return shown


def title(scenario: Scenario, words: Words) -> str:
    shown = name(scenario)
    return words.say(
        "title_aa" if scenario.same_arm else "title_scenario",
        name=words.say("simulated_name", name=shown) if scenario.simulated else shown,
        kind=kind(scenario, words),
        tier=tier(scenario, words),
    )


def kind(scenario: Scenario, words: Words) -> str:
    if scenario.kind is None:
        return words.say("kind_unknown")
    arrival = arrival_of(scenario)
    if scenario.kind == "load" and arrival:
        return words.say("kind_load_arrival", arrival=arrival)
    return words.say(f"kind_{scenario.kind}")


def arrival_of(scenario: Scenario) -> str | None:
    """How requests arrived, by the first round's head."""
    for shown in scenario.rounds:
        run = shown.stats.run
        first = run[0] if isinstance(run, list) and run else run
        if not isinstance(first, list):
            return conditions.arrival(first.arrival, first.shard)
    return None


def tier(scenario: Scenario, words: Words) -> str:
    """The tier that served, from evidence; what was asked for only where it is the engine's own."""
    if not scenario.comparable:
        return words.say("tier_none")
    evidence = scenario.evidence
    served = evidence.served
    if served is None:
        return words.say("tier_local" if evidence.asked == "local" else "tier_unknown")
    if served in ("store", "remote") and evidence.product:
        return words.say(f"tier_{served}_product", product=evidence.product)
    return words.say(f"tier_{served}")


def mixtures(scenarios: list[Scenario], words: Words) -> list[str]:
    """The line that must stand by every mean over several strata, once for equal mixtures."""
    found: dict[tuple[int, int], list[str]] = {}
    for one in scenarios:
        if one.mixture:
            found.setdefault(one.mixture, []).append(name(one))
    alone = len(found) == 1 and all(one.mixture for one in scenarios)
    return [
        words.say("mixture_short", cold=cold, requests=requests)
        if alone
        else words.say("mixture_named", names=words.names(names), cold=cold, requests=requests)
        for (cold, requests), names in found.items()
    ]


def caption(text: str, conclusion_or_scenario: Conclusion | Scenario, words: Words) -> str:
    """A table's caption; what was simulated says so beside every table, or in its rows."""
    if isinstance(conclusion_or_scenario, Conclusion):
        all_simulated = all(one.simulated for one in conclusion_or_scenario.scenarios)
    else:
        all_simulated = conclusion_or_scenario.simulated
    if all_simulated:
        return words.say("captioned", caption=text)
    return text


def marks(scenario: Scenario, effect: Effect, words: Words) -> str:
    """Words that must stand beside a number: `CONTAMINATED, HITS LOST`; empty if none."""
    codes = [
        placed.finding.code
        for placed in scenario.touching(effect)
        if placed.finding.code != "drift" or placed.finding.severity == "invalid"
    ]
    found = [words.maybe(f"mark_{code}") for code in dict.fromkeys(codes)]
    return ", ".join(mark for mark in found if mark)


def invalid_marks(scenario: Scenario, effect: Effect, words: Words) -> str:
    """Only those that withhold a verdict: for tables whose caption carries the others."""
    codes = [
        placed.finding.code
        for placed in scenario.touching(effect)
        if placed.finding.severity == "invalid"
    ]
    found = [words.maybe(f"mark_{code}") for code in dict.fromkeys(codes)]
    return ", ".join(mark for mark in found if mark)


def marked(text: str, scenario: Scenario, effect: Effect, words: Words) -> str:
    beside = marks(scenario, effect, words)
    return f"{text} {beside}" if beside else text


def change_cell(
    scenario: Scenario,
    effect: Effect | None,
    words: Words,
    *,
    captioned: bool = False,
    sense: figures.Sense = "change",
) -> str:
    """`-70.0 %` (as a reduction `70.0 %`), `~`, or why there is no percentage; marks beside it.

    `captioned`: the table's caption carries the warnings' marks.
    """
    if scenario.refused:
        return words.say("no_percentage", reason=words.say(f"reason_{scenario.refused[0]}"))
    if effect is None:
        return words.say("none")
    shown = figures.changed(effect.ratio, sense)
    if effect.verdict.word == "same":
        shown = words.say("same")
    if not captioned:
        return marked(shown, scenario, effect, words)
    beside = invalid_marks(scenario, effect, words)
    return f"{shown} {beside}" if beside else shown


def warned_caption(text: str, scenario: Scenario, words: Words) -> str:
    """The caption of a table about one scenario, with the marks of its warnings."""
    main = [scenario.effects[name] for name in ("ttft", "one_hit") if name in scenario.effects]
    withheld = {mark for one in main for mark in invalid_marks(scenario, one, words).split(", ")}
    shown = [mark for one in main for mark in marks(scenario, one, words).split(", ") if mark]
    warnings = [mark for mark in dict.fromkeys(shown) if mark not in withheld]
    return caption(f"{text}: {', '.join(warnings)}" if warnings else text, scenario, words)


def verdict(effect: Effect, words: Words) -> str:
    """`faster in this run`, `verdict withheld, drift`."""
    found = effect.verdict
    unmarked = [code for code in found.by if not words.maybe(f"mark_{code}")]
    if found.word == "withheld" and not unmarked:
        return words.say("verdict_withheld_marked")
    if found.word in ("withheld", "none"):
        return words.say(f"verdict_{found.word}", reasons=reasons(unmarked, words))
    suffix = "_run" if found.scope == "run" else ""
    return words.say(f"verdict_{found.word}{suffix}")


def short_verdict(effect: Effect | None, words: Words) -> str:
    """The same without reasons, to be counted; an effect that is not there has none."""
    if effect is None or effect.verdict.word in ("withheld", "none"):
        return words.say("overview_no_verdict")
    return verdict(effect, words)


def verdict_cell(effect: Effect, words: Words) -> str:
    found = effect.verdict
    if found.word in ("withheld", "none"):
        return words.say(f"cell_{found.word}", reasons=reasons(found.by, words))
    return verdict(effect, words)


def message(finding: Finding, words: Words) -> str:
    """What a finding says, in the report's language where that has words for its code."""
    return words.maybe(f"finding_{finding.code}", message=finding.message) or finding.message


def reasons(codes: list[str], words: Words) -> str:
    return words.listed([reason(code, words) for code in codes])


def reason(code: str, words: Words) -> str:
    return words.maybe(f"reason_{code}") or code.replace("_", " ")


def span_of(effect: Effect, words: Words, sense: figures.Sense = "change") -> str | None:
    """`-94.1 to -92.0 %`; None without an interval."""
    ends = figures.span(effect, sense)
    return words.say("span", low=ends[0], high=ends[1]) if ends else None


def interval(effect: Effect, words: Words, sense: figures.Sense = "reduction") -> str:
    """`, 92.0 to 94.1 % with 95 % confidence`; empty where there is no interval."""
    span = span_of(effect, words, sense)
    if span is None or effect.interval is None:
        return ""
    within = effect.interval.method != "repeats"
    return words.say("interval_within" if within else "interval", span=span)


def status(result: Result | None, words: Words) -> str:
    if result is None:
        return words.say("none")
    shown = words.say(f"status_{result.status}")
    if result.status == "not_applicable" and result.reason:
        return f"{shown} ({reason(result.reason, words)})"
    return shown


def wish(target: Target, words: Words) -> str:
    """`60 %`, or `0.8 to 1.2` for a band."""
    if target.equivalence:
        return words.say("span", low=f"{target.asked[0]:g}", high=f"{target.asked[-1]:g}")
    return figures.wish(target.asked[0])
