"""Goodput: which requests meet every limit of --slo."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from kvstats.metrics import Column
from kvstats.slo import COLUMNS


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
