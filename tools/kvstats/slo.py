"""`--slo NAME=DURATION`: limits that a request must all meet to count as goodput (`goodput`)."""

from __future__ import annotations

import re
from collections.abc import Sequence

from kvpipe.process import UsageError

UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "": 1.0}
COLUMNS = {
    "ttft": "ttft_s",
    "tpot": "tpot_s",
    "e2e": "e2e_s",
    "second_token": "second_token_s",
}
_DURATION = re.compile(r"(\d+(?:\.\d+)?|\.\d+)(us|ms|s|)")


def parse_slos(words: Sequence[str]) -> dict[str, float]:
    """Limits in seconds by name; UsageError that names the word and what would be right."""
    limits: dict[str, float] = {}
    for word in words:
        name, equals, text = word.partition("=")
        found = _DURATION.fullmatch(text)
        if not equals or found is None or name not in COLUMNS:
            known = ", ".join(COLUMNS)
            raise UsageError(f"--slo {word}: NAME=DURATION is expected, such as ttft=2s ({known})")
        if name in limits:
            raise UsageError(f"--slo {word}: {name} is limited twice")
        limits[name] = float(found[1]) * UNITS[found[2]]
    return limits
