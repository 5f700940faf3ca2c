"""Drafts into records: chains, what each adds to the tree, hashes, and the proof of uniqueness."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from kvpipe.process import ToolError
from kvpipe.records import Block, Calibrated, Plan, Planned
from kvplan.compose import Draft
from kvplan.shape import Item, Wish, context_count
from kvprompt.chains import chains
from kvprompt.hashes import plan_sha256, shape_sha256
from kvprompt.tree import PrefixTree


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What holds for all requests of a plan."""

    repeat: int
    output_tokens: int
    block_tokens: int
    calibrated: Calibrated
    floor_tokens: int | None
    tokens_at: Callable[[int], int]
    model: str | None
    body: dict[str, Any]
    note: str | None


def assemble(wish: Wish, drafts: Sequence[Draft], terms: Terms) -> tuple[Plan, list[Planned]]:
    """The plan; ToolError if two prompts that must differ share a block."""
    linked = chains([draft.symbols for draft in drafts], terms.tokens_at)
    _check_unique([draft.item for draft in drafts], linked, terms)
    tree = PrefixTree()
    requests: list[Planned] = []
    for index, (draft, blocks) in enumerate(zip(drafts, linked, strict=True)):
        new = tree.add(blocks)
        if new == 0:
            raise ToolError(f"request {index} repeats an earlier one; choose another --seed")
        requests.append(_planned(index, draft, blocks, new, terms))
    return _head(wish, requests, terms), requests


def _planned(index: int, draft: Draft, blocks: list[Block], new: int, terms: Terms) -> Planned:
    item = draft.item
    chat = isinstance(draft.prompt, list) and isinstance(draft.prompt[0], dict)
    content: dict[str, Any] = {"messages" if chat else "prompt": draft.prompt}
    return Planned(
        index=index,
        group=item.group,
        stratum=item.stratum,
        turn=item.turn,
        after=item.after,
        max_tokens=terms.output_tokens,
        asked_tokens=item.asked_tokens,
        prompt_tokens=sum(block.tokens for block in blocks),
        new_tokens=new,
        blocks=blocks,
        nonce=draft.nonce,
        body=terms.body,
        **content,
    )


def _head(wish: Wish, requests: Sequence[Planned], terms: Terms) -> Plan:
    own = [request for request in requests if request.stratum != "sentinel"]
    counted = terms.calibrated in ("tokenize", "token_ids")
    return Plan(
        scenario=wish.scenario.name,
        seed=wish.seed,
        repeat=terms.repeat,
        plan_sha256=plan_sha256(requests),
        shape_sha256=shape_sha256(requests),
        calibrated=terms.calibrated,
        model=terms.model,
        requests=len(own),
        sentinels=len(requests) - len(own),
        contexts=context_count(wish),
        order=wish.order,
        block_tokens=terms.block_tokens,
        floor_tokens=terms.floor_tokens,
        asked_tokens=sum(request.asked_tokens or 0 for request in requests),
        got_tokens=sum(request.prompt_tokens or 0 for request in requests) if counted else None,
        cold_requests=sum(request.stratum != "follower" for request in own),
        note=terms.note,
    )


def _check_unique(items: Sequence[Item], linked: Sequence[list[Block]], terms: Terms) -> None:
    """No two prompts of different contexts share a block behind what all prompts share."""
    floor = terms.floor_tokens
    if floor is None:
        floor = _common(linked)
    owners: dict[str, str] = {}
    for item, blocks in zip(items, linked, strict=True):
        owner = item.group or item.seat
        tokens = 0
        for block in blocks:
            tokens += block.tokens
            other = owners.setdefault(block.id, owner)
            if other != owner and tokens - floor >= terms.block_tokens:
                raise ToolError(
                    f"the prompts of {other} and {owner} share {tokens} tokens, which is a whole "
                    f"block of {terms.block_tokens}; choose another --seed"
                )


def _common(linked: Sequence[Sequence[Block]]) -> int:
    """Tokens that all chains share; 0 for a single one."""
    if len(linked) < 2:
        return 0
    tokens = 0
    for links in zip(*linked, strict=False):
        if len({link.id for link in links}) > 1:
            break
        tokens += links[0].tokens
    return tokens
