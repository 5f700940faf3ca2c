"""Own requests and sentinels into records: groups, strata, and chains over all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from kvpipe.records import Calibrated, Plan, Planned
from kvplan.compose import Draft
from kvplan.own import OwnRequest
from kvplan.owncount import Count, Sent, messages_of
from kvplan.plans import Settings
from kvplan.shape import sentinel_places
from kvprompt.chains import Symbols, chains
from kvprompt.hashes import plan_sha256, shape_sha256
from kvprompt.lines import Line, Place, places
from kvprompt.tree import PrefixTree


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
    """None: three, or five in a hundred if that is more."""
    most_output: int | None
    """No request asks for more output tokens than this; None: as the file tells."""
    note: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Drafts:
    """Own requests in order of dispatch, as they are sent, and the sentinels."""

    order: Sequence[OwnRequest]
    prompts: Sequence[Sent]
    symbols: Sequence[Symbols]
    """What the chain of each is made over."""
    sentinels: Sequence[Draft]
    exact: bool
    """All of them are token ids."""


class Assembly:
    """Makes the plan of drafts."""

    def __init__(self, drafts: Drafts, wish: OwnWish, settings: Settings, count: Count) -> None:
        self._drafts = drafts
        self._wish = wish
        self._settings = settings
        self._count = count
        self._calibrated: Calibrated = "token_ids" if drafts.exact else count.counter.calibrated
        tokens_at: Callable[[int], int] = int if drafts.exact else count.counter.tokens_at
        others = [one.symbols for one in drafts.sentinels]
        self._chains = chains([*drafts.symbols, *others], tokens_at)
        self._tree = PrefixTree()
        times = [own.at_s for own in drafts.order if own.at_s is not None]
        self._start_s = min(times, default=0.0)

    def plan(self) -> tuple[Plan, list[Planned]]:
        """Head and requests."""
        order = self._drafts.order
        lines = [Line(group=own.group, turn=own.turn) for own in order]
        stand = places(lines, self._chains[: len(order)])
        requests: list[Planned] = []
        index_of: dict[int | None, int | None] = {None: None}
        for own, sentinel in self._sequence():
            index = len(requests)
            if sentinel is not None:
                requests.append(self._sentinel(index, sentinel, max(0, own - 1)))
            else:
                index_of[own] = index
                place = stand[own]
                requests.append(self._own(index, own, place, index_of[place.after]))
        return self._head(requests), requests

    def _sequence(self) -> Iterator[tuple[int, int | None]]:
        """(place of an own request, None), and (place that it stands before, sentinel)."""
        requests = len(self._drafts.order)
        due = sentinel_places(len(self._drafts.sentinels), requests)
        for own in range(requests + 1):
            for sentinel, before in enumerate(due):
                if before == own:
                    yield own, sentinel
            if own < requests:
                yield own, None

    def _own(self, index: int, at: int, place: Place, after: int | None) -> Planned:
        own, blocks = self._drafts.order[at], self._chains[at]
        return Planned(
            index=index,
            group=place.group,
            stratum=place.stratum,
            turn=own.turn,
            after=after,
            at_s=self._due(own),
            max_tokens=self._output(own),
            prompt_tokens=sum(block.tokens for block in blocks),
            new_tokens=self._tree.add(blocks),
            blocks=blocks,
            body=self._settings.body,
            **_content(self._drafts.prompts[at]),
        )

    def _sentinel(self, index: int, number: int, before: int) -> Planned:
        """A sentinel, which is due when the own request before it is."""
        draft = self._drafts.sentinels[number]
        blocks = self._chains[len(self._drafts.order) + number]
        return Planned(
            index=index,
            stratum="sentinel",
            at_s=self._due(self._drafts.order[before]),
            max_tokens=self._settings.output_tokens,
            asked_tokens=draft.item.asked_tokens,
            prompt_tokens=sum(block.tokens for block in blocks),
            new_tokens=self._tree.add(blocks),
            blocks=blocks,
            nonce=draft.nonce,
            body=self._settings.body,
            **_content(draft.prompt),
        )

    def _due(self, own: OwnRequest) -> float | None:
        return None if own.at_s is None else round(own.at_s - self._start_s, 6)

    def _output(self, own: OwnRequest) -> int:
        if own.output_tokens is None:
            return self._settings.output_tokens
        most = self._wish.most_output
        told = max(1, own.output_tokens)
        return told if most is None else min(told, most)

    def _head(self, requests: Sequence[Planned]) -> Plan:
        own = [request for request in requests if request.stratum != "sentinel"]
        exact, found = self._drafts.exact, self._count.found
        counted = self._calibrated in ("tokenize", "token_ids")
        notes = [self._wish.note, None if exact else self._count.note]
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
            floor_tokens=0 if exact else self._count.counter.floor_tokens,
            got_tokens=sum(one.prompt_tokens or 0 for one in requests) if counted else None,
            cold_requests=sum(one.stratum != "follower" for one in own),
            note="; ".join(note for note in notes if note) or None,
        )


def _content(prompt: Sent) -> dict[str, Any]:
    return {"prompt" if messages_of(prompt) is None else "messages": prompt}
