"""Text for the shape: every request as long as asked, sharing what it should share.

A context is fitted once for all its requests. Tails are fitted behind a short stand-in for the
context, since a tokenizer does not look far back; then each whole prompt is counted once, which
gives its tokens too, and corrected if the stand-in misled.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from kvplan.counting import Counter, Prompt
from kvplan.fit import fit, word_end
from kvplan.materials import MATERIALS, writer
from kvplan.scenarios import Scenario
from kvplan.shape import Item
from kvprompt.chains import Symbols
from kvprompt.salt import letters

CONTEXT_TOLERANCE = 8
"""Tokens that a context may be short of what was asked: the tails make up for it."""
STAND_IN_CHARS = 300
NONCE_LETTERS = 20
REPLY_SHARE = 0.3
"""Of a conversation's growth per turn, what the scripted assistant says."""
CORRECTIONS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A request with its text, and the symbols that chains are made over."""

    item: Item
    prompt: Prompt | list[int]
    symbols: Symbols
    text: str = ""
    """What was fitted last: the tail, or the last thing said."""
    nonce: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Desk:
    """What composing needs beside the shape."""

    scenario: Scenario
    counter: Counter
    api: str
    seed: str
    """Of the text of this repeat."""

    def writer(self, kind: str, seat: str) -> Callable[[int], str]:
        """A writer of contexts or tails for one seat."""
        material = MATERIALS[self.scenario.text]
        write = material.context if kind == "context" else material.tail
        return writer(write, f"{kind}|{self.seed}|{seat}")

    def prompt(self, turns: Sequence[str]) -> Prompt:
        """What is said, by user and assistant in turn, as this API takes it."""
        if self.api == "chat":
            roles = ("user", "assistant")
            return [{"role": roles[at % 2], "content": said} for at, said in enumerate(turns)]
        if len(turns) == 1:
            return turns[0]
        names = ("User", "Assistant")
        return "\n\n".join(f"{names[at % 2]}: {said}" for at, said in enumerate(turns))


async def compose(items: Sequence[Item], desk: Desk) -> list[Draft]:
    """A draft for each item, in the same order."""
    lots: dict[str, list[Item]] = {}
    for item in items:
        lots.setdefault(item.group or item.seat, []).append(item)
    # Not a TaskGroup, which would wrap the one clear complaint of a server that went away.
    made = await asyncio.gather(*(_lot(lot, desk) for lot in lots.values()))
    drafts = {draft.item.seat: draft for lot in made for draft in lot}
    return [drafts[item.seat] for item in items]


async def _lot(lot: Sequence[Item], desk: Desk) -> list[Draft]:
    """The requests of one context or conversation, or one that stands alone."""
    if lot[0].turn is not None:
        return await _conversation(lot, desk)
    if lot[0].stratum == "sentinel":
        return [await _sentinel(lot[0], desk)]
    lead = MATERIALS[desk.scenario.text].lead
    context = await fit(
        desk.writer("context", lot[0].group or lot[0].seat),
        lambda text: desk.prompt([text + lead]),
        desk.counter,
        lot[0].context_tokens,
        CONTEXT_TOLERANCE,
    )
    head = context.text + lead
    near = head[_stand_in_start(head) :]
    spare = context.tokens - await desk.counter.count(desk.prompt([near]))
    return [
        await _fitted(
            item,
            desk,
            grow=desk.writer("tail", item.seat),
            frame=lambda tail: [f"{head} {tail}"],
            near=lambda tail: [f"{near} {tail}"],
            spare=spare,
        )
        for item in lot
    ]


def _stand_in_start(text: str) -> int:
    """A word's end, some way before the end of the text."""
    return 0 if len(text) <= STAND_IN_CHARS else word_end(text, len(text) - STAND_IN_CHARS)


async def _fitted(
    item: Item,
    desk: Desk,
    *,
    grow: Callable[[int], str],
    frame: Callable[[str], Sequence[str]],
    near: Callable[[str], Sequence[str]],
    spare: int,
) -> Draft:
    """The request that `frame` makes of the right text.

    `near` makes a stand-in for the whole prompt, `spare` tokens shorter than it.
    """
    best: Draft | None = None
    target = item.asked_tokens - spare
    for _ in range(CORRECTIONS):
        found = await fit(grow, lambda text: desk.prompt(near(text)), desk.counter, target, 0)
        prompt = desk.prompt(frame(found.text))
        symbols = await desk.counter.symbols(prompt)
        draft = Draft(item=item, prompt=prompt, symbols=symbols, text=found.text)
        missing = item.asked_tokens - desk.counter.tokens_at(len(symbols))
        if best is None or abs(missing) < _missing(best, desk):
            best = draft
        if missing == 0 or found.tokens > target:
            break
        target += missing
    assert best is not None
    return best


def _missing(draft: Draft, desk: Desk) -> int:
    return abs(draft.item.asked_tokens - desk.counter.tokens_at(len(draft.symbols)))


async def _sentinel(item: Item, desk: Desk) -> Draft:
    """A document behind a nonce, which stands at the very head."""
    nonce = letters(f"{desk.seed}|{item.seat}", NONCE_LETTERS)

    def frame(text: str) -> Sequence[str]:
        return [f"{nonce}\n\n{text}"]

    grow = desk.writer("context", item.seat)
    draft = await _fitted(item, desk, grow=grow, frame=frame, near=frame, spare=0)
    return replace(draft, nonce=nonce)


async def _conversation(lot: Sequence[Item], desk: Desk) -> list[Draft]:
    """Turn by turn: the history, a scripted answer, and a question that fills up the length."""
    growth = lot[0].asked_tokens
    said: list[str] = []
    drafts: list[Draft] = []
    for item in lot:
        history, stand_in, spare = list(said), list[str](), 0
        if drafts:
            answer = _reply(item, growth, desk)
            history.append(answer)
            last = said[-1]
            short = last[_stand_in_start(last) :].strip()
            stand_in = [short, answer]
            whole = desk.counter.tokens_at(len(drafts[-1].symbols))
            spare = whole - await desk.counter.count(desk.prompt([short]))
        draft = await _fitted(
            item,
            desk,
            grow=desk.writer("context", item.seat),
            frame=_after(history),
            near=_after(stand_in),
            spare=spare,
        )
        drafts.append(draft)
        said = [*history, draft.text]
    return drafts


def _after(before: Sequence[str]) -> Callable[[str], Sequence[str]]:
    return lambda text: [*before, text]


def _reply(item: Item, growth: int, desk: Desk) -> str:
    """What the assistant is scripted to have said before this turn."""
    text = desk.writer("tail", item.seat)(growth)
    return text[: word_end(text, int(growth * REPLY_SHARE * desk.counter.bytes_per_token))]
