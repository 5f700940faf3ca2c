"""From evidence to findings: every rule, the worst first. Pure."""

from __future__ import annotations

from kvdoctor.evidence import Evidence
from kvdoctor.rules import (
    behind,
    client,
    crossing,
    equal,
    exposed,
    isolation,
    local,
    notes,
    path,
    reach,
    told,
)
from kvdoctor.rules.rule import Rule, Seen
from kvpipe.process import version
from kvpipe.records import Diagnosis

THEMES: dict[str, tuple[Rule, ...]] = {
    "Is anybody there?": reach.RULES,
    "Are the nodes alike?": equal.RULES,
    "Do the servers tell what is needed?": told.RULES,
    "The engine's own cache": local.RULES,
    "What stands behind the engines": behind.RULES,
    "Does one node find what another stored?": crossing.RULES,
    "Can a round be made cold?": isolation.RULES,
    "The way there": path.RULES,
    "This machine": client.RULES,
    "Open doors": exposed.RULES,
    "For the record": notes.RULES,
}
"""Every rule under the question of its theme."""

RULES: tuple[Rule, ...] = tuple(rule for rules in THEMES.values() for rule in rules)

ORDER = ("invalid", "warning", "info")


def diagnose(evidence: Evidence) -> list[Diagnosis]:
    """What follows from the evidence, the worst first, else in the order of the rules."""
    simulated = any(node.identity and node.identity.simulated for node in evidence.examined)
    found = [_diagnosis(rule, seen, simulated) for rule in RULES for seen in rule.judge(evidence)]
    return sorted(found, key=lambda one: ORDER.index(one.severity))


def _diagnosis(rule: Rule, seen: Seen, simulated: bool) -> Diagnosis:
    return Diagnosis(
        code=rule.code,
        severity=seen.severity or rule.severity,
        where=seen.where,
        seen=sentence(seen.seen),
        means=rule.means,
        change=sentence(seen.change) if seen.change else None,
        evidence=seen.evidence,
        simulated=simulated,
        tool_version=version(),
    )


def sentence(text: str) -> str:
    """With a full stop at its end, as sentences in records have."""
    return text if text.endswith((".", "!", "?")) else f"{text}."
