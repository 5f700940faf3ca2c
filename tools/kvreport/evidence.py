"""Which tier served the hits, from what the servers counted; never from what was asked for."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import msgspec

from kvpipe.records import RoundStats, Tier
from kvreport.experiments import Experiment

Tiers = Literal["computed", "local", "store", "remote", "mixed"]
PRODUCTS = {"mooncake": "Mooncake", "lmcache": "LMCache"}


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of the hit rounds, over all repeats.

    `served` is null where nothing tells; `external_tokens` and `local_tokens` are sums over the
    leaders and uniques, or over the whole rounds (`over`), null where not told. `product` is the
    connector whose own counters moved in the hit round. `transferred` is for rounds on two nodes:
    true, false, or null for not shown.
    """

    asked: Tier | None
    served: Tiers | None
    external_tokens: float | None = None
    local_tokens: float | None = None
    over: Literal["leaders", "round"] | None = None
    product: str | None = None
    transferred: bool | None = None


def evidence_of(experiment: Experiment) -> Evidence:
    hits = [one.hit.stats for one in experiment.repeats if one.hit]
    served = _served(hits)
    external, local, over = _tokens(hits)
    if served == "mixed" and over == "leaders" and external and external > (local or 0):
        served = "remote" if experiment.nodes else "store"
    product = _product(hits) if external or served in ("store", "remote") else None
    transferred = _transferred(hits) if experiment.nodes else None
    return Evidence(
        asked=experiment.tier,
        served=served,
        external_tokens=external,
        local_tokens=local,
        over=over,
        product=product,
        transferred=transferred,
    )


def _served(hits: list[RoundStats]) -> Tiers | None:
    """The tier of every repeat, if they agree; null as soon as one is not shown."""
    found = {one.tier_served for one in hits}
    if None in found or not found:
        return None
    return found.pop() if len(found) == 1 else "mixed"


def _tokens(
    hits: list[RoundStats],
) -> tuple[float | None, float | None, Literal["leaders", "round"] | None]:
    leaders = [one.leaders_served for one in hits]
    if leaders and all(leaders):
        return (
            _sum(one.external for one in leaders if one),
            _sum(one.local for one in leaders if one),
            "leaders",
        )
    rounds = [one.served for one in hits]
    if rounds and all(rounds):
        return (
            _sum(one.external for one in rounds if one),
            _sum(one.local for one in rounds if one),
            "round",
        )
    return None, None, None


def _sum(values: Iterable[float | None]) -> float | None:
    told = [one for one in values if one is not None]
    return float(sum(told)) if told else None


def _product(hits: list[RoundStats]) -> str | None:
    """The product whose own counters moved during the hit rounds."""
    moved = {
        name.lower()
        for one in hits
        for server in one.server
        for name, change in server.deltas.items()
        if change > 0
    }
    return next(
        (shown for key, shown in PRODUCTS.items() if any(key in name for name in moved)), None
    )


def _transferred(hits: list[RoundStats]) -> bool | None:
    """True: every hit round loaded from outside; false: one did not; null: one does not tell."""
    found = [_loaded(one) for one in hits]
    if False in found:
        return False
    return True if found and all(found) else None


def _loaded(one: RoundStats) -> bool | None:
    if one.leaders_served and one.leaders_served.external is not None:
        return one.leaders_served.external > 0
    if one.served and one.served.external is not None:
        return one.served.external > 0
    if one.tier_served is None or one.tier_served == "mixed":
        return None
    return one.tier_served in ("remote", "store")
