"""One scenario against another, the baseline: rounds of equal kind, paired where plans are equal.

Scenarios with other requests stand beside the baseline, each with its change from its own pairs;
only pairing across them is refused.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from kvpipe.process import UsageError
from kvreport.conclusion import Conclusion, Contrast
from kvreport.conditions import of_plans
from kvreport.effects import Comparison, Effect, main_effects
from kvreport.enough import AS_RECORDED, first_stage
from kvreport.experiments import Experiment, Matched, Role
from kvreport.placed import Placed
from kvreport.verdicts import judge

ROLES: tuple[Role, ...] = ("cold", "hit")


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
    stages = [first for one in (base, other) if (first := first_stage(one, AS_RECORDED))]
    for role in ROLES:
        matches = _matches(base, other, role)
        if not matches:
            continue
        comparison = Comparison.of(role, role, matches, min(stages, default=None))
        open_loop = base.open_loop or other.open_loop
        for name, one in main_effects(comparison, open_loop=open_loop).items():
            verdict = judge(one, findings, None)
            found[f"{name}_{role}"] = msgspec.structs.replace(one, verdict=verdict)
    refused = refusal(base, other, found)
    return Contrast(
        name=other.name,
        refused=refused,
        effects=found,
        differs=of_plans(base, other) if refused else [],
    )


def _matches(base: Experiment, other: Experiment, role: Role) -> list[Matched]:
    """Repeats in which both sent the same requests."""
    before = {one.number: one.of(role) for one in base.repeats}
    found = []
    for repeat in other.repeats:
        ours, theirs = before.get(repeat.number, ()), repeat.of(role)
        if not ours or not theirs:
            continue
        one, two = ours[0].run, theirs[0].run
        if one and two and one.plan_sha256 == two.plan_sha256:
            found.append(Matched(repeat=repeat.number, bases=ours, other=theirs[0]))
    return found


def refusal(base: Experiment, other: Experiment, found: dict[str, Effect]) -> str | None:
    """Why nothing was paired: `samples`, other `shape`, or other `text` of the same shape."""
    if found:
        return None
    if base.old or other.old:
        return "samples"
    shapes = [{one.run.shape_sha256 for one in part if one.run} for part in (base, other)]
    return "text" if shapes[0] & shapes[1] else "shape"
