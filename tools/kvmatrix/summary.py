"""What became of a matrix: total, succeeded, failed, tainted, time; from what lies on disk."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from kvmatrix.disk import DESCRIBED, Attempts, attempts_at
from kvmatrix.estimate import duration
from kvmatrix.matrix import Matrix, Scenario
from kvmatrix.quoting import shown
from kvpipe.jsonl import NOT_JSON
from kvpipe.records import Outcome

LOG_LINES = 3  # of a failed attempt, at the end: what went wrong, and what was going on
ERRORS = ("kvload: ", "kvclear: ", "kvplan: ")
CONTAMINATED = ("contaminated", "not_isolated")


def outcome_of(matrix: Matrix, scenario: Scenario) -> Outcome:
    """What became of one scenario."""
    found = [attempts_at(matrix.out, scenario, repeat) for repeat in range(1, matrix.repeats + 1)]
    missing = [number for number, attempts in enumerate(found, 1) if not attempts.whole]
    failed = [number for number in missing if found[number - 1].half]
    log = None
    if failed:
        last = found[failed[-1] - 1]
        log = last.part(last.half[-1]) / "log"
    taints = [reason for attempts in found if (reason := _unverified(attempts))]
    stats = _records(matrix.out / scenario.slug / "stats.json")
    if codes := _findings(stats):
        taints.append("found by kvstats: " + ", ".join(codes))
    taints += _stopped(stats)
    if len(missing) < len(found) and not stats:
        taints.append("it has no statistics: they are still to be made, or kvstats failed")
    return Outcome(
        name=scenario.name,
        scenario=scenario.scenario,
        state="failed" if failed else "not_run" if missing else "succeeded",
        repeats=len(found),
        done=len(found) - len(missing),
        failed_repeats=failed,
        tainted=list(dict.fromkeys(taints)),
        error=list(_error_in(log)) if log else [],
        log=str(log) if log else None,
        elapsed_s=_spent_s(matrix.out / scenario.slug),
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
    except (OSError, *NOT_JSON):
        return "no readable record of the isolation"
    if record.get("verified") is True:
        return None
    word = "refuted" if record.get("verified") is False else "not shown"
    return f"isolation {word}: {record.get('reason')}"


def _records(stats: Path) -> list[dict[str, Any]]:
    """The lines of a scenario's statistics; none where they are not there, or broken."""
    try:
        lines = stats.read_bytes().splitlines()  # of text: a name may have a U+2028
        return [json.loads(line) for line in lines]
    except (OSError, *NOT_JSON):
        return []


def _findings(stats: Sequence[dict[str, Any]]) -> list[str]:
    """Codes of the findings that taint a scenario, in the order of their first appearance."""
    codes = [finding["code"] for one in stats for finding in one.get("findings", [])]
    return list(dict.fromkeys(code for code in codes if code in CONTAMINATED))


def _stopped(stats: Sequence[dict[str, Any]]) -> list[str]:
    """Searches for a capacity that have shown nothing, and why."""
    return [
        f"the search of {one['arm']} in repeat {one['repeat']} was stopped: {one['reason']}"
        for one in stats
        if one["record"] == "capacity" and one["state"] == "stopped"
    ]


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


def _spent_s(folder: Path) -> float:
    """Seconds that all attempts took, those that failed too: from their files' own stamps."""
    total = 0.0
    for path in folder.glob(f"repeat-*/attempt-*/{DESCRIBED}"):
        ends = [other.stat().st_mtime for other in path.parent.iterdir()]
        total += max(0.0, max(ends) - path.stat().st_mtime)
    return total


def outcomes(matrix: Matrix) -> list[Outcome]:
    """What became of each scenario, in the matrix' order."""
    return [outcome_of(matrix, scenario) for scenario in matrix.scenarios]


def summary(found: Sequence[Outcome], meant: Collection[str]) -> tuple[str, bool]:
    """The summary of all as text, and whether every scenario meant succeeded untainted."""
    states = Counter(one.state for one in found)
    tainted = sum(bool(one.tainted) for one in found)
    waiting = f", {states['not_run']} not run" if states["not_run"] else ""
    lines = [
        f"Matrix: {len(found)} scenarios in all, {states['succeeded']} succeeded,"
        f" {states['failed']} failed, {tainted} tainted{waiting};"
        f" {duration(sum(one.elapsed_s for one in found))}"
    ]
    for one in found:
        repeats = f"{one.done} of {one.repeats} repeats"
        if one.failed_repeats:
            numbers = ", ".join(map(str, one.failed_repeats))
            repeats += f" (failed: repeat {numbers})"
        lines.append(f"  {one.state.replace('_', ' ')}: {shown(one.name)}: {repeats}")
        lines += [f"    tainted: {shown(reason)}" for reason in one.tainted]
        lines += [f"    {shown(text)}" for text in one.error]
        if one.log is not None:
            lines.append(f"    log: {one.log}")
    doubtful = [one for one in found if one.state != "succeeded" or one.tainted]
    return "\n".join(lines) + "\n", not any(one.name in meant for one in doubtful)
