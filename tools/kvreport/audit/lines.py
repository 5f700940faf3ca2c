"""What an audit says: one line per check and place."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec

State = Literal["agrees", "disagrees", "unknown"]
CHECKS = (
    "plan",
    "stream",
    "stamps",
    "usage",
    "cold",
    "sentinels",
    "counters",
    "isolation",
    "stats",
    "verdict",
    "report",
)
"""In the order in which they build on each other."""


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """`where` is a round or a scenario; `said` a sentence without its full stop."""

    check: str
    where: str
    state: State
    said: str


def held(check: str, where: str, wrong: Sequence[str], right: str) -> Iterable[Line]:
    """A line for each thing that is wrong, or one that says what was held against what."""
    if not wrong:
        return [Line(check=check, where=where, state="agrees", said=right)]
    return [Line(check=check, where=where, state="disagrees", said=one) for one in wrong]


def unknown(check: str, where: str, why: str) -> Line:
    return Line(check=check, where=where, state="unknown", said=why)
