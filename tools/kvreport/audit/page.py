"""An audit on one page: what the records alone give, what disagrees with them, and the hash."""

from __future__ import annotations

import math
from collections.abc import Iterator

from kvreport import answer, phrasing
from kvreport.audit.audit import Audit, Derived
from kvreport.audit.lines import CHECKS, Line
from kvreport.capacity_chapter import sentence
from kvreport.conclusion import Conclusion, Scenario
from kvreport.document import Block, Bullets, Document, Facts, Heading, Paragraph
from kvreport.figures import NBSP, change
from kvreport.words import Words

MOST = 5
"""Disagreements of one kind that are listed."""


def document_of(audit: Audit, own: Conclusion, words: Words) -> Document:
    """`own` is what a report would conclude from the records that were audited."""
    title = "audit_title_agrees" if audit.agrees else "audit_title_disagrees"
    blocks: list[Block] = [
        Heading(1, words.say(title)),
        Heading(2, words.say("audit_alone")),
        *_answer(audit, own, words),
    ]
    wrong = [*_wrong(audit.lines, words)]
    if wrong:
        blocks += [Heading(2, words.say("audit_wrong")), Bullets(wrong)]
    blocks += [
        Heading(2, words.say("audit_looked")),
        Facts([*_looked(audit.lines, words)]),
        Heading(2, words.say("audit_hash")),
        Paragraph(f"sha256 {audit.sha256}"),
        Paragraph(words.say("audit_hash_of", records=audit.records)),
    ]
    return Document(blocks=blocks)


def _answer(audit: Audit, own: Conclusion, words: Words) -> Iterator[Block]:
    """The same lines as a report's first screen, for a few scenarios; one line each for many."""
    if not (audit.derived or own.capacities):
        yield Paragraph(words.say("audit_nothing"))
    derived: dict[str, list[Derived]] = {one.name: [] for one in audit.derived}
    for one in audit.derived:
        derived[one.name].append(one)
    if len(derived) > answer.FEW:
        yield Facts([(_effect(one, words), verdict(one, words)) for one in audit.derived])
    else:
        for scenario in own.scenarios:
            if scenario.name in derived:
                yield Heading(3, _name(scenario, words))
                yield Facts([*_rows(scenario, derived[scenario.name], audit, words)])
    yield from (Paragraph(sentence(one, words)) for one in own.capacities)


def _name(scenario: Scenario, words: Words) -> str:
    shown = phrasing.name(scenario)
    return words.say("simulated_name", name=shown) if scenario.simulated else shown


def _rows(
    scenario: Scenario, derived: list[Derived], audit: Audit, words: Words
) -> Iterator[tuple[str, str]]:
    kept = [words.say(one) for one in ("compared", "target", "how_sure")]
    told = [row for row in answer.facts(scenario, words) if row[0] in kept]
    yield from (row for row in told if row[0] == kept[0])
    yield from ((_effect(one, words, bare=True), verdict(one, words)) for one in derived)
    yield from (row for row in told if row[0] != kept[0])
    yield words.say("doubts"), _doubts(scenario, audit, words)


def _doubts(scenario: Scenario, audit: Audit, words: Words) -> str:
    """What disagrees comes first; a report may have findings that are not looked at here."""
    count = sum(one.state == "disagrees" for one in audit.lines)
    parts = [words.say("audit_doubts_disagree", count=count)] if count else []
    found = any(one.finding.severity != "info" for one in scenario.findings)
    if found:
        parts.append(answer.doubts(scenario, words))
    elif not count:
        parts.append(words.say("audit_doubts_none"))
    return words.say("semicolon").join(parts)


def _effect(one: Derived, words: Words, *, bare: bool = False) -> str:
    what = words.say("m_ttft_s" if one.effect == "ttft" else "one_hit")
    return what if bare else words.say("audit_effect", name=one.name, effect=what)


def verdict(one: Derived, words: Words) -> str:
    """`faster (3 repeats): -83.9 %, 95 % interval -85.3 to -82.3 %`."""
    mean = sum(one.thetas) / len(one.thetas)
    repeats = len(one.thetas)
    word = words.say(f"audit_word_{one.verdict}")
    if one.by:
        word = words.say("audit_word_by", word=word, by=phrasing.reasons(one.by, words))
    values = {
        "word": word,
        "scope": words.say("audit_repeats" if repeats > 1 else "audit_one_run", repeats=repeats),
        "change": change(math.exp(mean)),
    }
    if one.interval is None:
        return words.say("audit_verdict_bare", **values)
    low, high = (change(math.exp(end)) for end in one.interval)
    low = low.removesuffix(NBSP + "%")
    return words.say("audit_verdict", span=words.say("span", low=low, high=high), **values)


def _wrong(lines: list[Line], words: Words) -> Iterator[str]:
    for check in CHECKS:
        name = words.say(f"audit_check_{check}")
        found = [one for one in lines if one.check == check and one.state == "disagrees"]
        for one in found[:MOST]:
            where, said = one.where.text(words), one.said.text(words)
            yield words.say("audit_line", check=name, where=where, said=said)
        if len(found) > MOST:
            yield words.say("audit_more", check=name, count=len(found) - MOST)


def _looked(lines: list[Line], words: Words) -> Iterator[tuple[str, str]]:
    """A row a check: in how many places, what was found, and what could not be looked at."""
    for check in CHECKS:
        found = [one for one in lines if one.check == check]
        if found:
            parts = [*_parts(found, words)]
            yield words.say(f"audit_check_{check}"), words.say("semicolon").join(parts)
        elif check != "others":
            yield words.say(f"audit_check_{check}"), words.say("audit_not_published")


def _parts(found: list[Line], words: Words) -> Iterator[str]:
    right = [one for one in found if one.state == "agrees"]
    if right:
        kinds = list(dict.fromkeys(one.said.text(words) for one in right))
        form = "audit_agree_more" if len(kinds) > 1 else "audit_agree"
        yield words.say(form, count=len(right), example=kinds[0])
    wrong = sum(one.state == "disagrees" for one in found)
    if wrong:
        yield words.say("audit_disagree", count=wrong)
    why = [one.said.text(words) for one in found if one.state == "unknown"]
    if why:
        yield words.say("audit_unknown", count=len(why), why=why[0])
