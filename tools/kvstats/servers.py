"""What the servers counted over the round, one entry per URL, and which of them served us."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from kvpipe.records import Role, Served, ServerMetrics

START_SLACK_S = 1.0  # some exporters round the start time to whole seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerCounts:
    """One server over the round; shards' windows differ a little, so the largest change counts."""

    url: str
    role: Role
    endpoint_url: str | None
    counters: dict[str, float | None]
    deltas: dict[str, float]
    restarted: str | None  # how the restart shows

    def counter(self, name: str) -> float | None:
        """The change of a counter; null if this server does not count it, or was restarted."""
        return None if self.restarted else self.counters.get(name)


def servers_of(records: Iterable[ServerMetrics]) -> list[ServerCounts]:
    """Servers that could be read, by URL."""
    by_url: dict[tuple[str, Role], list[ServerMetrics]] = {}
    for record in records:
        if record.error is None:
            by_url.setdefault((record.url, record.role), []).append(record)
    return [_merged(group) for _, group in sorted(by_url.items())]


def gone_of(records: Iterable[ServerMetrics]) -> list[str]:
    """URLs of servers that nobody could read after the round, though their counters were known."""
    by_url: dict[str, list[ServerMetrics]] = {}
    for record in records:
        by_url.setdefault(record.url, []).append(record)
    return [
        url
        for url, group in sorted(by_url.items())
        if all(one.error is not None for one in group) and any(one.fell for one in group)
    ]


def _merged(group: Sequence[ServerMetrics]) -> ServerCounts:
    counters: dict[str, float | None] = {}
    deltas: dict[str, float] = {}
    for record in group:
        for name, value in record.counters.items():
            counters[name] = _larger(counters.get(name), value)
        for series, change in record.deltas.items():
            deltas[series] = max(deltas.get(series, -math.inf), change)
    restarts = [_restart(record) for record in group]
    return ServerCounts(
        url=group[0].url,
        role=group[0].role,
        endpoint_url=next((r.endpoint_url for r in group if r.endpoint_url is not None), None),
        counters=counters,
        deltas=deltas,
        restarted=next((how for how in restarts if how is not None), None),
    )


def _larger(one: float | None, other: float | None) -> float | None:
    known = [value for value in (one, other) if value is not None]
    return max(known) if known else None


def _restart(record: ServerMetrics) -> str | None:
    before, after = record.start_before_s, record.start_after_s
    if before is not None and after is not None and abs(after - before) > START_SLACK_S:
        return f"its start time changed by {after - before:.0f} s"
    if record.fell:
        return f"{record.fell[0]} fell" + (
            f" and {len(record.fell) - 1} more counters" if len(record.fell) > 1 else ""
        )
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """The servers by what they have to do with our endpoints."""

    prefill: list[ServerCounts]
    decode: list[ServerCounts]
    nodes: list[ServerCounts]  # engines that answered us
    idle: list[ServerCounts]  # engines of other endpoints: nothing of ours went there
    stores: list[ServerCounts]
    gone: list[str] = field(default_factory=list)  # URLs that answered before the round only

    @property
    def disaggregated(self) -> bool:
        """Whether prefill and decode run on servers of their own."""
        return bool(self.prefill or self.decode)

    @property
    def caches(self) -> list[ServerCounts]:
        """Servers whose tokens by source are the cache's work: never a decoder's transfers."""
        return self.prefill or ([] if self.decode else self.nodes)

    @property
    def every(self) -> list[ServerCounts]:
        """All of them."""
        return [*self.prefill, *self.decode, *self.nodes, *self.idle, *self.stores]


def serving(
    servers: Sequence[ServerCounts], endpoints: Iterable[str], gone: Sequence[str] = ()
) -> Serving:
    """Tell the servers apart. Engines behind a router have no endpoint of their own: all serve."""
    ours = {_bare(url) for url in endpoints}
    engines = [server for server in servers if server.role == "node"]
    own = [s for s in engines if s.endpoint_url is not None and _bare(s.endpoint_url) in ours]
    prefill = [server for server in servers if server.role == "prefill"]
    decode = [server for server in servers if server.role == "decode"]
    nodes = own or ([] if prefill or decode else [s for s in engines if s.endpoint_url is None])
    return Serving(
        prefill=prefill,
        decode=decode,
        nodes=nodes,
        idle=[server for server in engines if server not in nodes],
        stores=[server for server in servers if server.role == "store"],
        gone=[*gone],
    )


def own_nodes(serving: Serving, endpoint_url: str) -> list[ServerCounts]:
    """The serving engines whose own endpoint this is."""
    wanted = _bare(endpoint_url)
    return [s for s in serving.nodes if s.endpoint_url and _bare(s.endpoint_url) == wanted]


def _bare(url: str) -> str:
    return url.rstrip("/").removesuffix("/v1").rstrip("/")


def total(servers: Sequence[ServerCounts], name: str) -> float | None:
    """Sum of a counter; null without servers or if one of them does not count it."""
    values = [server.counter(name) for server in servers]
    known = [value for value in values if value is not None]
    return sum(known) if known and len(known) == len(values) else None


def served_by(servers: Sequence[ServerCounts]) -> Served | None:
    """Prompt tokens by source; null if no counter tells."""
    served = Served(
        computed=total(servers, "computed_tokens"),
        local=total(servers, "local_tokens"),
        external=total(servers, "external_tokens"),
    )
    return None if served == Served() else served
