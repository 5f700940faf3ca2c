"""Making findings, and the order in which they stand."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from kvpipe.records import Code, Finding, Severity

_RANK: dict[Severity, int] = {"invalid": 0, "warning": 1, "info": 2}


def finding(code: Code, severity: Severity, message: str, **evidence: Any) -> Finding:
    """A finding; evidence that is null is left out."""
    shown = {key: value for key, value in evidence.items() if value is not None}
    return Finding(code=code, severity=severity, message=message, evidence=shown)


def ordered(found: Iterable[Finding | None]) -> list[Finding]:
    """The findings that there are, each once, the gravest first."""
    unique: list[Finding] = []
    for one in found:
        if one is not None and one not in unique:
            unique.append(one)
    return sorted(unique, key=lambda one: (_RANK[one.severity], one.code, one.message))


def plural(number: int, noun: str) -> str:
    """`1 request`, `2 requests`, `2,048 tokens`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def percent(ratio: float, digits: int = 1) -> str:
    """`66.5 %`, and never a negative zero."""
    return f"{round(ratio * 100, digits) + 0.0:,.{digits}f} %"
