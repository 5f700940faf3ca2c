"""What an audit says: one line per check and place, in phrases that a language fills."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import msgspec

from kvreport.words import Words

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
    "calibration",
    "stats",
    "capacity",
    "outcome",
    "verdict",
    "report",
    "others",
)
"""In the order in which they build on each other."""
ENGLISH = Words("en")


class Said(msgspec.Struct, frozen=True, kw_only=True):
    """A phrase's name and what stands in it: figures, names, other phrases; None: not known."""

    phrase: str
    values: dict[str, Any] = {}

    def text(self, words: Words) -> str:
        filled = {name: _text(value, words) for name, value in self.values.items()}
        return words.say(self.phrase, **filled)

    def __str__(self) -> str:
        return self.text(ENGLISH)


def _text(value: Any, words: Words) -> Any:
    """Text of phrases and of what is not known; figures stay what a phrase formats."""
    if value is None:
        return words.say("audit_not_known")
    if isinstance(value, Said):
        return value.text(words)
    if isinstance(value, list | tuple):
        return words.say("semicolon").join(str(_text(one, words)) for one in value)
    return value


def say(phrase: str, /, **values: Any) -> Said:
    return Said(phrase=phrase, values=values)


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """`where` is a round or a scenario; `said` a sentence without its full stop."""

    check: str
    where: Said
    state: State
    said: Said


EVERYWHERE = Said(phrase="audit_everywhere")


def called(name: str) -> Said:
    """A scenario, or another place, by its name."""
    return say("audit_named", name=name)


def held(check: str, where: Said, wrong: Sequence[Said], right: Said) -> Iterable[Line]:
    """A line for each thing that is wrong, or one that says what was held against what."""
    if not wrong:
        return [Line(check=check, where=where, state="agrees", said=right)]
    return [Line(check=check, where=where, state="disagrees", said=one) for one in wrong]


def unknown(check: str, where: Said, why: Said) -> Line:
    return Line(check=check, where=where, state="unknown", said=why)
