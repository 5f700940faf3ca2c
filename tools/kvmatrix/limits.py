"""What a search for a capacity is asked for: `capacity` of a scenario, read and checked."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import msgspec

from kvmatrix.estimate import AROUND_S, Shape
from kvschemas.checked import Config, Key

REQUESTS, GOODPUT, PRECISION = 200, 0.99, 0.05
UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "": 1.0}
OWN_RATE = ("rounds", "concurrency", "requests", "rate", "arrival", "sentinels")
"""Keys of a scenario that say what a search finds out, or says itself."""


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is searched for, and where."""

    slo: dict[str, str]
    goodput: float
    """Share of the offered requests that must keep every limit; a failure keeps none."""
    from_rps: float
    to_rps: float
    precision: float
    """The search ends when the rate that failed is at most this share above the one that passed."""
    requests: int
    """Of a probe at least."""

    @property
    def misses(self) -> float:
        """Share of the requests that may break the SLO."""
        return 1.0 - self.goodput

    def allowed(self, requests: int) -> int:
        """How many of so many requests may break the SLO."""
        return math.floor(requests * self.misses + 1e-9)

    def requests_at(self, rate_rps: float) -> int:
        """How many requests a probe at this rate sends.

        A rate above capacity by the precision must have the time to show it: the queue that it
        leaves grows by that share of the time, and must reach the limit on TTFT. Doubled, not
        fitted, so that few plans serve all rates.
        """
        needed = rate_rps * seconds(self.slo["ttft"]) / self.precision
        count = self.requests
        while count < needed:
            count *= 2
        return count


def limits_of(
    matrix: Config,
    key: Key,
    entry: dict[str, Any],
    *,
    salt: str,
    endpoints: dict[int, str],
    tier: str | None,
) -> Limits | None:
    """The `capacity` of a scenario; None where it has none, ToolError where it cannot be shown."""
    if "capacity" not in entry:
        return None
    _refuse_others(matrix, key, entry)
    if salt in ("none", "request"):
        raise matrix.error(
            f"with salt {salt} nothing tells requests that hit from those that do not: leave"
            " isolation.salt out",
            *(*key, "capacity"),
        )
    if tier not in (None, "local") or len(set(endpoints.values())) > 1:
        raise matrix.error(
            "a capacity is searched for on one endpoint, with hits in the engine's own cache: hits"
            " from further away would be local from the second probe on",
            *(*key, "capacity"),
        )
    value = entry["capacity"]
    limits = Limits(
        slo={name: str(limit) for name, limit in value["slo"].items()},
        goodput=share(value.get("goodput", GOODPUT)),
        from_rps=float(value["from_rps"]),
        to_rps=float(value["to_rps"]),
        precision=share(value.get("precision", PRECISION)),
        requests=value.get("requests", REQUESTS),
    )
    _check(matrix, limits, (*key, "capacity"))
    return limits


def _refuse_others(matrix: Config, key: Key, entry: dict[str, Any]) -> None:
    for other in OWN_RATE:
        if other in entry:
            raise matrix.error(
                "a capacity is searched for with rates and requests of its own: leave it out, or"
                " give `capacity.requests`",
                *(*key, other),
            )


def search_shape(shape: Shape, limits: Limits) -> Shape:
    """What the search of one repeat costs, as rounds at the middle of its range."""
    wide, fine = math.log2(limits.to_rps / limits.from_rps), math.log2(1 + limits.precision)
    probes = 1 + wide / 4 + max(0.0, -math.log2(fine))
    return replace(
        shape,
        requests=limits.requests,
        concurrency=1,
        rate_rps=math.sqrt(limits.from_rps * limits.to_rps),
        rounds=round(2 * probes) + 1,
        controls=0,
        pause_s=AROUND_S,
    )


def _check(matrix: Config, limits: Limits, key: Key) -> None:
    if limits.from_rps >= limits.to_rps:
        raise matrix.error(
            "it must be above from_rps: rates between them are tried", *key, "to_rps"
        )
    if not 0.01 <= limits.precision <= 1:
        raise matrix.error("a share from 1% to 100% is wanted", *key, "precision")
    if not 0.5 <= limits.goodput < 1:
        raise matrix.error("a share from 50% to below 100% is wanted", *key, "goodput")
    least = math.ceil(1 / limits.misses - 1e-9)
    if limits.requests < least:
        raise matrix.error(
            f"{limits.requests} requests cannot show {limits.goodput:.4%} of goodput, since one"
            f" miss is more: {least} allow one, {2 * least} two",
            *key,
            "requests",
        )


def share(text: float | str) -> float:
    """`5%` or 0.05, as a ratio."""
    if isinstance(text, str):
        return float(text.rstrip("% ")) / 100
    return float(text)


def seconds(text: str) -> float:
    """`2s`, `50ms`, as the schema has seen to it."""
    number = text.rstrip("ums")
    return float(number) * UNITS[text[len(number) :]]
