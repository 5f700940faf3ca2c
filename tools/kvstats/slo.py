"""`--slo NAME=DURATION`: limits that a request must all meet to count as goodput."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from kvpipe.process import UsageError
from kvstats.metrics import Column

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


def meets(
    metrics: Mapping[str, Column], limits: Mapping[str, float], *, open_loop: bool
) -> NDArray[np.bool_]:
    """Whether successes meet every limit; a limited TTFT or E2E that is missing is not met.

    In an open loop TTFT counts from when the request was due: that is what its user waited. TPOT
    and the second token do not exist for an answer of one token and are met then.
    """
    met = np.ones(len(metrics["ttft_s"]), dtype=bool)
    for name, limit in limits.items():
        column = metrics["ttft_due_s" if name == "ttft" and open_loop else COLUMNS[name]]
        within = column <= limit  # of NaN it is false
        met &= within if name in ("ttft", "e2e") else within | np.isnan(column)
    return met
