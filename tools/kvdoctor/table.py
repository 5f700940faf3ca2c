"""Findings for people: a paragraph each, the worst first."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from kvdoctor.rules import client
from kvpipe.process import legible
from kvpipe.records import Diagnosis

WIDTH = 96
OF_THIS_MACHINE = {rule.code for rule in client.RULES}
LABEL = 9


def table(found: Sequence[Diagnosis]) -> str:
    """All findings as text, with a line in front that sums them up."""
    alike: dict[tuple[str, str, str | None], list[Diagnosis]] = {}
    for one in found:
        alike.setdefault((one.code, one.seen, one.change), []).append(one)
    return "\n".join([summary(found), "", *map(_paragraph, alike.values())])


def summary(found: Sequence[Diagnosis]) -> str:
    """How many spoil a measurement."""
    bad = [one for one in found if one.severity != "info"]
    mark = "SIMULATED: " if any(one.simulated for one in found) else ""
    if not bad:
        return f"{mark}nothing was found that spoils a measurement"
    codes = ", ".join(dict.fromkeys(one.code for one in bad))
    plural = "finding spoils" if len(bad) == 1 else "findings spoil"
    return f"{mark}{len(bad)} {plural} a measurement: {codes}"


def _paragraph(alike: list[Diagnosis]) -> str:
    """One finding, of one server or of several."""
    one = alike[0]
    places = [held.where for held in alike if held.where]
    where = ", ".join(places) or ("this machine" if one.code in OF_THIS_MACHINE else "")
    head = f"{one.severity:<{LABEL}}{one.code}  {legible(where)}".rstrip()
    rows = [("seen", one.seen), ("means", one.means), ("change", one.change)]
    return "\n".join([head, *(_row(name, text) for name, text in rows if text), ""])


def _row(name: str, text: str) -> str:
    return textwrap.fill(
        legible(text),
        WIDTH,
        initial_indent=f"  {name:<{LABEL - 2}}",
        subsequent_indent=" " * LABEL,
        break_long_words=False,
        break_on_hyphens=False,
    )
