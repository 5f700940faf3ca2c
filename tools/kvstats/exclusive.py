"""Exclusive use: what the servers counted is what we sent, and they are the servers they were.

Upper bounds always hold; lower bounds only after a quiet barrier, since an engine may count a
request a step after its last token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kvpipe.records import Finding
from kvstats.findings import finding, plural
from kvstats.servers import ServerCounts, Serving, own_nodes, total
from kvstats.tally import Traffic

GONE = "its counters could be read before it and not after it"


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """A counter against what we know: it must lie within [low, high]."""

    noun: str
    counted: float
    low: float
    high: float

    @property
    def excess(self) -> float:
        """How far it lies outside; negative below."""
        return max(0.0, self.counted - self.high) or min(0.0, self.counted - self.low)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """Servers and what of ours went to them."""

    servers: Sequence[ServerCounts]
    ours: Traffic
    tokens: bool  # PD roles each see another part of a request's tokens
    whole: bool  # all of ours went to these servers and has been counted: the lower bound holds


def foreign_traffic(
    serving: Serving, traffic: Mapping[str, Traffic], *, quiet: bool
) -> Finding | None:
    """Somebody else used the engines, or several stand behind one URL; invalid."""
    ours, nothing = Traffic(), Traffic()
    for part in traffic.values():
        ours.merge(part)
    behind_router = [server for server in serving.nodes if server.endpoint_url is None]
    scopes = [
        Scope(servers=serving.prefill, ours=ours, tokens=False, whole=quiet),
        Scope(servers=serving.decode, ours=ours, tokens=False, whole=quiet),
        Scope(servers=behind_router, ours=ours, tokens=True, whole=False),
        *(
            Scope(servers=own_nodes(serving, url), ours=part, tokens=True, whole=quiet)
            for url, part in sorted(traffic.items())
        ),
        *(Scope(servers=[s], ours=nothing, tokens=True, whole=False) for s in serving.idle),
    ]
    for scope in scopes:
        for compared in comparisons(scope):
            if compared.excess:
                return _foreign(scope.servers, compared)
    return None


def comparisons(scope: Scope) -> list[Compared]:
    """Requests, and where roles allow it tokens: what was counted and what could have been."""
    found: list[Compared] = []
    servers, ours = scope.servers, scope.ours
    requests = total(servers, "requests")
    if requests is not None:
        low = ours.ok if scope.whole else 0
        high = ours.ok + ours.unsure
        found.append(Compared(noun="request", counted=requests, low=low, high=high))
    preempted = total(servers, "preemptions")
    if not scope.tokens or preempted:  # a preempted prompt may be counted again
        return found
    # An engine may count a stop token that it does not report: one token a request either way.
    for noun, name, known, slack in (
        ("prompt token", "prompt_tokens", ours.prompt, 0),
        ("output token", "generation_tokens", ours.output, ours.ok),
    ):
        counted = total(servers, name)
        if counted is None or known.missing or (ours.unsure and not known.known):
            continue
        high = known.value + slack + ours.unsure * known.largest
        low = known.value - slack if scope.whole else 0
        found.append(Compared(noun=noun, counted=counted, low=low, high=high))
    return found


def _foreign(servers: Sequence[ServerCounts], compared: Compared) -> Finding:
    names = ", ".join(server.url for server in servers)
    counted, excess = round(compared.counted), round(compared.excess)
    if excess > 0:
        said = (
            f"{names} counted {plural(counted, compared.noun)} in this round, "
            f"{excess:,} more than ours can explain: somebody else used it"
        )
    else:
        said = (
            f"{names} counted {plural(counted, compared.noun)} in this round, "
            f"{-excess:,} fewer than we sent: several servers stand behind one URL"
        )
    return finding(
        "foreign_traffic",
        "invalid",
        said,
        servers=[server.url for server in servers],
        what=compared.noun,
        counted=compared.counted,
        at_least=compared.low,
        at_most=compared.high,
    )


def restarted(serving: Serving) -> Finding | None:
    """A server died or began anew during the round: caches and counters with it; invalid."""
    again = [server for server in serving.every if server.restarted is not None]
    if not again and not serving.gone:
        return None
    said = [f"{server.url} restarted during the round: {server.restarted}" for server in again]
    said += [f"{url} died during the round: {GONE}" for url in serving.gone]
    how = {server.url: server.restarted for server in again} | dict.fromkeys(serving.gone, GONE)
    return finding("restarted", "invalid", "; ".join(said), servers=how)
