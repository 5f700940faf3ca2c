"""Ideal tokens of each row, and what the round's cache gave of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from kvpipe.records import Arm, Run
from kvstats.metrics import efficiency, hit_ratio, reusable
from kvstats.rows import Table


def unit_tokens(runs: Sequence[Run], observed: int | None) -> int:
    """Granularity of reuse in the tier under test; 1 where nothing tells.

    Behind LMCache whole chunks come back, so its chunk counts for tiers store and remote.
    """
    run = runs[0]
    block = run.block_tokens or observed or 1
    if run.tier in ("store", "remote") and run.chunk_tokens and run.arm == "hit":
        return max(block, run.chunk_tokens)
    return block


def ideal_tokens(table: Table, arm: Arm, unit: int) -> list[int | None]:
    """Tokens that a perfect cache would have given each row; null where the chain is not known.

    In a hit round the whole prompt was sent before, unless the record knows better.
    """
    columns = (
        table.ints("ideal_prior_tokens"),
        table.ints("ideal_in_round_hi"),
        table.ints("prompt_tokens"),
    )
    ideals: list[int | None] = []
    for stratum, prior, in_round, prompt in zip(table.stratum, *columns, strict=True):
        if stratum == "sentinel" or arm == "no_reuse":
            ideals.append(0)
            continue
        known = [tokens for tokens in (prior, in_round) if tokens is not None]
        if known:
            ideals.append(reusable(max(known), prompt, unit))
        elif arm == "hit" and prompt is not None:
            ideals.append(reusable(prompt, prompt, unit))
        else:
            ideals.append(None)
    return ideals


@dataclass(slots=True)
class Share:
    """Cached against ideal tokens of some requests."""

    requests: int = 0
    cached: int = 0
    ideal: int = 0

    def add(self, cached: int, ideal: int) -> None:
        """Take a success that reported."""
        self.requests += 1
        self.cached += cached
        self.ideal += ideal

    @property
    def efficiency(self) -> float | None:
        """Cached by ideal tokens; null where nothing could be reused."""
        return efficiency(self.cached, self.ideal)


@dataclass(slots=True)
class Shares:
    """Of the whole round and per group; sentinels left out."""

    whole: Share = field(default_factory=Share)
    groups: dict[str, Share] = field(default_factory=dict)
    ideal: int = 0
    prompt: int = 0

    @property
    def ideal_hit_ratio(self) -> float | None:
        """Ideal by prompt tokens, over successes where both are known."""
        return hit_ratio(self.ideal, self.prompt)


def shares_of(table: Table, ideals: Sequence[int | None]) -> Shares:
    """Sums over the successes among the rows."""
    shares = Shares()
    prompts, cacheds = table.ints("prompt_tokens"), table.ints("cached_tokens")
    for row, (ideal, prompt, cached) in enumerate(zip(ideals, prompts, cacheds, strict=True)):
        if not table.ok[row] or table.stratum[row] == "sentinel" or ideal is None:
            continue
        if prompt is not None:
            shares.prompt += prompt
            shares.ideal += ideal
        if cached is not None:
            shares.whole.add(cached, ideal)
            group = table.group[row]
            if group is not None:
                shares.groups.setdefault(group, Share()).add(cached, ideal)
    return shares
