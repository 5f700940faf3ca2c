"""How many repeats a matrix has, where its first ones decide: two stages (Stein).

The first stage is the matrix' own `repeats`. Then kvreport says how many the wished half-width
takes, from their spread alone, and that is written down once: `OUT/until.json`. Nothing that comes
later changes it, or the interval would be as wide as the results please. All scenarios get the
number of the one that needs most: blocks stay complete.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import msgspec

from kvmatrix.matrix import Matrix
from kvpipe.jsonl import NOT_JSON
from kvpipe.process import ToolError, UsageError
from kvpipe.stein import FIRST_REPEATS, half_width

MAXIMUM = 20
FILE = "until.json"


class Fixed(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The number of repeats as it was fixed, and for what."""

    half_width: float
    first_repeats: int
    maximum: int
    needed: int
    total: int
    """What is needed, or the maximum."""
    fingerprints: dict[str, str]
    """Of all scenarios by slug: another matrix is another question."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Until:
    """What was asked for, and what the first stage has made of it."""

    text: str
    half_width: float
    first_repeats: int
    maximum: int
    total: int | None
    """Repeats in all; None as long as the first stage is not over."""

    @property
    def report_flags(self) -> str:
        """kvreport's."""
        return f" --until {self.text} --until-first {self.first_repeats}"

    @property
    def told(self) -> str:
        """A line of the plan."""
        if self.total is not None:
            return f"until: {self.total} repeats, as the first {self.first_repeats} have fixed\n"
        return (
            f"until: these repeats are the first stage; what +- {self.text} takes is run after"
            f" them, at most {self.maximum} in all\n"
        )

    @property
    def own_flags(self) -> list[str]:
        """kvmatrix' own."""
        return [f"--until={self.text}", f"--until-max={self.maximum}"]


def until_of(matrix: Matrix, text: str, maximum: int | None) -> Until:
    """What `--until` means for this matrix today; UsageError if it cannot be."""
    width = half_width(text)
    first = matrix.repeats
    if first < FIRST_REPEATS:
        raise UsageError(
            f"--until {text}: the first stage has {FIRST_REPEATS} repeats or more, and the matrix"
            f" says repeats: {first}"
        )
    most = MAXIMUM if maximum is None else maximum
    if most < first:
        raise UsageError(f"--until-max {most}: the matrix begins with {first} repeats")
    until = Until(text=text, half_width=width, first_repeats=first, maximum=most, total=None)
    fixed = _read(matrix.out / FILE)
    if fixed is None or _asked(fixed) != (width, first, most, _fingerprints(matrix)):
        return until
    return dataclasses.replace(until, total=fixed.total)


def with_total(matrix: Matrix, until: Until) -> Matrix:
    """The matrix with as many repeats as were fixed; the first stage's before that."""
    if until.total is None:
        return matrix
    return dataclasses.replace(matrix, repeats=until.total)


def fix(matrix: Matrix, until: Until, report: str) -> Fixed:
    """What a report on the first stage fixes; ToolError where it cannot be said."""
    try:
        found = msgspec.json.decode(Path(report).read_bytes()).get("until")
    except (OSError, AttributeError, *NOT_JSON) as error:
        raise ToolError(f"{report}: no report of kvreport: {error}") from error
    if not found or found.get("needed") is None:
        raise ToolError(
            f"--until {until.text}: some scenario has fewer than {FIRST_REPEATS} comparable"
            " repeats, so their spread is not known: the same command tries again"
        )
    return Fixed(
        half_width=until.half_width,
        first_repeats=until.first_repeats,
        maximum=until.maximum,
        needed=found["needed"],
        total=max(until.first_repeats, min(found["needed"], until.maximum)),
        fingerprints=_fingerprints(matrix),
    )


def _asked(fixed: Fixed) -> tuple[float, int, int, dict[str, str]]:
    return fixed.half_width, fixed.first_repeats, fixed.maximum, fixed.fingerprints


def _fingerprints(matrix: Matrix) -> dict[str, str]:
    return {one.slug: one.fingerprint for one in matrix.scenarios}


def _read(path: Path) -> Fixed | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Fixed)
    except (OSError, *NOT_JSON):
        return None
