"""The plan of a matrix, for people: what will run, how it is isolated, how long it may take."""

from __future__ import annotations

from collections.abc import Sequence

from kvmatrix.estimate import ASSUMED, duration
from kvmatrix.matrix import Matrix, Scenario
from kvmatrix.quoting import shown
from kvmatrix.schedule import Step


def plan_text(matrix: Matrix, steps: Sequence[Step]) -> str:
    """The plan, line by line; ends with the estimate of what is still to do."""
    due = [step for step in steps if step.attempt is not None]
    lines = [
        f"{shown(str(matrix.path))}: {len(matrix.scenarios)} scenarios x {matrix.repeats}"
        f" repeats, {len(due)} of {len(steps)} still to do, into {matrix.out}"
    ]
    for number, scenario in enumerate(matrix.scenarios, 1):
        left = sum(step.scenario is scenario for step in due)
        lines.append(f"  {number}/{len(matrix.scenarios)} {shown(scenario.name)}")
        lines.append(f"      {_what(scenario)}; {left} to do")
        lines.append(f"      isolation: {_isolation(matrix, scenario)}")
        lines += filter(None, [_before(matrix, scenario)])
    total = sum(step.scenario.shape.repeat_s for step in due)
    lines.append(f"estimate: about {duration(total)}, {ASSUMED}")
    return "\n".join(lines) + "\n"


def _what(scenario: Scenario) -> str:
    shape = scenario.shape
    if scenario.capacity is not None:
        limits = scenario.capacity
        kept = " and ".join(f"{name} <= {limit}" for name, limit in limits.slo.items())
        return (
            f"{scenario.scenario}, capacity between {limits.from_rps:g} and {limits.to_rps:g}"
            f" requests/s: {limits.goodput:.4g} of them with {kept}, within"
            f" {limits.precision:.3g}, {duration(shape.repeat_s)} a repeat"
        )
    load = "serial" if shape.concurrency == 1 else f"{shape.concurrency} at a time"
    if shape.rate_rps is not None:
        load = f"{shape.rate_rps:g} requests/s"
    rounds = f"{shape.rounds} rounds" + (" and a control" if scenario.control else "")
    return (
        f"{scenario.scenario}, {shape.requests} requests with sentinels, {load}, {rounds},"
        f" {duration(shape.repeat_s)} a repeat"
    )


def _before(matrix: Matrix, scenario: Scenario) -> str:
    """The user's own steps ahead of the clearing; empty where there are none."""
    steps = sum(len(flags) // 2 for flags in matrix.between)
    parts = [f"{steps} steps of the matrix"] if steps else []
    commands = scenario.restart.count("--command")
    parts += [f"restart by {commands} commands, then health"] if commands else []
    return f"      before it: {', '.join(parts)}" if parts else ""


def _isolation(matrix: Matrix, scenario: Scenario) -> str:
    salt = "no salt" if scenario.salt == "none" else "a new salt for each repeat"
    if scenario.clearing is None:
        why = "nothing named to clear with" if matrix.clears else "no clearing wanted"
        return f"{salt}; {why}"
    what = ", ".join(scenario.clearing.named) or "commands"
    return f"{salt}; kvclear before each repeat ({what})"
