"""A trace as a plan: prompts built block by block from `hash_ids`, each due at its time.

One request at a time goes by. What must stand in the head is known only behind the last of them,
so they wait in a temporary file meanwhile: memory holds the ids that come again and no prompt.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

from kvpipe.jsonl import encode
from kvpipe.records import Block, Calibrated, Plan, Planned
from kvplan.draws import Draws
from kvplan.lineage import Lineage
from kvplan.measure import Measure
from kvplan.shape import SENTINEL_TOKENS, sentinel_count, sentinel_places
from kvplan.trace import TraceLine, prefixes
from kvplan.wording import Wording
from kvprompt.hashes import PlanHashes

LEAST_SENTINEL = 32
"""Tokens of the shortest sentinel: room for a nonce."""
SENTINEL_OUTPUT = 64

Due = Callable[[], Iterable[tuple[TraceLine, float]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """What is replayed: the requests with their times, and what looks over them have found."""

    due: Due
    lineage: Lineage
    measure: Measure
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Manner:
    """How it is replayed."""

    seed: int
    sentinels: int | None
    """None: three, or five in a hundred if that is more."""
    block_tokens: int
    calibrated: Calibrated
    floor_tokens: int | None
    model: str | None
    body: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """A plan whose requests lie in a file, one line each."""

    head: Plan
    tokens: int
    """Of all prompts, as they are planned."""
    crowded: int
    """Blocks that differ from a sibling's only behind their first token."""
    lines: IO[bytes]


@contextmanager
def replayed(
    score: Score, manner: Manner, wording: Wording[Any], repeat: int, see: Callable[[Planned], None]
) -> Iterator[Replayed]:
    """The plan of one repeat; `see` is shown every request. Raises ToolError."""
    hashes = PlanHashes()
    got = asked = count = 0
    with tempfile.TemporaryFile() as lines:
        builder = _Builder(score, manner, wording, repeat)
        for request in builder.requests():
            hashes.add(request)
            asked += request.asked_tokens or 0
            got += request.prompt_tokens or 0
            count += 1
            see(request)
            lines.write(encode(request))
        lines.seek(0)
        lineage = score.lineage
        head = Plan(
            scenario="trace",
            source=score.source,
            seed=manner.seed,
            repeat=repeat,
            plan_sha256=hashes.plan_sha256,
            shape_sha256=hashes.shape_sha256,
            calibrated=manner.calibrated,
            model=manner.model,
            requests=lineage.requests,
            sentinels=count - lineage.requests,
            contexts=lineage.groups() or None,
            order="given",
            block_tokens=manner.block_tokens,
            floor_tokens=manner.floor_tokens,
            asked_tokens=asked,
            got_tokens=got if manner.calibrated in ("tokenize", "token_ids") else None,
            cold_requests=lineage.cold(),
        )
        yield Replayed(head=head, tokens=got, crowded=builder.crowded, lines=lines)


class _Builder:
    """Makes the requests of one repeat, in order."""

    def __init__(self, score: Score, manner: Manner, wording: Wording[Any], repeat: int) -> None:
        self._score = score
        self._manner = manner
        self._wording = wording
        self._lineage = score.lineage
        self._measure = score.measure
        self._seed = f"trace|{manner.seed}|{repeat}|{score.measure.block}"
        self._draws = Draws(
            self._seed, wording.alphabet, score.measure.block, self._lineage.comes_again
        )
        self._parts: set[int] = set()
        """Parts of blocks that were seen, of blocks that prompts end in the middle of."""

    @property
    def crowded(self) -> int:
        """Blocks that begin as a sibling does."""
        return self._draws.crowded

    def requests(self) -> Iterator[Planned]:
        """The trace's own, with sentinels spread evenly among them, none of them first."""
        total = self._lineage.requests
        count = sentinel_count(self._manner.sentinels, total)
        places = sentinel_places(count, total)
        index = sentinels = 0
        before: float | None = None
        for number, (line, at_s) in enumerate(self._score.due()):
            while before is not None and sentinels < count and places[sentinels] <= number:
                yield self._sentinel(index, sentinels, (before + at_s) / 2)
                index, sentinels = index + 1, sentinels + 1
            yield self._request(index, number, line, at_s)
            index, before = index + 1, at_s
        while before is not None and sentinels < count:
            yield self._sentinel(index, sentinels, before)
            index, sentinels = index + 1, sentinels + 1

    def _request(self, index: int, number: int, line: TraceLine, at_s: float) -> Planned:
        symbols, blocks, new = self._built(line, number)
        content = self._wording.content(symbols)
        return Planned(
            index=index,
            group=self._lineage.group(number),
            stratum=self._lineage.stratum(number),
            at_s=at_s,
            max_tokens=self._measure.output(line),
            asked_tokens=self._measure.asked(line),
            prompt_tokens=sum(block.tokens for block in blocks),
            new_tokens=new,
            blocks=blocks,
            body=self._manner.body,
            **content,
        )

    def _built(self, line: TraceLine, number: int) -> tuple[list[Any], list[Block], int]:
        """Symbols of a prompt, its links, and the tokens that no earlier prompt had.

        What comes behind the first block that never comes again is one link: nobody shares it.
        """
        measure, owners, draws = self._measure, self._lineage.owners, self._draws
        symbols: list[Any] = []
        chain = _Chain("front", measure.front, new=number == 0)
        final = len(line.hash_ids) - 1
        parent = size = 0
        for at, prefix in enumerate(prefixes(line.hash_ids)):
            size = measure.last(line) if at == final else measure.full(at)
            new = owners.get(prefix, number) == number
            symbols += draws.block(line.hash_ids[at], prefix, parent, new=new)[:size]
            if chain.alone or prefix not in owners:
                chain.lone(draws.name(prefix), size)
            elif prefix in self._lineage.cuts:
                self._in_parts(chain, prefix, size)
            else:
                chain.link(draws.name(prefix), size, new=new)
            parent = prefix
        if measure.foot:
            new = chain.alone or self._unseen(parent, -size)
            chain.link(f"{draws.name(parent)}@{size}.", measure.foot, new=new)
        return symbols, chain.blocks, chain.new

    def _in_parts(self, chain: _Chain, prefix: int, size: int) -> None:
        """A block that some prompt ends in: one link up to each of those ends."""
        name = self._draws.name(prefix)
        done = 0
        for cut in self._lineage.cuts[prefix]:
            if cut <= size:
                chain.link(f"{name}@{cut}", cut - done, new=self._unseen(prefix, cut))
                done = cut
        if done < size:
            chain.link(name, size - done, new=self._unseen(prefix, size))

    def _unseen(self, prefix: int, end: int) -> bool:
        """Whether a block's part up to `end` (negative: the foot behind it) is seen first here."""
        part = (prefix << 32) + end
        if part in self._parts:
            return False
        self._parts.add(part)
        return True

    def _sentinel(self, index: int, number: int, at_s: float) -> Planned:
        measure = self._measure
        mean = self._lineage.tokens // self._lineage.requests
        front = self._wording.sentinel_front
        tokens = max(LEAST_SENTINEL, min(SENTINEL_TOKENS, mean), front + measure.foot + 1)
        own = tokens - front - measure.foot
        content, nonce = self._wording.sentinel(f"{self._seed}|sentinel-{number}", own)
        chain = _Chain("template", front, new=False)
        chain.lone(self._draws.name(-1 - number), own + measure.foot)
        return Planned(
            index=index,
            stratum="sentinel",
            at_s=at_s,
            max_tokens=min(measure.most_output or SENTINEL_OUTPUT, SENTINEL_OUTPUT),
            asked_tokens=tokens,
            prompt_tokens=sum(block.tokens for block in chain.blocks),
            new_tokens=chain.new,
            blocks=chain.blocks,
            nonce=nonce,
            body=self._manner.body,
            **content,
        )


class _Chain:
    """The links of one prompt."""

    def __init__(self, name: str, front: int, *, new: bool) -> None:
        self.blocks = [Block(id=name, tokens=front)] if front else []
        self.new = front if new else 0
        self.alone = False
        """Whether the prompt has left all others."""

    def link(self, name: str, tokens: int, *, new: bool) -> None:
        """A part that others may have."""
        self.blocks.append(Block(id=name, tokens=tokens))
        self.new += tokens if new else 0

    def lone(self, name: str, tokens: int) -> None:
        """A part that nobody else has: one link with what stands before it, if that is alone."""
        self.new += tokens
        if self.alone:
            tokens += self.blocks.pop().tokens
        self.blocks.append(Block(id=name, tokens=tokens))
        self.alone = True
