"""Findings with the rounds that they touch, so that each stands beside the numbers it doubts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from kvpipe.records import Finding, RoundStats
from kvreport.effects import Effect
from kvreport.experiments import Experiment


class Placed(msgspec.Struct, frozen=True, kw_only=True):
    """A finding, the roles of the rounds that it is about, and the repeats in which it was made.

    Roles are `cold`, `hit`, `no_reuse` and `round N` for later ones; several of them mean that the
    finding lies between those rounds. `effects` narrows it to some effects by key; empty: all.
    """

    rounds: list[str]
    repeats: list[int]
    finding: Finding
    effects: list[str] = []

    def touches(self, effect: Effect) -> bool:
        between = set(self.rounds) <= {effect.base, effect.other}
        return between and (not self.effects or effect.key in self.effects)


def of_rounds(experiment: Experiment) -> list[Placed]:
    """What was found in each round; `simulated` is said by the title already."""
    found: list[Placed] = []
    for repeat in experiment.repeats:
        roles = [
            *(("cold", one) for one in repeat.of("cold")),
            *(("hit", one) for one in repeat.of("hit")),
            *((f"round {one.number}", one) for one in repeat.later),
            *(("no_reuse", one) for one in repeat.no_reuse),
        ]
        found += [
            Placed(rounds=[role], repeats=[repeat.number], finding=finding)
            for role, one in roles
            for finding in [*one.stats.findings, *_unsaid(one.stats)]
            if finding.code != "simulated"
        ]
    return found


def _unsaid(stats: RoundStats) -> list[Finding]:
    """What `cold_proof` says must not go lost where no finding says it."""
    said = {finding.code for finding in stats.findings}
    if stats.cold_proof == "contaminated" and "contaminated" not in said:
        message = "the cold round was not cold: some of its tokens came out of a cache"
        return [Finding(code="contaminated", severity="invalid", message=message)]
    if stats.cold_proof == "not shown" and "cold_not_shown" not in said:
        message = "nothing shows that the cold round was cold"
        return [Finding(code="cold_not_shown", severity="warning", message=message)]
    return []


def gathered(findings: Iterable[Placed]) -> list[Placed]:
    """Equal findings of several repeats as one; the worst first, else in order."""
    merged: dict[tuple[object, ...], Placed] = {}
    for one in findings:
        key = (tuple(one.rounds), one.finding.code, one.finding.severity, one.finding.message)
        before = merged.get(key)
        repeats = sorted({*before.repeats, *one.repeats}) if before else one.repeats
        merged[key] = msgspec.structs.replace(one, repeats=repeats)
    rank = {"invalid": 0, "warning": 1, "info": 2}
    return sorted(merged.values(), key=lambda one: rank[one.finding.severity])


def invalid_codes(findings: Sequence[Placed], effect: Effect) -> list[str]:
    """Codes that withhold the verdict of an effect, each once."""
    codes = [
        one.finding.code
        for one in findings
        if one.finding.severity == "invalid" and one.touches(effect)
    ]
    return list(dict.fromkeys(codes))
