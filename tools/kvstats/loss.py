"""What a hit round should have been given and was not, with the cause that counters show."""

from __future__ import annotations

from collections.abc import Sequence

from kvpipe.records import Finding
from kvstats.findings import finding, percent, plural
from kvstats.ideal import Share, Shares
from kvstats.servers import ServerCounts, Serving

LOST_EFFICIENCY = 0.95  # of the ideal hits
LOST_GROUP_EFFICIENCY = 0.5
SHOWN = 5

# Counter, and what it says when it moved. Causes, most telling first.
CAUSES = (
    ("store_evicted_keys", "the store evicted {} keys"),
    ("store_alloc_failures", "the store failed {} allocations"),
    ("load_failed_keys", "{} keys failed to load"),
    ("save_failed_keys", "{} keys failed to be saved"),
    ("preemptions", "the engine preempted {} times"),
)


def lost(shares: Shares, serving: Serving, created_tokens: int) -> Finding | None:
    """The cache gave clearly less than a perfect one; warning.

    Fires below an efficiency of 0.95 over all, or of 0.5 in one group.
    """
    whole = shares.whole.efficiency
    if whole is None:
        return None
    groups = _poor_groups(shares)
    if whole >= LOST_EFFICIENCY and not groups:
        return None
    missing = shares.whole.ideal - shares.whole.cached
    message = (
        f"{shares.whole.cached:,} of {shares.whole.ideal:,} reusable tokens came from the cache "
        f"({percent(whole)}), {missing:,} were lost"
        if whole < LOST_EFFICIENCY
        else f"over all {percent(whole)} of the reusable tokens came from the cache"
    )
    if groups:
        name, share = groups[0]
        more = f" and {plural(len(groups) - 1, 'more group')}" if len(groups) > 1 else ""
        message += f"; group {name} got {percent(share.efficiency or 0.0)}{more}"
    causes = causes_of(serving, created_tokens)
    message += "; " + (", ".join(causes) if causes else "no counter that was read tells why")
    return finding(
        "lost",
        "warning",
        message,
        efficiency=whole,
        cached_tokens=shares.whole.cached,
        ideal_tokens=shares.whole.ideal,
        groups={name: share.efficiency for name, share in groups[:SHOWN]},
        groups_below=len(groups),
        causes=causes,
    )


def _poor_groups(shares: Shares) -> list[tuple[str, Share]]:
    poor = [
        (name, share)
        for name, share in shares.groups.items()
        if (gave := share.efficiency) is not None and gave < LOST_GROUP_EFFICIENCY
    ]
    return sorted(poor, key=lambda item: (item[1].efficiency or 0.0, item[0]))


def causes_of(serving: Serving, created_tokens: int) -> list[str]:
    """What moved that should not move in a hit round."""
    found = []
    for name, words in CAUSES:
        count = _moved(serving.every, name)
        if count:
            found.append(words.format(f"{count:,.0f}"))
    if created_tokens:
        found.append(f"the engine put {plural(created_tokens, 'token')} into its cache anew")
    return found


def _moved(servers: Sequence[ServerCounts], name: str) -> float:
    return sum(server.counter(name) or 0.0 for server in servers)
