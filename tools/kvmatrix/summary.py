"""What became of a matrix: total, succeeded, failed, tainted, time; from what lies on disk."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kvmatrix.disk import DESCRIBED, Attempts, attempts_at
from kvmatrix.estimate import duration
from kvmatrix.matrix import Matrix, Scenario
from kvmatrix.quoting import shown

LOG_LINES = 3  # of a failed attempt, at the end: what went wrong, and what was going on
ERRORS = ("kvload: ", "kvclear: ", "kvplan: ")
CONTAMINATED = ("contaminated", "not_isolated")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One scenario's."""

    scenario: Scenario
    done: int
    tainted: tuple[str, ...]
    """Why its figures are in doubt."""
    error: tuple[str, ...]
    """Last lines of the log of the repeat that failed last."""
    log: Path | None
    missing: int

    @property
    def state(self) -> str:
        """`succeeded`, `failed`, or `not run`."""
        if self.log is not None:
            return "failed"
        return "not run" if self.missing else "succeeded"


def outcome_of(matrix: Matrix, scenario: Scenario) -> Outcome:
    """What became of one scenario."""
    found = [attempts_at(matrix.out, scenario, repeat) for repeat in range(1, matrix.repeats + 1)]
    missing = [attempts for attempts in found if not attempts.whole]
    failed = [attempts for attempts in missing if attempts.half]
    log = failed[-1].part(failed[-1].half[-1]) / "log" if failed else None
    taints = [reason for attempts in found if (reason := _unverified(attempts))]
    if codes := _findings(matrix.out / scenario.slug / "stats.json"):
        taints.append("found by kvstats: " + ", ".join(codes))
    return Outcome(
        scenario=scenario,
        done=len(found) - len(missing),
        tainted=tuple(dict.fromkeys(taints)),
        error=_error_in(log) if log else (),
        log=log,
        missing=len(missing),
    )


def _unverified(attempts: Attempts) -> str | None:
    """Why a repeat's isolation is in doubt; None where it is not, or only the salt isolates."""
    if not attempts.whole:
        return None
    path = attempts.path(attempts.whole[-1]) / "isolation.json"
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return "no readable record of the isolation"
    if record.get("verified") is True:
        return None
    word = "refuted" if record.get("verified") is False else "not shown"
    return f"isolation {word}: {record.get('reason')}"


def _findings(stats: Path) -> list[str]:
    """Codes of the findings that taint a scenario, in the order of their first appearance."""
    try:
        lines = stats.read_bytes().splitlines()  # of text: a name may have a U+2028
        rounds: list[dict[str, Any]] = [json.loads(line) for line in lines]
    except (OSError, ValueError):
        return []
    codes = [finding["code"] for one in rounds for finding in one.get("findings", [])]
    return list(dict.fromkeys(code for code in codes if code in CONTAMINATED))


def _error_in(log: Path) -> tuple[str, ...]:
    """What a log says went wrong: the tools' own last complaints, else its last lines."""
    try:
        text = log.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ("it was stopped before it began",)
    lines = [line.strip() for line in text.replace("\r", "\n").splitlines() if line.strip()]
    said = [line for line in lines if line.startswith(ERRORS)]
    told = said[-1:] or lines[-LOG_LINES:]
    if not any("FAILED" in line for line in lines):
        told = [*told, "interrupted: the same command begins it again"]
    return tuple(told)


def spent_s(matrix: Matrix) -> float:
    """Seconds that all attempts took, those that failed too: from their files' own stamps."""
    total = 0.0
    for path in matrix.out.glob(f"*/repeat-*/attempt-*/{DESCRIBED}"):
        ends = [other.stat().st_mtime for other in path.parent.iterdir()]
        total += max(0.0, max(ends) - path.stat().st_mtime)
    return total


def summary(matrix: Matrix, meant: Collection[Scenario]) -> tuple[str, bool]:
    """The summary of all as text, and whether everything that is meant succeeded untainted."""
    outcomes = [outcome_of(matrix, scenario) for scenario in matrix.scenarios]
    counts = {
        state: sum(one.state == state for one in outcomes)
        for state in ("succeeded", "failed", "not run")
    }
    tainted = sum(bool(one.tainted) for one in outcomes)
    waiting = f", {counts['not run']} not run" if counts["not run"] else ""
    lines = [
        f"Matrix: {len(outcomes)} scenarios in all, {counts['succeeded']} succeeded,"
        f" {counts['failed']} failed, {tainted} tainted{waiting}; {duration(spent_s(matrix))}"
    ]
    for one in outcomes:
        repeats = f"{one.done} of {matrix.repeats} repeats"
        lines.append(f"  {one.state}: {shown(one.scenario.name)}: {repeats}")
        lines += [f"    tainted: {shown(reason)}" for reason in one.tainted]
        lines += [f"    {shown(text)}" for text in one.error]
        if one.log is not None:
            lines.append(f"    log: {one.log}")
    doubtful = [one for one in outcomes if one.missing or one.tainted]
    return "\n".join(lines) + "\n", not any(one.scenario in meant for one in doubtful)
