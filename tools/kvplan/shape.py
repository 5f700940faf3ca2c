"""The shape of a plan: who shares what, in which order, how long. No text, no tokens.

Everything here is drawn from the seed alone, so that the repeats of a plan have one shape.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

from kvpipe.process import UsageError
from kvpipe.records import Stratum
from kvplan.scenarios import Lengths, Scenario

Order = Literal["leaders-first", "shuffled"]
T = TypeVar("T")

SENTINEL_TOKENS = 1024
"""Sentinels are no longer than this: they show drift, and cost a cold prefill each."""
TURN_TOKENS = 64
"""A conversation's turn is at least so long: template, question and scripted answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What was asked for."""

    scenario: Scenario
    requests: int
    context: Lengths
    shared_ratio: float | None = None
    """Share of the requests that share a context, 0 to 1; None: the scenario's own."""
    contexts: int | None
    """Independent contexts or conversations; None: the scenario's own."""
    order: Order
    sentinels: int | None
    """None: three, or five in a hundred if that is more."""
    seed: int

    @property
    def sentinel_count(self) -> int:
        return sentinel_count(self.sentinels, self.requests)

    @property
    def sharing(self) -> int:
        """Requests that share a context; not meant for conversations."""
        if self.shared_ratio is None:
            return self.requests * self.scenario.share_percent // 100
        return int(self.requests * self.shared_ratio + 1e-9)  # 0.29 x 100 is not quite 29

    @property
    def text_seed(self) -> str:
        """Everything that may not lead to text with a head in common."""
        lengths = f"{self.context.low}-{self.context.high}"
        shared = "" if self.shared_ratio is None else f"|{self.shared_ratio:g}"
        return f"{self.scenario.name}|{self.requests}|{lengths}|{self.contexts}|{self.seed}{shared}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One request before it has text. Lengths are in tokens."""

    seat: str
    """What it is, whatever the order: the seed of its own text."""
    stratum: Stratum
    group: str | None = None
    turn: int | None = None
    after: int | None = None
    context_tokens: int
    asked_tokens: int


def draw_shape(wish: Wish) -> list[Item]:
    """The requests in order of dispatch, sentinels among them."""
    lengths = random.Random(f"lengths|{wish.text_seed}")
    lots = _conversations(wish, lengths) if wish.scenario.turns > 1 else _shared(wish, lengths)
    return _linked(_with_sentinels(_mixed(lots, wish), wish), wish)


def context_count(wish: Wish) -> int | None:
    """How many contexts or conversations there are; None where nothing is shared."""
    scenario = wish.scenario
    if scenario.turns > 1:
        if wish.shared_ratio is not None:
            raise UsageError(
                f"--shared-ratio: in {scenario.name} every turn shares what stood before it"
            )
        count = wish.contexts or -(-wish.requests // scenario.turns)
        if count > wish.requests:
            raise UsageError(f"--contexts {count}: more conversations than --requests")
        return count
    sharing = wish.sharing
    count = wish.contexts or 1
    if sharing == 0:
        if count > 1 and wish.shared_ratio is None and scenario.share_percent == 0:
            raise UsageError(f"--contexts {count}: {scenario.name} shares none")
        return None
    if count > sharing:
        raise UsageError(
            f"--contexts {count}: only {sharing} of {wish.requests} requests share a context; "
            "ask for fewer contexts or more --requests"
        )
    return count


def _dealt(total: int, hands: int) -> list[int]:
    """`total` dealt to `hands`, as evenly as it goes."""
    return [total // hands + (hand < total % hands) for hand in range(hands)]


def _draw(lengths: Lengths, rng: random.Random) -> int:
    return rng.randint(lengths.low, lengths.high)


def _shared(wish: Wish, rng: random.Random) -> list[list[Item]]:
    """The requests of each context, and the unique ones."""
    contexts = context_count(wish) or 0
    sharing = wish.sharing if contexts else 0
    lots: list[list[Item]] = []
    for at, size in enumerate(_dealt(sharing, contexts) if contexts else []):
        tokens = _draw(wish.context, rng)
        name = f"context-{at}"
        lots.append([_item(f"{name}.{of}", tokens, wish, group=name) for of in range(size)])
    uniques = [
        _item(f"unique-{at}", _draw(wish.context, rng), wish)
        for at in range(wish.requests - sharing)
    ]
    return [*lots, uniques]


def _item(seat: str, tokens: int, wish: Wish, *, group: str | None = None) -> Item:
    return Item(
        seat=seat,
        stratum="unique" if group is None else "follower",
        group=group,
        context_tokens=tokens,
        asked_tokens=tokens + wish.scenario.tail_tokens,
    )


def _conversations(wish: Wish, rng: random.Random) -> list[list[Item]]:
    """Conversations; without --contexts of seven turns each, the last one taking what is left."""
    count = context_count(wish) or 0
    turns = wish.scenario.turns
    sizes = (
        _dealt(wish.requests, count)
        if wish.contexts
        else [min(turns, wish.requests - at * turns) for at in range(count)]
    )
    lots: list[list[Item]] = []
    for at, size in enumerate(sizes):
        # A short last conversation grows as fast as the others: its turns are like theirs.
        lots.append(_turns(f"conversation-{at}", size, size if wish.contexts else turns, wish, rng))
    return lots


def _turns(name: str, size: int, whole: int, wish: Wish, rng: random.Random) -> list[Item]:
    """The first `size` turns of a conversation that reaches its length at turn `whole`."""
    tokens = _draw(wish.context, rng)
    least = TURN_TOKENS * whole
    if tokens < least:
        raise UsageError(f"--context-tokens {tokens}: too short for {whole} turns; ask for {least}")
    return [
        Item(
            seat=f"{name}.{turn}",
            stratum="follower",
            group=name,
            turn=turn,
            context_tokens=round(tokens * turn / whole),
            asked_tokens=round(tokens * turn / whole),
        )
        for turn in range(1, size + 1)
    ]


def _mixed(lots: Sequence[Sequence[Item]], wish: Wish) -> list[Item]:
    """The lots interleaved, each in its own order; with shuffled any order may come."""
    seed = f"order|{wish.text_seed}|{wish.order}"
    return interleaved(lots, seed, even=wish.order == "leaders-first")


def interleaved(lots: Sequence[Sequence[T]], seed: str, *, even: bool) -> list[T]:
    """Lots mixed, each in its own order: `even` spreads each over all, with jitter."""
    rng = random.Random(seed)
    slots: list[tuple[float, int]] = []
    for at, lot in enumerate(lots):
        for member in range(len(lot)):
            jitter = rng.random()
            slots.append(((member + jitter) / len(lot) if even else jitter, at))
    supply = [iter(lot) for lot in lots]
    return [next(supply[at]) for _, at in sorted(slots)]


def sentinel_count(asked: int | None, requests: int) -> int:
    """Three, or five in a hundred if that is more, where nothing was asked."""
    return max(3, -(-requests // 20)) if asked is None else asked


def sentinel_places(count: int, requests: int) -> list[int]:
    """Before which of so many requests each sentinel stands: spread evenly, none of them first."""
    return [max(1, round((at + 0.5) * requests / count)) for at in range(count)]


def _with_sentinels(items: list[Item], wish: Wish) -> list[Item]:
    """Sentinels spread through the round."""
    count = wish.sentinel_count
    tokens = min(SENTINEL_TOKENS, wish.context.low + wish.scenario.tail_tokens)
    mixed: list[Item] = []
    due = sentinel_places(count, len(items))
    for position in range(len(items) + 1):
        if position:
            mixed.append(items[position - 1])
        mixed += [_sentinel(at, tokens) for at in range(count) if due[at] == position]
    return mixed


def _sentinel(at: int, tokens: int) -> Item:
    return Item(
        seat=f"sentinel-{at}", stratum="sentinel", context_tokens=tokens, asked_tokens=tokens
    )


def _linked(items: list[Item], wish: Wish) -> list[Item]:
    """Strata from the order, and what each request waits for."""
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    linked: list[Item] = []
    for index, item in enumerate(items):
        if item.group is None:
            linked.append(item)
            continue
        leads = item.group not in first
        leader = first.setdefault(item.group, index)
        after: int | None = None
        if item.turn is not None:
            after = last.get(item.group)
        elif wish.order == "leaders-first" and not leads:
            after = leader
        last[item.group] = index
        linked.append(replace(item, stratum="leader" if leads else "follower", after=after))
    return linked
