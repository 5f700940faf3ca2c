"""A person's own requests as a plan: counted where a server can, interleaved, with sentinels."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from kvpipe.process import ToolError
from kvpipe.records import Plan, Planned
from kvplan.compose import Desk, compose
from kvplan.ids import compose_ids
from kvplan.own import OwnRequest
from kvplan.ownassembly import Assembly, Drafts, OwnWish
from kvplan.owncount import Count, as_sent, counting, ids_of, symbols_of
from kvplan.plans import Endpoint, Settings
from kvplan.scenarios import Lengths, Scenario
from kvplan.shape import SENTINEL_TOKENS, Item, interleaved, sentinel_count

LEAST_SENTINEL = 64
"""Tokens: room for a template and a nonce."""


async def own_plan(
    wish: OwnWish, settings: Settings, endpoint: Endpoint | None
) -> tuple[Plan, list[Planned]]:
    """The plan. Raises ToolError, UsageError, Unreachable."""
    order = interleaved(wish.lots, f"order|{wish.name}|{wish.seed}", even=True)
    ids = [ids_of(own.prompt) is not None for own in order]
    if any(ids) != all(ids):
        raise ToolError(f"{wish.source}: token ids and texts in one file; make two of it")
    if all(ids) and settings.api == "chat":
        raise ToolError(f"{wish.source}: token ids need --api completions")
    async with counting(settings.api, endpoint, settings.body) as count:
        drafts = await _drafts(order, wish, settings, count, exact=all(ids))
    head, requests = Assembly(drafts, wish, settings, count).plan()
    _check_length(requests, count, wish.source)
    return head, requests


async def _drafts(
    order: Sequence[OwnRequest], wish: OwnWish, settings: Settings, count: Count, *, exact: bool
) -> Drafts:
    """The requests as they are sent, and sentinels as long as those are in the mean."""
    prompts = [as_sent(own.prompt, settings.api) for own in order]
    symbols = await asyncio.gather(*(symbols_of(one, count.counter) for one in prompts))
    tokens_at: Callable[[int], int] = int if exact else count.counter.tokens_at
    mean = sum(tokens_at(len(one)) for one in symbols) // len(symbols)
    tokens = max(LEAST_SENTINEL, min(SENTINEL_TOKENS, mean))
    items = [
        Item(seat=f"sentinel-{at}", stratum="sentinel", context_tokens=tokens, asked_tokens=tokens)
        for at in range(sentinel_count(wish.sentinels, len(order)))
    ]
    seed = f"{wish.name}|{wish.seed}|{len(order)}"
    if exact:
        sentinels = compose_ids(items, seed, settings.ids)
    else:
        desk = Desk(scenario=_SENTINELS, counter=count.counter, api=settings.api, seed=seed)
        sentinels = await compose(items, desk)
    return Drafts(order=order, prompts=prompts, symbols=symbols, sentinels=sentinels, exact=exact)


_SENTINELS = Scenario(
    name="sentinels",
    what="documents that nobody has sent",
    share_percent=0,
    context=Lengths(low=LEAST_SENTINEL, high=SENTINEL_TOKENS),
    tail_tokens=0,
    text="document",
)


def _check_length(requests: Sequence[Planned], count: Count, source: str) -> None:
    """ToolError if a request is more than the model takes; estimated lengths refuse nothing."""
    found = count.found
    if found is None or found.max_model_len is None or count.counter.calibrated != "tokenize":
        return
    for request in requests:
        tokens = (request.prompt_tokens or 0) + request.max_tokens
        if tokens > found.max_model_len:
            raise ToolError(
                f"{source}: a request of {request.prompt_tokens} tokens and {request.max_tokens} "
                f"of output, and {found.model} takes {found.max_model_len}: leave it out, or "
                "lower --output-tokens"
            )
