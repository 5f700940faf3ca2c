"""Which tier served the cached tokens, by evidence and never by the setting alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from kvpipe.records import Arm, Finding, Served, Tier
from kvstats.findings import finding
from kvstats.rows import Table
from kvstats.tally import Tally

TierServed = Literal["computed", "local", "store", "remote", "mixed"]
MOST = 0.95  # of the cached tokens from one source: the rest is another tier's share


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """Cached tokens by where they came from, and how that is known."""

    local: float
    external: float
    explained_local: float  # local hits that followers owe to their own round
    how: Literal["requests", "counters"]


def leaders_served(tally: Tally) -> Served | None:
    """Sources over leaders and uniques; null where a success does not tell."""
    local, remote = tally.leaders_local.whole, tally.leaders_remote.whole
    if local is None or remote is None:
        return None
    return Served(computed=tally.leaders_computed.whole, local=local, external=remote)


def evidence_of(
    tally: Tally, leaders: Served | None, served: Served | None, table: Table, arm: Arm
) -> Evidence | None:
    """In a hit round the leaders' own sources if told, else the counters less what followers owe.

    A cold round is looked at as a whole: its leaders are computed, whoever served the others.
    """
    if arm == "hit" and leaders is not None:
        return Evidence(
            local=leaders.local or 0.0,
            external=leaders.external or 0.0,
            explained_local=0.0,
            how="requests",
        )
    if served is not None and served.local is not None:
        return Evidence(
            local=served.local,
            external=served.external or 0.0,
            explained_local=float(followers_local(table)) if arm == "hit" else 0.0,
            how="counters",
        )
    local, remote = tally.local.whole, tally.remote.whole
    if local is None or remote is None:
        return None
    return Evidence(local=local, external=remote, explained_local=0.0, how="requests")


def followers_local(table: Table) -> int:
    """Upper bound of what followers may find in the engine's own cache within the round."""
    columns = (table.ints("ideal_in_round_hi"), table.ints("prompt_tokens"))
    rows = zip(table.stratum, *columns, strict=True)
    return sum(
        (prompt or 0) if in_round is None else in_round
        for stratum, in_round, prompt in rows
        if stratum == "follower"
    )


def tier_served(evidence: Evidence | None, tier: Tier, arm: Arm) -> TierServed | None:
    """The tier by name; `external` is called what the experiment put behind the connector."""
    if evidence is None:
        return None
    cached = evidence.local + evidence.external
    if cached <= 0:
        return "computed"
    local = max(0.0, evidence.local - evidence.explained_local)
    if evidence.external <= 0:
        return "local"
    external: TierServed = "remote" if tier == "remote" and arm == "hit" else "store"
    share = evidence.external / (evidence.external + local)
    return external if share >= MOST else "local" if share <= 1 - MOST else "mixed"


def tier_not_shown(
    tier: Tier, arm: Arm, served: TierServed | None, evidence: Evidence | None
) -> Finding | None:
    """A hit round of tier store or remote without evidence that this tier served; warning."""
    if arm != "hit" or tier == "local" or served == tier:
        return None
    if evidence is None:
        return finding(
            "tier_not_shown",
            "warning",
            f"no counter or answer tells local from external hits: that tier {tier} served "
            "is not shown (name the engine with --metrics-url)",
            tier=tier,
        )
    return finding(
        "tier_not_shown",
        "warning",
        f"tier under test is {tier}, but {_what(evidence)}",
        tier=tier,
        served=served,
        local_tokens=evidence.local,
        external_tokens=evidence.external,
        how=evidence.how,
    )


def _what(evidence: Evidence) -> str:
    if evidence.local + evidence.external <= 0:
        return "no tier served a single token: every prompt was computed"
    whose = "leaders and uniques" if evidence.how == "requests" else "all requests together"
    return (
        f"{whose} got {evidence.local:,.0f} tokens from the engine's own cache and "
        f"{evidence.external:,.0f} through a connector"
    )
