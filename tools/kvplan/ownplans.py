"""A person's own requests as a plan: counted where a server can, interleaved, with sentinels."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from kvengine.identify import Identity, identify
from kvengine.server import Server
from kvpipe.process import ToolError
from kvpipe.records import Calibrated, Plan, Planned
from kvplan.compose import Desk, Draft, compose
from kvplan.counting import ByteCounter, Counter, Prompt, probed, tokenizer_of
from kvplan.ids import compose_ids
from kvplan.own import OwnRequest
from kvplan.plans import Endpoint, Settings
from kvplan.scenarios import Lengths, Scenario
from kvplan.shape import SENTINEL_TOKENS, Item, interleaved, sentinel_count, sentinel_places
from kvprompt.chains import Symbols, chains, token_symbols
from kvprompt.hashes import plan_sha256, shape_sha256
from kvprompt.lines import Line, places
from kvprompt.tree import PrefixTree

LEAST_SENTINEL = 64
"""Tokens: room for a template and a nonce."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnWish:
    """What was asked for."""

    name: str
    """`conversations` or `prompts`: what the plan is named."""
    source: str
    lots: Sequence[Sequence[OwnRequest]]
    """Conversations with their turns, which are interleaved; or one lot, sent as it stands."""
    seed: int
    sentinels: int | None
    most_output: int | None
    note: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    """How prompts are counted here."""

    counter: Counter
    found: Identity | None = None
    note: str | None = None


@asynccontextmanager
async def counting(
    api: str, endpoint: Endpoint | None, body: dict[str, Any]
) -> AsyncIterator[Count]:
    """By the server's tokenizer, else by a probe, else by bytes. Raises ToolError, Unreachable."""
    guess = "lengths in tokens are estimated at 4 bytes a token"
    if endpoint is None:
        yield Count(counter=ByteCounter(), note=f"{guess}: no --url to count with")
        return
    async with Server(endpoint.url, endpoint.api_key, endpoint.headers) as server:
        found = await identify(server, endpoint.model)
        tokenizer = await tokenizer_of(server, found.model, api)
        if tokenizer is not None:
            yield Count(counter=tokenizer, found=found)
        elif api == "completions":
            yield Count(counter=ByteCounter(), found=found, note=f"{guess}: no /tokenize here")
        else:
            counter, problem = await probed(server, found.model, "own", body)
            note = "lengths in tokens are estimated from two probes: no /tokenize here"
            if problem:
                note = f"{guess}: no /tokenize here, and {problem}"
            yield Count(counter=counter, found=found, note=note)


def as_sent(prompt: Prompt | list[int], api: str) -> Prompt | list[int]:
    """The prompt as this API takes it: messages for chat, text or token ids for completions."""
    if isinstance(prompt, str):
        return [{"role": "user", "content": prompt}] if api == "chat" else prompt
    if api == "chat" or not isinstance(prompt[0], dict):
        return prompt
    return "\n\n".join(f"{str(one['role']).capitalize()}: {one['content']}" for one in prompt)


def is_ids(prompt: Prompt | list[int]) -> bool:
    """Whether a prompt is token ids."""
    return isinstance(prompt, list) and isinstance(prompt[0], int)


async def own_plan(
    wish: OwnWish, settings: Settings, endpoint: Endpoint | None
) -> tuple[Plan, list[Planned]]:
    """The plan. Raises ToolError, UsageError, Unreachable."""
    order = interleaved(wish.lots, f"order|{wish.name}|{wish.seed}", even=True)
    exact = [is_ids(own.prompt) for own in order]
    if any(exact) != all(exact):
        raise ToolError(f"{wish.source}: token ids and texts in one file; make two of it")
    if all(exact) and settings.api == "chat":
        raise ToolError(f"{wish.source}: token ids need --api completions")
    async with counting(settings.api, endpoint, settings.body) as count:
        drafts = await _drafts(order, wish, settings, count, ids=all(exact))
        planned = _Assembly(order, wish, settings, count, drafts, ids=all(exact)).plan()
    _check_length(planned[1], count, wish.source)
    return planned


@dataclass(frozen=True, slots=True, kw_only=True)
class _Drafts:
    """Prompts as they are sent, with what chains are made over; and the sentinels."""

    prompts: list[Prompt | list[int]]
    symbols: list[Symbols]
    sentinels: list[Draft]


async def _drafts(
    order: Sequence[OwnRequest], wish: OwnWish, settings: Settings, count: Count, *, ids: bool
) -> _Drafts:
    prompts = [as_sent(own.prompt, settings.api) for own in order]
    if ids:
        symbols = [token_symbols([int(str(one)) for one in prompt]) for prompt in prompts]
        tokens_at: Callable[[int], int] = int
    else:
        symbols = await asyncio.gather(*(count.counter.symbols(_text(one)) for one in prompts))
        tokens_at = count.counter.tokens_at
    lengths = [tokens_at(len(one)) for one in symbols]
    tokens = max(LEAST_SENTINEL, min(SENTINEL_TOKENS, sum(lengths) // len(lengths)))
    items = [
        Item(seat=f"sentinel-{at}", stratum="sentinel", context_tokens=tokens, asked_tokens=tokens)
        for at in range(sentinel_count(wish.sentinels, len(order)))
    ]
    seed = f"{wish.name}|{wish.seed}|{len(order)}"
    if ids:
        return _Drafts(
            prompts=prompts, symbols=symbols, sentinels=compose_ids(items, seed, settings.ids)
        )
    desk = Desk(scenario=_SENTINELS, counter=count.counter, api=settings.api, seed=seed)
    return _Drafts(prompts=prompts, symbols=symbols, sentinels=await compose(items, desk))


_SENTINELS = Scenario(
    name="sentinels",
    what="documents that nobody has sent",
    share_percent=0,
    context=Lengths(low=LEAST_SENTINEL, high=SENTINEL_TOKENS),
    tail_tokens=0,
    text="document",
)


def _text(prompt: Prompt | list[int]) -> Prompt:
    assert not is_ids(prompt)
    return prompt  # type: ignore[return-value]


class _Assembly:
    """Requests and sentinels in order, with chains over all of them."""

    def __init__(
        self,
        order: Sequence[OwnRequest],
        wish: OwnWish,
        settings: Settings,
        count: Count,
        drafts: _Drafts,
        *,
        ids: bool,
    ) -> None:
        self._order = order
        self._wish = wish
        self._settings = settings
        self._count = count
        self._drafts = drafts
        self._ids = ids
        self._calibrated: Calibrated = "token_ids" if ids else count.counter.calibrated
        tokens_at: Callable[[int], int] = int if ids else count.counter.tokens_at
        linked = chains([*drafts.symbols, *(one.symbols for one in drafts.sentinels)], tokens_at)
        self._own, self._other = linked[: len(order)], linked[len(order) :]
        self._tree = PrefixTree()
        times = [own.at_s for own in order if own.at_s is not None]
        self._start_s = min(times, default=0.0)

    def plan(self) -> tuple[Plan, list[Planned]]:
        """Head and requests."""
        stand = places([self._line(own) for own in self._order], self._own)
        due = sentinel_places(len(self._other), len(self._order))
        requests: list[Planned] = []
        index_of: list[int] = []
        for at, own in enumerate(self._order):
            while due and due[0] <= at:
                due.pop(0)
                requests.append(self._sentinel(len(requests), len(self._other) - len(due) - 1))
            place = stand[at]
            index_of.append(len(requests))
            after = None if place.after is None else index_of[place.after]
            requests.append(
                self._planned(len(requests), at, own, place.group, place.stratum, after)
            )
        for _ in range(len(due)):
            due.pop(0)
            requests.append(self._sentinel(len(requests), len(self._other) - len(due) - 1))
        return self._head(requests), requests

    def _line(self, own: OwnRequest) -> Line:
        return Line(group=own.group, turn=own.turn)

    def _planned(
        self, index: int, at: int, own: OwnRequest, group: str | None, stratum: Any, after: Any
    ) -> Planned:
        prompt, blocks = self._drafts.prompts[at], self._own[at]
        return Planned(
            index=index,
            group=group,
            stratum=stratum,
            turn=own.turn,
            after=after,
            at_s=None if own.at_s is None else round(own.at_s - self._start_s, 6),
            max_tokens=self._output(own),
            prompt_tokens=sum(block.tokens for block in blocks),
            new_tokens=self._tree.add(blocks),
            blocks=blocks,
            body=self._settings.body,
            **_content(prompt),
        )

    def _output(self, own: OwnRequest) -> int:
        if own.output_tokens is None:
            return self._settings.output_tokens
        most = self._wish.most_output
        told = max(1, own.output_tokens)
        return told if most is None else min(told, most)

    def _sentinel(self, index: int, number: int) -> Planned:
        draft, blocks = self._drafts.sentinels[number], self._other[number]
        return Planned(
            index=index,
            stratum="sentinel",
            at_s=self._sentinel_at(number),
            max_tokens=self._settings.output_tokens,
            asked_tokens=draft.item.asked_tokens,
            prompt_tokens=sum(block.tokens for block in blocks),
            new_tokens=self._tree.add(blocks),
            blocks=blocks,
            nonce=draft.nonce,
            body=self._settings.body,
            **_content(draft.prompt),
        )

    def _sentinel_at(self, number: int) -> float | None:
        """When the request before it is due."""
        due = sentinel_places(len(self._other), len(self._order))[number]
        before = self._order[min(due, len(self._order)) - 1].at_s
        return None if before is None else round(before - self._start_s, 6)

    def _head(self, requests: Sequence[Planned]) -> Plan:
        own = [request for request in requests if request.stratum != "sentinel"]
        counted = self._calibrated in ("tokenize", "token_ids")
        notes = [self._wish.note, None if self._ids else self._count.note]
        found = self._count.found
        return Plan(
            scenario=self._wish.name,
            source=self._wish.source,
            seed=self._wish.seed,
            plan_sha256=plan_sha256(requests),
            shape_sha256=shape_sha256(requests),
            calibrated=self._calibrated,
            model=None if found is None else found.model,
            requests=len(own),
            sentinels=len(requests) - len(own),
            contexts=len({one.group for one in own if one.group is not None}) or None,
            order="given",
            block_tokens=self._settings.block_tokens,
            floor_tokens=0 if self._ids else self._count.counter.floor_tokens,
            got_tokens=sum(one.prompt_tokens or 0 for one in requests) if counted else None,
            cold_requests=sum(one.stratum != "follower" for one in own),
            note="; ".join(note for note in notes if note) or None,
        )


def _content(prompt: Prompt | list[int]) -> dict[str, Any]:
    chat = isinstance(prompt, list) and isinstance(prompt[0], dict)
    return {"messages" if chat else "prompt": prompt}


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
