"""Which rounds got their first token from a prefiller, before the KV transfer (flow `lmcache`)."""

from __future__ import annotations

from kvpipe.records import RoundStats


def flow_name(stats: RoundStats) -> str | None:
    """As kvstats found it; null: not disaggregated, or not known."""
    told = (stats.phases or {}).get("flow")
    name = told.get("name") if isinstance(told, dict) else None
    return name if isinstance(name, str) else None


def token_first(stats: RoundStats) -> bool:
    """Whether token 1 is known to leave before the transfer: its usage lacks that token."""
    return flow_name(stats) == "lmcache"
