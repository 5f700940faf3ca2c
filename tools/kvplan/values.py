"""Values of flags, read strictly.

Complaints are raised as UsageError, which argparse lets through: one line that names the flag,
where its own error would print the whole usage first.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from fractions import Fraction

from kvpipe.process import UsageError
from kvplan.scenarios import Lengths


def number(flag: str, least: int) -> Callable[[str], int]:
    """A whole number of at least `least`."""

    def read(text: str) -> int:
        if not re.fullmatch(r"\d+", text, re.ASCII) or int(text) < least:
            raise UsageError(f"{flag} '{text}': a whole number of {least} or more is expected")
        return int(text)

    return read


def ratio(text: str) -> float:
    """A share, 0 to 1."""
    value = _float(text)
    if not 0 <= value <= 1:
        raise UsageError(f"--shared-ratio '{text}': a number from 0 to 1 is expected")
    return value


def speedup(text: str) -> float:
    """A factor above 0."""
    value = _float(text)
    if not 0 < value < math.inf:
        raise UsageError(f"--speedup '{text}': a number above 0 is expected")
    return value


def scale(text: str) -> Fraction:
    """A factor above 0, `0.25` or `1/4`, without rounding."""
    try:
        value = Fraction(text)
    except (ValueError, ZeroDivisionError):
        value = Fraction(0)
    if value <= 0:
        raise UsageError(f"--scale '{text}': a number above 0 is expected, such as 0.25 or 1/4")
    return value


def window(text: str) -> tuple[float, float]:
    """`A-B` or `A-`: seconds, up to but without B."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)-(\d+(?:\.\d+)?)?", text, re.ASCII)
    if found is None:
        raise UsageError(f"--window '{text}': not A-B in seconds of the trace, such as 600-1200")
    start, end = float(found[1]), float(found[2]) if found[2] else math.inf
    if start >= end:
        raise UsageError(f"--window '{text}': it ends before it begins")
    return start, end


def lengths(flag: str, least: int) -> Callable[[str], Lengths]:
    """`N` or `LO-HI`, of at least `least`."""

    def read(text: str) -> Lengths:
        found = re.fullmatch(r"(\d+)(?:-(\d+))?", text, re.ASCII)
        if found is None:
            raise UsageError(f"{flag} '{text}': neither N nor LO-HI, such as 16000-32000")
        low, high = int(found[1]), int(found[2] or found[1])
        if low > high:
            raise UsageError(f"{flag} '{text}': the lower end comes first: {high}-{low}")
        if low < least:
            raise UsageError(f"{flag} '{text}': at least {least} is expected")
        return Lengths(low=low, high=high)

    return read


def _float(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
