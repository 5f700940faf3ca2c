"""What the engine says of its own times in each answer (vLLM's `--enable-per-request-metrics`)."""

from __future__ import annotations

from typing import Any

from kvstats.distribution import Values, stat_of
from kvstats.lots import Lot

TIMES = {
    "queue": "queue_time_ms",
    "ttft": "time_to_first_token_ms",
    "decode": "generation_time_ms",
}
"""Behind a proxy these are the server's whose answer the proxy passes on: the decoder's."""


class Answered:
    """Distributions over the successes that tell; sentinels too, as servers count them."""

    def __init__(self) -> None:
        self._values = {name: Values() for name in TIMES}

    def add(self, lot: Lot) -> None:
        """Take the successes of a lot."""
        told = lot.known("server_timings")
        if not told:
            return
        for name, key in TIMES.items():
            times = [one.get(key) for one in told]
            self._values[name].extend(
                [at / 1e3 for at in times if isinstance(at, int | float) and at is not True]
            )

    def merge(self, other: Answered) -> None:
        """Take what other answers told."""
        for name, values in self._values.items():
            values.merge(other._values[name])

    def of(self, name: str) -> dict[str, Any] | None:
        """Count, mean, median and P90 in seconds; null if no answer told."""
        stat = stat_of([self._values[name]])
        if not stat.n:
            return None
        return {"n": stat.n, "mean": stat.mean, "p50": stat.p50, "p90": stat.p90}
