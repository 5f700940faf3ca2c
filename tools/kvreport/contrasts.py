"""One scenario against another, the baseline: rounds of equal kind, paired where plans are equal.

Scenarios with other requests stand beside the baseline, each with its change from its own pairs;
only pairing across them is refused.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from kvpipe.process import UsageError
from kvreport.across import across, refusal
from kvreport.conclusion import Conclusion, Contrast
from kvreport.conditions import of_plans
from kvreport.effects import Effect, main_effects
from kvreport.experiments import Experiment, Role
from kvreport.flows import comparable, kept
from kvreport.placed import Placed
from kvreport.verdicts import judge

ROLES: tuple[Role, ...] = ("cold", "hit")
EQUAL: tuple[Role, ...] = (*ROLES, "no_reuse")
"""Rounds of one role in both experiments may be set against each other."""


def contrasted(
    conclusion: Conclusion, experiments: Sequence[Experiment], baseline: str
) -> Conclusion:
    """The conclusion with every other scenario set against the one named `baseline`."""
    names = [one.name for one in experiments]
    if baseline not in names:
        raise UsageError(f"--baseline {baseline}: the scenarios are {', '.join(names) or 'none'}")
    base = experiments[names.index(baseline)]
    findings = {one.name: one.findings for one in conclusion.scenarios}
    contrasts = [
        _contrast(base, one, [*findings[base.name], *findings[one.name]])
        for one in experiments
        if one is not base
    ]
    return msgspec.structs.replace(conclusion, baseline=baseline, contrasts=contrasts)


def _contrast(base: Experiment, other: Experiment, findings: Sequence[Placed]) -> Contrast:
    found: dict[str, Effect] = {}
    for role in EQUAL:
        comparison = across(base, role, other, role)
        if comparison is None:
            continue
        open_loop = base.open_loop or other.open_loop
        effects = main_effects(comparison, open_loop=open_loop)
        for name in effects if comparable(base, other) else kept(list(effects)):
            one = effects[name]
            verdict = judge(one, findings, None)
            found[f"{name}_{role}"] = msgspec.structs.replace(one, verdict=verdict)
    refused = None if found else refusal(base, other)
    return Contrast(
        name=other.name,
        refused=refused,
        effects=found,
        differs=of_plans(base, other) if refused else [],
        token_first=not comparable(base, other),
    )
