"""Warm-up: a miniature of the experiment, in a namespace of its own.

The scenario's own lengths, cold and then hit, on every endpoint and in the experiment's direction,
so that the first measured hit does not pay for connections and compilation that misses never touch.
A salt at the head of the text keeps it apart from every measured prompt on every engine.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

from kvload.answer import parse_answer
from kvload.bodies import Dress, prepare
from kvload.client import Client
from kvpipe.process import ToolError
from kvpipe.records import Planned, Warmup
from kvprompt.salt import new_salt

SETTLED_RATIO = 1.25
SETTLED_S = 0.010


@dataclass(frozen=True, slots=True, kw_only=True)
class Leg:
    """One visit of a pass; legs of one `namespace` see what the earlier ones stored."""

    url: str
    client: Client
    dress: Dress
    namespace: str


async def warm_up(
    requests: Sequence[Planned],
    cold: Sequence[Leg],
    hit: Sequence[Leg],
    passes: int,
    between: Callable[[], Awaitable[object]],
) -> Warmup:
    """Run up to `passes` passes, until TTFTs settle; ToolError if a request is refused.

    A pass is the cold legs, then `between` (rest, and whatever the tier asks for), then the hits.
    """
    previous: list[float] | None = None
    settled: bool | None = None
    done = 0
    while done < passes and settled is not True:
        salts = {leg.namespace: new_salt() for leg in cold}
        seen = [await _visit(requests, leg, salts[leg.namespace]) for leg in cold]
        if hit:
            await between()
        seen += [await _visit(requests, leg, salts[leg.namespace]) for leg in hit]
        done += 1
        if previous is not None:
            settled = all(_close(a, b) for a, b in zip(previous, seen, strict=True))
        previous = seen
    return Warmup(passes=done, settled=settled)


async def _visit(requests: Sequence[Planned], leg: Leg, salt: str) -> float:
    """Mean TTFT of the miniature on one endpoint, in seconds."""
    dress = replace(leg.dress, salt=salt, salt_way="prompt_head", salt_each=False)
    total, count = 0.0, 0
    for item in prepare(requests, dress):
        exchange = await leg.client.send(item.body, f"warmup-{item.request_id}")
        answer = parse_answer(exchange)
        if answer.status != "ok":
            raise ToolError(f"{leg.url}: the warm-up failed: {answer.error or answer.status}")
        if answer.first_token_ns is not None and exchange.sent_ns is not None:
            total += (answer.first_token_ns - exchange.sent_ns) / 1e9
            count += 1
    return total / count if count else 0.0


def _close(a: float, b: float) -> bool:
    return abs(a - b) <= SETTLED_S or max(a, b) <= SETTLED_RATIO * min(a, b)
