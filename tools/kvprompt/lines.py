"""Bare lines of prompts as a plan: strata from what the prompts share, lengths by estimate.

Groups are taken as given. Without them, a prompt that shares at least half of itself with an
earlier one is its follower, in the group of the request that it follows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from kvpipe.jsonl import decode_as
from kvpipe.process import ToolError
from kvpipe.records import Block, Plan, Planned, Stratum
from kvprompt.chains import Symbols, chains, estimate_tokens, text_symbols, token_symbols
from kvprompt.hashes import plan_sha256, shape_sha256
from kvprompt.tokenid import TokenId
from kvprompt.tree import PrefixTree

MAX_TOKENS = 64
FOLLOWS_FROM = 0.5
"""Share of a prompt that an earlier one must give before it counts as a follower."""


class Line(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a bare line may hold."""

    messages: Annotated[list[dict[str, Any]], Meta(min_length=1)] | None = None
    prompt: str | list[TokenId] | None = None
    max_tokens: Annotated[int, Meta(ge=1)] = MAX_TOKENS
    group: str | None = None
    turn: Annotated[int, Meta(ge=1)] | None = None
    at_s: Annotated[float, Meta(ge=0)] | None = None
    body: dict[str, Any] = {}


def read_lines(numbered: Iterable[tuple[int, bytes]], name: str) -> tuple[Plan, list[Planned]]:
    """The lines as one plan; ToolError names the line that is none."""
    lines = [_line(text, f"{name}:{number}") for number, text in numbered]
    ids = [isinstance(line.prompt, list) for line in lines]
    if any(ids) != all(ids):
        raise ToolError(f"{name}: token ids and texts in one workload; make two of it")
    exact = all(ids)
    linked = chains([_symbols(line) for line in lines], int if exact else estimate_tokens)
    stand = places(lines, linked)
    tree = PrefixTree()
    requests = [
        Planned(
            index=index,
            group=place.group,
            stratum=place.stratum,
            turn=line.turn,
            after=place.after,
            at_s=line.at_s,
            messages=line.messages,
            prompt=line.prompt,
            max_tokens=line.max_tokens,
            prompt_tokens=sum(block.tokens for block in blocks),
            new_tokens=tree.add(blocks),
            blocks=blocks,
            body=line.body,
        )
        for index, (line, blocks, place) in enumerate(zip(lines, linked, stand, strict=True))
    ]
    return _head(requests, name, exact), requests


def _line(text: bytes, place: str) -> Line:
    try:
        line = decode_as(Line, text, place)
    except ToolError as error:
        raise ToolError(f"{error} (keys of a line: {', '.join(Line.__struct_fields__)})") from None
    if (line.messages is None) == (line.prompt is None):
        raise ToolError(f"{place}: one of messages and prompt is expected, and not both")
    if line.prompt is not None and not line.prompt:
        raise ToolError(f"{place}: the prompt is empty")
    if line.turn is not None and line.group is None:
        raise ToolError(f"{place}: turn without group: which conversation is it a turn of?")
    return line


def _symbols(line: Line) -> Symbols:
    if isinstance(line.prompt, list):
        return token_symbols(line.prompt)
    return text_symbols(line.prompt, line.messages)


@dataclass(slots=True, kw_only=True)
class Place:
    """Where a request stands among the others."""

    group: str | None = None
    stratum: Stratum = "unique"
    after: int | None = None


def places(lines: Sequence[Line], linked: Sequence[list[Block]]) -> list[Place]:
    """Group, stratum and what it waits for of each line, from what it says and shares."""
    found = [Place(group=line.group) for line in lines]
    turns: dict[str, int] = {}
    owners: dict[str, int] = {}
    for index, (line, blocks, place) in enumerate(zip(lines, linked, found, strict=True)):
        given_by = turns.get(line.group) if line.group is not None else _given_by(blocks, owners)
        for block in blocks:
            owners.setdefault(block.id, index)
        if line.group is not None:
            turns[line.group] = index
            if line.turn is not None and line.turn > 1:
                place.after = given_by
        if given_by is not None:
            _follow(found[given_by], place, given_by)
    return found


def _follow(leader: Place, place: Place, at: int) -> None:
    place.stratum = "follower"
    if leader.stratum == "unique":
        leader.stratum = "leader"
    if place.group is None:
        leader.group = leader.group or f"shared-{at}"
        place.group = leader.group


def _given_by(blocks: Sequence[Block], owners: dict[str, int]) -> int | None:
    """Which earlier request was first to have at least half of this prompt; None: nobody.

    `owners` maps the name of a link, which stands for the whole prefix up to it, to the first
    request that had it.
    """
    length = sum(block.tokens for block in blocks)
    tokens, owner = 0, None
    for block in blocks:
        found = owners.get(block.id)
        if found is None:
            break
        tokens += block.tokens
        owner = found
    return owner if tokens >= FOLLOWS_FROM * length else None


def _head(requests: Sequence[Planned], name: str, exact: bool) -> Plan:
    groups = {request.group for request in requests} - {None}
    total = sum(request.prompt_tokens or 0 for request in requests)
    return Plan(
        scenario="workload",
        source=name,
        seed=0,
        plan_sha256=plan_sha256(requests),
        shape_sha256=shape_sha256(requests),
        calibrated="token_ids" if exact else "none",
        requests=len(requests),
        sentinels=0,
        contexts=len(groups) or None,
        order="given",
        got_tokens=total if exact else None,
        cold_requests=sum(request.stratum != "follower" for request in requests),
        note=None if exact else "made elsewhere; lengths in tokens are estimated from characters",
    )
