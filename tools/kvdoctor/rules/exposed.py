"""Doors that should not be open to everybody."""

from __future__ import annotations

from collections.abc import Iterator

from kvdoctor.evidence import Evidence, Reach
from kvdoctor.rules.rule import Rule, Seen
from kvpipe.records import Severity

WORDS: dict[Reach, str] = {
    "every_interface": "it listens on every interface of this machine",
    "private": "its address is of a private network",
    "public": "its address is a public one",
}
SEVERITIES: dict[Reach, Severity] = {
    "every_interface": "warning",
    "private": "info",
    "public": "warning",
}
CHANGES = {
    "vllm": "bind it privately (--host 127.0.0.1, or publish 127.0.0.1:8000:8000), or set"
    " VLLM_SERVER_DEV_MODE=0 when you have measured: --api-key guards /v1 alone",
    "mooncake": "bind the master's admin port privately (--metrics_host=127.0.0.1, or publish"
    " 127.0.0.1:9003:9003): it has no key",
    "lmcache": "internal_api_server_host: 127.0.0.1, or a network of its own: it has no key",
    "lmcache-mp": "--http-host 127.0.0.1, or a network of its own: it has no key",
}


def admin_exposed(evidence: Evidence) -> Iterator[Seen]:
    """Who can reach it can clear it."""
    for one in evidence.servers:
        if one.trouble or one.reach is None or one.reach == "loopback" or not one.open_routes:
            continue
        yield Seen(
            where=one.where,
            seen=f"{', '.join(one.open_routes)} without a key, and {WORDS[one.reach]}",
            change=CHANGES.get(one.kind, "bind it privately"),
            severity=SEVERITIES[one.reach],
            evidence={"routes": list(one.open_routes), "reach": one.reach},
        )


RULES = (
    Rule(
        code="admin_exposed",
        severity="warning",
        asks="routes that clear, without a key, and from where the port can be reached",
        means="Anybody who reaches it can empty the cache in the middle of a round.",
        judge=admin_exposed,
    ),
)
