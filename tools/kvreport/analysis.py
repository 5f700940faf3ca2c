"""The end of a report: technical analysis, conclusion, advice.

Every sentence follows from numbers and findings. Tainted numbers are neither analysed nor advised
upon: what is said about them is how to measure again.
"""

from __future__ import annotations

from collections.abc import Iterator

from kvreport import figures, phrasing
from kvreport.answer import shape_ways
from kvreport.capacity_chapter import capacity_advice
from kvreport.conclusion import Conclusion, Scenario
from kvreport.document import Block, Bullets, Heading, Paragraph
from kvreport.effects import Effect
from kvreport.words import Words

Advice = tuple[str, tuple[tuple[str, str], ...]]
TARGET = "ttft_reduction"


def ending(conclusion: Conclusion, words: Words) -> list[Block]:
    several = len(conclusion.scenarios) > 1
    sentences = [
        words.say("named", name=phrasing.name(one), sentence=sentence) if several else sentence
        for one in conclusion.scenarios
        for sentence in analysis(one, words)
    ]
    blocks: list[Block] = []
    if sentences:
        blocks += [Heading(2, words.say("analysis")), Bullets(sentences)]
    concluded = [*conclusions(conclusion, words)]
    if concluded:
        blocks += [Heading(2, words.say("conclusion")), Bullets(concluded)]
    advised = advice(conclusion, words)
    blocks.append(Heading(2, words.say("advice")))
    blocks.append(Bullets(advised) if advised else Paragraph(words.say("d_none")))
    return blocks


def invalid(scenario: Scenario) -> list[str]:
    """Codes that make what one hit is worth unfit for a sentence."""
    if scenario.refused:
        return scenario.refused
    value = scenario.one_hit or scenario.effects.get("ttft")
    found = scenario.touching(value) if value else scenario.findings
    codes = [one.finding.code for one in found if one.finding.severity == "invalid"]
    return list(dict.fromkeys(codes))


def analysis(scenario: Scenario, words: Words) -> Iterator[str]:
    if not scenario.comparable:
        return
    tainted = invalid(scenario)
    if tainted:
        yield words.say("a_tainted", reasons=phrasing.reasons(tainted, words))
        return
    ttft = scenario.effects.get("ttft")
    if scenario.old:
        if ttft:
            yield words.say(
                "a_old", base=figures.ms(ttft.base_mean), other=figures.ms(ttft.other_mean)
            )
        return
    if scenario.same_arm:
        return
    yield from _worth(scenario, words)
    yield from _cache(scenario, words)
    yield from _nodes(scenario, words)
    yield from _decoding(scenario, words)
    prefill = scenario.effects.get("prefill")
    if prefill:
        yield _from_to("a_prefill", prefill, words)


def _worth(scenario: Scenario, words: Words) -> Iterator[str]:
    hit = scenario.one_hit
    if hit is None:
        return
    miss, found = figures.ms(hit.base_mean), figures.ms(hit.other_mean)
    form = "a_load" if scenario.kind == "load" else "a_miss"
    if hit.verdict.word == "same":
        form = "a_same"
    yield words.say(form, miss=miss, hit=found, percent=figures.percent(hit.ratio))
    ttft = scenario.effects.get("ttft")
    shown = ttft and ttft.verdict.word != "withheld" and hit.verdict.word != "same"
    shown = shown and hit.ratio < 1
    if scenario.mixture and ttft and shown:
        cold, requests = scenario.mixture
        yield words.say(
            "a_mixture",
            round=figures.percent(1 - ttft.ratio),
            one=figures.percent(1 - hit.ratio),
            cold=cold,
            requests=requests,
        )


def _cache(scenario: Scenario, words: Words) -> Iterator[str]:
    if scenario.evidence.served:
        yield words.say("a_served", tier=phrasing.tier(scenario, words))
    by_name = {one.name: one for one in scenario.metrics}
    efficiency, ratio = by_name.get("efficiency"), by_name.get("hit_ratio")
    if efficiency and efficiency.other is not None:
        yield words.say("a_efficiency", percent=figures.percent(efficiency.other))
    if ratio and ratio.base is not None and ratio.other is not None:
        cold, hit = figures.percent(ratio.base), figures.percent(ratio.other)
        bare = scenario.cold is None
        yield words.say("a_hit_rate_bare" if bare else "a_hit_rate", cold=cold, hit=hit)


def _nodes(scenario: Scenario, words: Words) -> Iterator[str]:
    nodes = scenario.effects.get("nodes")
    if nodes is None:
        return
    span = phrasing.span_of(nodes, words)
    interval = words.say("drift_interval", span=span) if span else ""
    same = nodes.verdict.word == "same"
    yield words.say(
        "a_nodes_same" if same else "a_nodes",
        change=figures.change(nodes.ratio),
        interval=interval,
    )
    documents = scenario.effects.get("one_hit")
    if documents and scenario.value != "one_hit":
        yield words.say("a_documents", change=_change(documents, words))


def _decoding(scenario: Scenario, words: Words) -> Iterator[str]:
    tpot, result = scenario.effects.get("tpot"), scenario.result("tpot_ratio")
    if tpot is None or result is None:
        return
    forms = {"met": "equal", "met_in_1_run": "equal_run", "not_met": "changed"}
    form = forms.get(result.status, "open")
    yield _from_to(f"a_tpot_{form}", tpot, words)


def _from_to(phrase: str, effect: Effect, words: Words) -> str:
    return words.say(
        phrase,
        base=figures.ms(effect.base_mean),
        other=figures.ms(effect.other_mean),
        change=_change(effect, words),
    )


def _change(effect: Effect, words: Words) -> str:
    """`-47.5 %, -60.1 to -31.0 % with 95 % confidence`; the change alone without an interval."""
    return figures.change(effect.ratio) + phrasing.interval(effect, words, "change")


def conclusions(conclusion: Conclusion, words: Words) -> Iterator[str]:
    """One sentence a status, with the scenarios that have it; TTFT first, then throughput."""
    judged = [one for one in conclusion.scenarios if one.comparable and not one.same_arm]
    for target, prefix in ((TARGET, "c_"), ("throughput_increase", "c_throughput_")):
        by_status: dict[tuple[str, str], list[str]] = {}
        for one in judged:
            result = one.result(target)
            if result is None:
                continue
            wish = phrasing.wish(result.target, words)
            by_status.setdefault((result.status, wish), []).append(phrasing.name(one))
        for (status, wish), names in by_status.items():
            said = words.maybe(f"{prefix}{status}", names=words.names(names), wish=wish)
            if said:
                yield said
    for one in conclusion.scenarios:
        if one.same_arm and one.one_hit:
            word = one.one_hit.verdict.word
            said = words.maybe(f"c_aa_{word}", names=phrasing.name(one))
            if said:
                yield said


def advice(conclusion: Conclusion, words: Words) -> list[str]:
    """Each piece of advice once, with the scenarios that it is for."""
    gathered: dict[Advice, list[str]] = {}
    for one in conclusion.scenarios:
        if not one.comparable and one.name in conclusion.contrasted:
            continue
        for key, values in _advice(one, words):
            gathered.setdefault((key, tuple(sorted(values.items()))), []).append(phrasing.name(one))
    for case in conclusion.capacities:
        for key in capacity_advice(case):
            gathered.setdefault((key, ()), []).append(case.name)
    return [
        words.say(key, names=words.names(names), **dict(values))
        for (key, values), names in gathered.items()
    ]


def _advice(scenario: Scenario, words: Words) -> Iterator[tuple[str, dict[str, str]]]:
    if not scenario.comparable:
        missing = [words.say(f"missing_{role}") for role in scenario.missing]
        yield "d_missing", {"missing": words.listed(missing)}
    if not scenario.comparable or scenario.same_arm:
        return
    tainted = invalid(scenario)
    if tainted:
        key = next((f"d_{one}" for one in tainted if one in ("contaminated", "drift")), "d_invalid")
        reasons = {} if key == "d_contaminated" else {"reasons": phrasing.reasons(tainted, words)}
        yield key, reasons
        return
    if scenario.old:
        yield "d_old", {}
        return
    yield from ((key, {}) for key in _missing(scenario))
    need = scenario.need
    if need and scenario.until and need.needed and not need.reached:
        width = figures.percent(scenario.until)
        yield "d_until", {"needed": str(need.needed), "width": width}
    yield from _measured(scenario, words)


def _missing(scenario: Scenario) -> Iterator[str]:
    """What the measurement lacks."""
    codes = scenario.codes()
    by = scenario.one_hit.verdict.by if scenario.one_hit else []
    if "lost" in codes:
        yield "d_lost"
    if "cold_not_shown" in codes:
        yield "d_cold"
    if "tier_not_shown" in codes and scenario.evidence.served is None:
        yield "d_not_shown"
    if {"few_groups", "few_pairs"} & set(by):
        yield "d_contexts"
    if scenario.repeats < 3:
        yield "d_repeats" if scenario.repeats == 1 else "d_two_repeats"


def _measured(scenario: Scenario, words: Words) -> Iterator[tuple[str, dict[str, str]]]:
    """What the numbers themselves advise."""
    result = scenario.result(TARGET)
    ways = shape_ways(scenario, result, words) if result else ""
    if ways:
        yield "d_shape", {"ways": ways}
    throughput = scenario.result("throughput_increase")
    hit = scenario.one_hit
    if hit is None:
        return
    if throughput and throughput.status == "not_reachable" and hit.verdict.word == "faster":
        yield "d_output", {}
    if hit.verdict.by in (["drift_open"], ["drift_unchecked"]):
        yield f"d_{hit.verdict.by[0]}", {}
    shown = scenario.evidence.served in ("local", "store", "remote")
    if hit.verdict.word == "faster" and shown and "lost" not in scenario.codes():
        key = "d_use" if hit.verdict.scope == "repeats" else "d_use_run"
        yield key, {"tier": phrasing.tier(scenario, words), "saved": figures.ms(hit.saved)}
    if hit.verdict.word in ("slower", "same"):
        yield f"d_{hit.verdict.word}", {}
