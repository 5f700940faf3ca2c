"""What a rule is: a question to the evidence, and what a yes means."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from kvdoctor.evidence import Evidence
from kvpipe.records import DiagnosisCode, Severity


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One answer of a rule: where, what was seen there, and what to change."""

    where: str | None
    """Null: this machine, or all of them together."""
    seen: str
    change: str | None = None
    """Null: there is nothing to change."""
    severity: Severity | None = None
    """Null: the rule's own."""
    evidence: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One kind of finding."""

    code: DiagnosisCode
    severity: Severity
    asks: str
    """What is looked at, for the manual."""
    means: str
    """What it means for a measurement, a sentence."""
    judge: Callable[[Evidence], Iterable[Seen]]
