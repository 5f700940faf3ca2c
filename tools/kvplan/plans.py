"""From what was asked to plans: with a server that counts, one that is probed, or none."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from kvengine.identify import Identity, identify
from kvengine.server import Server
from kvpipe.process import ToolError
from kvpipe.records import Plan, Planned
from kvplan.assemble import Terms, assemble
from kvplan.compose import Desk, Draft, compose
from kvplan.counting import ByteCounter, Counter, probed, tokenizer_of, usage_of
from kvplan.ids import compose_ids
from kvplan.materials import MATERIALS, writer
from kvplan.scenarios import Lengths
from kvplan.shape import Item, Wish, draw_shape

ESTIMATED = "lengths in tokens are estimated at 4 bytes a token"
"""The note of a plan that nobody counted; the ways out are in the manual."""
_SAMPLE_WORDS = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """A server to count with."""

    url: str
    model: str | None
    api_key: str | None = field(default=None, repr=False)
    headers: dict[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The part of the command line that is about requests and not about shape."""

    api: Literal["chat", "completions"]
    output_tokens: int
    block_tokens: int
    ids: Lengths
    body: dict[str, Any]
    repeats: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Count:
    """How prompts are counted here; `counter` None: they are token ids."""

    counter: Counter | None
    model: str | None = None
    note: str | None = None


async def plans(
    wish: Wish, settings: Settings, endpoint: Endpoint | None
) -> AsyncIterator[tuple[Plan, list[Planned]]]:
    """The plan of each repeat. Raises ToolError, UsageError, Unreachable."""
    items = draw_shape(wish)
    async with _counting(wish, settings, endpoint, items) as count:
        for repeat in settings.repeats:
            drafts = await _drafts(items, wish, settings, count, repeat)
            yield assemble(wish, drafts, _terms(settings, count, repeat))


async def _drafts(
    items: list[Item], wish: Wish, settings: Settings, count: _Count, repeat: int
) -> list[Draft]:
    seed = f"{wish.text_seed}|{repeat}"
    if count.counter is None:
        return compose_ids(items, seed, settings.ids)
    desk = Desk(scenario=wish.scenario, counter=count.counter, api=settings.api, seed=seed)
    return await compose(items, desk)


def _terms(settings: Settings, count: _Count, repeat: int) -> Terms:
    counter = count.counter
    return Terms(
        repeat=repeat,
        output_tokens=settings.output_tokens,
        block_tokens=settings.block_tokens,
        calibrated="token_ids" if counter is None else counter.calibrated,
        floor_tokens=0 if counter is None else counter.floor_tokens,
        tokens_at=int if counter is None else counter.tokens_at,
        model=count.model,
        body=settings.body,
        note=count.note,
    )


@asynccontextmanager
async def _counting(
    wish: Wish, settings: Settings, endpoint: Endpoint | None, items: list[Item]
) -> AsyncIterator[_Count]:
    if endpoint is None:
        if settings.api == "completions":
            yield _Count(counter=None)
        else:
            yield _Count(counter=ByteCounter(), note=f"{ESTIMATED}: no --url to count with")
        return
    async with Server(endpoint.url, endpoint.api_key, endpoint.headers) as server:
        found = await identify(server, endpoint.model)
        _check_length(server, found, items, settings.output_tokens)
        yield await _asked(server, found, wish, settings)


async def _asked(server: Server, found: Identity, wish: Wish, settings: Settings) -> _Count:
    """The server's tokenizer, else token ids, else a ratio from a probe."""
    tokenizer = await tokenizer_of(server, found.model, settings.api)
    if tokenizer is not None:
        sample = writer(MATERIALS[wish.scenario.text].context, "sample")(_SAMPLE_WORDS)
        await tokenizer.learn(sample)
        return _Count(counter=tokenizer, model=found.model)
    if settings.api == "completions":
        await _check_ids(server, found.model, wish, settings)
        return _Count(counter=None, model=found.model)
    counter, problem = await probed(server, found.model, wish.text_seed, settings.body)
    note = (
        f"{ESTIMATED}: no /tokenize here, and {problem}"
        if problem
        else "lengths in tokens are estimated from two probes: no /tokenize here"
    )
    return _Count(counter=counter, model=found.model, note=note)


def _check_length(server: Server, found: Identity, items: list[Item], output: int) -> None:
    """ToolError if the longest prompt and its answer are more than the model takes."""
    limit = found.max_model_len
    longest = max(item.asked_tokens for item in items)
    if limit is not None and longest + output > limit:
        raise ToolError(
            f"{server.shown}: prompts of {longest} tokens and {output} of output are "
            f"{longest + output}, and {found.model} takes {limit}: "
            "lower --context-tokens or --output-tokens"
        )


async def _check_ids(server: Server, model: str, wish: Wish, settings: Settings) -> None:
    """One tiny probe with the largest id: a server refuses ids that its model does not have."""
    rng = random.Random(f"ids-probe|{wish.text_seed}")
    ids = [settings.ids.high, *rng.choices(range(settings.ids.low, settings.ids.high + 1), k=15)]
    try:
        await usage_of(server, "/v1/completions", model, {"prompt": ids} | settings.body)
    except ToolError as error:
        raise ToolError(f"{error}; is the vocabulary smaller? see --token-ids LO-HI") from error
