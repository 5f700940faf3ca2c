"""An audit on one page: what was held against what, what disagrees, the verdict, the hash."""

from __future__ import annotations

import math
from collections.abc import Iterator

from kvreport.audit.audit import Audit, Derived
from kvreport.audit.lines import CHECKS, Line
from kvreport.display import clean
from kvreport.document import Block, Bullets, Document, Facts, Heading, Paragraph
from kvreport.figures import change

MOST = 5
"""Disagreements of one kind that are listed."""
TITLES = {
    "plan": "Plan",
    "stream": "Streams",
    "stamps": "Stamps",
    "usage": "Tokens",
    "cold": "Cold",
    "sentinels": "Sentinels",
    "counters": "Counters",
    "isolation": "Isolation",
    "stats": "Round stats",
    "verdict": "Verdict",
    "report": "Report",
}


def document_of(audit: Audit) -> Document:
    word = "agrees with its records" if audit.agrees else "DISAGREES with its records"
    blocks: list[Block] = [
        Heading(1, f"Audit: what was published {word}"),
        Heading(2, "By the records alone"),
    ]
    found = [(clean(f"{one.name}: {one.effect}"), verdict(one)) for one in audit.derived]
    blocks.append(Facts(found) if found else Paragraph("Nothing can be compared."))
    wrong = [*_wrong(audit.lines)]
    if wrong:
        blocks += [Heading(2, "What disagrees"), Bullets(wrong)]
    blocks += [Heading(2, "What was looked at"), Facts([*_looked(audit.lines)])]
    blocks += [
        Heading(2, "Hash"),
        Paragraph(f"sha256 {audit.sha256}"),
        Paragraph(f"of {audit.records} records, in any order, and the verdicts that they give."),
    ]
    return Document(blocks=blocks)


def verdict(one: Derived) -> str:
    """`faster (3 repeats): -83.9 %, -85.3 to -82.3 %`."""
    mean = sum(one.thetas) / len(one.thetas)
    by = f" by {', '.join(one.by)}" if one.by else ""
    scope = "in this run" if len(one.thetas) == 1 else f"{len(one.thetas)} repeats"
    ends = ""
    if one.interval:
        low, high = (change(math.exp(end)) for end in one.interval)
        ends = f", 95 % interval {low} to {high}"
    return f"{one.verdict}{by} ({scope}): {change(math.exp(mean))}{ends}"


def _wrong(lines: list[Line]) -> Iterator[str]:
    for check in CHECKS:
        found = [one for one in lines if one.check == check and one.state == "disagrees"]
        for one in found[:MOST]:
            yield clean(f"{TITLES[check]}: {one.where}: {one.said}")
        if len(found) > MOST:
            yield f"{TITLES[check]}: and {len(found) - MOST} more"


def _looked(lines: list[Line]) -> Iterator[tuple[str, str]]:
    """A row a check: in how many places, what was found, and what could not be looked at."""
    for check in CHECKS:
        found = [one for one in lines if one.check == check]
        if not found:
            yield TITLES[check], "not published"
            continue
        right = [one for one in found if one.state == "agrees"]
        parts = []
        if right:
            kinds = dict.fromkeys(one.said for one in right)
            example = next(iter(kinds)) + (", and so on" if len(kinds) > 1 else "")
            parts.append(f"{len(right)} agree ({example})")
        wrong = sum(one.state == "disagrees" for one in found)
        if wrong:
            parts.append(f"{wrong} DISAGREE")
        why = [one.said for one in found if one.state == "unknown"]
        if why:
            parts.append(f"{len(why)} not known ({why[0]})")
        yield TITLES[check], clean("; ".join(parts))
