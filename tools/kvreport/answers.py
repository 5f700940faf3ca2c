"""The head of the JSON: what the first screen says of each scenario, as figures and codes."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from kvreport.placed import Placed

TARGET = "ttft_reduction"


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """One scenario. Times in seconds, `ratio`, `low` and `high` other by base.

    All of the worth of a hit is null where there is none; `target` where nothing was judged.
    """

    name: str
    simulated: bool
    base: str | None
    other: str | None
    requests: int | None
    model: str | None
    base_s: float | None
    other_s: float | None
    ratio: float | None
    low: float | None
    high: float | None
    verdict: str
    scope: str | None
    by: list[str]
    target: str | None
    asked: list[float]
    repeats: int
    invalid: list[str]
    warnings: list[str]


def codes(findings: Sequence[Placed], severity: str) -> list[str]:
    found = [one.finding.code for one in findings if one.finding.severity == severity]
    return list(dict.fromkeys(found))
