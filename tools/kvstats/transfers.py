"""KV transfers of a disaggregated endpoint: where they pass for hits, and where TTFT misses them.

Sentinels tell what `cached_tokens` means here: a prompt never sent cannot be in any cache.
"""

from __future__ import annotations

from kvpipe.records import Finding
from kvstats.findings import finding, plural
from kvstats.flow import Flow
from kvstats.rows import Table

# Without a measured floor: the template's head is never half of a prompt of this product's sizes,
# and a decoder reports all of it (prompt - 1).
TRANSFER_SHARE = 0.5


def pd_transfer(table: Table) -> Finding | None:
    """A sentinel reports more than the floor: cached tokens here are transfers; warning."""
    columns = [
        table.ints(name)
        for name in ("index", "cached_tokens", "prompt_tokens", "floor_tokens", "ideal_in_round_hi")
    ]
    found: list[tuple[int, int, int | None]] = []
    for stratum, ok, index, cached, prompt, floor, in_round in zip(
        table.stratum, table.ok, *columns, strict=True
    ):
        if stratum != "sentinel" or not ok or not cached or index is None:
            continue
        limit: float | None = TRANSFER_SHARE * prompt if prompt else None
        if floor is not None and in_round is not None:
            limit = max(floor, in_round)  # a salt at the head of the prompts is shared, too
        if limit is not None and cached > limit:
            found.append((index, cached, prompt))
    if not found:
        return None
    index, cached, prompt = found[0]
    of = "" if prompt is None else f" of {prompt:,}"
    return finding(
        "pd_transfer",
        "warning",
        f"{plural(len(found), 'sentinel')} with text that was never sent before "
        f"report cached tokens (request {index}: {cached:,}{of}): "
        "cached tokens of this endpoint are KV transfers, so its hit ratio shows no reuse",
        sentinels=len(found),
        index=index,
        cached_tokens=cached,
        prompt_tokens=prompt,
    )


def token_first(flow: Flow | None) -> Finding | None:
    """Token 1 comes from the prefiller before the KV transfer, which TTFT does not hold; info."""
    if flow is None or flow.name != "lmcache":
        return None
    return finding(
        "token_first",
        "info",
        "token 1 comes from the prefiller, before the KV transfer: TTFT does not hold the transfer,"
        " the first gap does (second_token_s, and so TPOT); compare with endpoints that wait for it"
        f" by E2E latency ({flow.evidence})",
        flow=flow.name,
        how=flow.how,
    )
