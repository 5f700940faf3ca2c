"""The report in a sentence or two: what a hit is worth, whether that is proven, and the doubts.

For people who asked one question and wait for the answer. Nothing is said here that the whole
report does not say; what could not be shown is said too.
"""

from __future__ import annotations

from kvreport import figures, phrasing
from kvreport.answer import compared, doubt, sure, target
from kvreport.capacity_chapter import sentence
from kvreport.conclusion import Conclusion, Scenario
from kvreport.document import Block, Document, Facts, Heading, Paragraph
from kvreport.effects import Effect
from kvreport.figures import NBSP
from kvreport.placed import Placed
from kvreport.words import Words

PROOFS = ("contaminated", "not shown", "proven")
"""The worst first."""


def brief_of(conclusion: Conclusion, words: Words) -> Document:
    """A paragraph for each scenario, and what stands behind it or against it."""
    blocks: list[Block] = []
    for one in conclusion.scenarios:
        if len(conclusion.scenarios) > 1:
            blocks.append(Heading(3, phrasing.name(one)))
        blocks += [Paragraph(headline(one, words)), Facts(_rows(one, words))]
    blocks += [Paragraph(sentence(one, words)) for one in conclusion.capacities]
    return Document(blocks=blocks)


def headline(scenario: Scenario, words: Words) -> str:
    """`A hit on 2.7k tokens saves 825 ms of 885 ms (93.2 %): faster, cold proven.` and the tier."""
    effect = scenario.one_hit
    form = "brief_simulated" if scenario.simulated else "brief"
    if not scenario.comparable:
        return words.say(form, answer=words.say("brief_none", why=compared(scenario, words)))
    if effect is None:
        codes = scenario.refused or ["not_measured"]
        why = phrasing.reasons(codes, words)
        return words.say(form, answer=words.say("brief_none", why=why))
    parts = [worth(scenario, effect, words)]
    if not scenario.same_arm:
        parts.append(served(scenario, words))
    return words.say(form, answer=" ".join(parts))


def worth(scenario: Scenario, effect: Effect, words: Words) -> str:
    """The first sentence: what a hit saves of what, how that is judged, whether cold is cold."""
    lower = effect.saved >= 0
    same = effect.verdict.word == "same"
    form = "brief_same" if same else "brief_saves" if lower else "brief_costs"
    percent = figures.percent(abs(1 - effect.ratio))
    return words.say(
        form,
        what=_what(scenario, words),
        saved=figures.ms(abs(effect.saved)),
        base=figures.ms(effect.base_mean),
        other=figures.ms(effect.other_mean),
        percent=phrasing.marked(percent, scenario, effect, words),
        interval=phrasing.interval(effect, words, "change" if same or not lower else "reduction"),
        verdict=phrasing.verdict(effect, words),
        cold=words.say(f"proof_{proof_of(scenario, effect.base)}"),
    )


def _what(scenario: Scenario, words: Words) -> str:
    if scenario.same_arm:
        return words.say("brief_again")
    if scenario.hit_tokens is None:
        return words.say("brief_hit")
    return words.say("brief_hit_tokens", tokens=thousands(scenario.hit_tokens))


def thousands(tokens: float) -> str:
    """`2.7k`, `24k`, `950`: as lengths of prompts are spoken of."""
    if tokens < 1000:
        return f"{tokens:.0f}"
    return f"{tokens / 1000:.1f}k" if tokens < 9950 else f"{tokens / 1000:.0f}k"


def proof_of(scenario: Scenario, role: str) -> str:
    """The worst proof of all base rounds; one without a proof shows nothing."""
    found = [one.stats.cold_proof or "not shown" for one in scenario.rounds if one.role == role]
    return next((proof for proof in PROOFS if proof in found), "not shown")


def served(scenario: Scenario, words: Words) -> str:
    """The second sentence: which tier the hits came from, and how many of them there were."""
    hits = [one.stats.efficiency for one in scenario.rounds if one.role == "hit"]
    share = words.say("brief_share_unknown")
    if hits and None not in hits:
        least = min(one for one in hits if one is not None)
        share = words.say("brief_share", percent=figures.percent(least))
    tier = scenario.evidence.served
    if tier is None:
        return words.say("brief_tier_unknown", share=share)
    if tier == "computed":
        return words.say("brief_tier_computed")
    return words.say("brief_tier", tier=phrasing.tier(scenario, words), share=share)


def _rows(scenario: Scenario, words: Words) -> list[tuple[str, str]]:
    rows = []
    if scenario.comparable:
        rows.append((words.say("compared"), compared(scenario, words)))
        result = scenario.result("ttft_reduction")
        if result and not scenario.same_arm:
            rows.append((words.say("target"), target(scenario, result, words)))
        rows.append((words.say("how_sure"), sure(scenario, words)))
    kinds: dict[str, list[Placed]] = {}
    for one in scenario.findings:
        if one.finding.severity != "info":
            kinds.setdefault(one.finding.code, []).append(one)
    told = [doubt(found, words) for found in kinds.values()]
    if scenario.old:
        told.insert(0, words.say("old_line"))
    label = words.say("doubts")
    for text in told or [words.say("doubts_none")]:
        rows.append((label, text))
        label = NBSP  # each doubt under the one before it
    return rows
