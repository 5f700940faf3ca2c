"""Two experiments set against each other: their repeats by number, where both sent the same plan.

Scenarios of different plans stand side by side, each with its change from its own pairs; only
pairing across them is refused, and the difference is named.
"""

from __future__ import annotations

from kvreport.effects import Comparison
from kvreport.enough import AS_RECORDED, first_stage
from kvreport.experiments import Experiment, Matched, Role


def across(base: Experiment, role: Role, other: Experiment, other_role: Role) -> Comparison | None:
    """The base's rounds of a role against the other's; None where no repeat sent the same.

    Of two first stages the smaller one counts: its spread is what both are known to have.
    """
    before = {one.number: one.of(role) for one in base.repeats}
    matches = []
    for repeat in other.repeats:
        ours, theirs = before.get(repeat.number, ()), repeat.of(other_role)
        if not ours or not theirs:
            continue
        one, two = ours[0].run, theirs[0].run
        if one and two and one.plan_sha256 == two.plan_sha256:
            matches.append(Matched(repeat=repeat.number, bases=ours, other=theirs[0]))
    if not matches:
        return None
    stages = [first for one in (base, other) if (first := first_stage(one, AS_RECORDED))]
    return Comparison.of(role, other_role, matches, min(stages, default=None))


def refusal(base: Experiment, other: Experiment) -> str:
    """Why nothing was paired: `samples`, other `shape`, or other `text` of the same shape."""
    if base.old or other.old:
        return "samples"
    shapes = [{one.run.shape_sha256 for one in part if one.run} for part in (base, other)]
    return "text" if shapes[0] & shapes[1] else "shape"
