"""What is still to do, and in which order: complete blocks, reshuffled by the seed."""

from __future__ import annotations

import random
import secrets
from dataclasses import dataclass

from kvmatrix.disk import Attempts, attempts_at
from kvmatrix.matrix import Matrix, Scenario
from kvmatrix.quoting import shown
from kvpipe.process import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One repeat of one scenario."""

    scenario: Scenario
    repeat: int
    attempts: Attempts
    attempt: int | None
    """The attempt that will be made; None: a complete one is there."""
    salt: str
    """Literal, of this attempt alone: what an earlier one has stored can never be hit."""


def schedule(matrix: Matrix, only: str | None) -> list[Step]:
    """Every repeat of every scenario, in the order of running.

    The first block stands as in the file, simple first; later ones are shuffled, so that no
    scenario always follows the same one. `only` leaves the others as they are, and makes a
    scenario that is complete once more.
    """
    picked = chosen(matrix, only)
    found = {
        (scenario.slug, repeat): attempts_at(matrix.out, scenario, repeat)
        for scenario in matrix.scenarios
        for repeat in range(1, matrix.repeats + 1)
    }
    again = only is not None and all(
        found[picked[0].slug, repeat].whole for repeat in range(1, matrix.repeats + 1)
    )
    steps = []
    for repeat in range(1, matrix.repeats + 1):
        for scenario in block(matrix, repeat):
            attempts = found[scenario.slug, repeat]
            due = scenario in picked and (again or not attempts.whole)
            steps.append(_step(scenario, repeat, attempts, due))
    return steps


def block(matrix: Matrix, repeat: int) -> list[Scenario]:
    """The order of one block."""
    order = list(matrix.scenarios)
    if repeat > 1:
        random.Random(f"{matrix.seed}-{repeat}").shuffle(order)
    return order


def chosen(matrix: Matrix, only: str | None) -> tuple[Scenario, ...]:
    """The scenarios that are meant: all, or the one of that name."""
    return matrix.scenarios if only is None else (_named(matrix, only),)


def _named(matrix: Matrix, name: str) -> Scenario:
    for scenario in matrix.scenarios:
        if name in (scenario.name, scenario.slug):
            return scenario
    known = ", ".join(repr(shown(scenario.name)) for scenario in matrix.scenarios)
    raise UsageError(f"no scenario is named {shown(name)!r}; there are {known}")


def _step(scenario: Scenario, repeat: int, attempts: Attempts, due: bool) -> Step:
    number = attempts.next_number if due else None
    salt = scenario.salt
    if salt not in ("none", "request"):
        head = "matrix" if salt == "auto" else salt
        salt = f"{head}-{secrets.token_hex(6)}-r{repeat}-a{attempts.next_number}"
    return Step(scenario=scenario, repeat=repeat, attempts=attempts, attempt=number, salt=salt)
