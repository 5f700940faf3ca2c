"""What an analysis predicted, against what a round's engines reported.

An analysis (`kvplan --analyze`) says what a cache gives to requests that come one after the other
to an empty cache: a cold round, serial, of the same plan. It is the round's by the plan's hash or,
where the analysis made no plan, by scenario and number of requests.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import msgspec

from kvpipe.records import Analysis, BlockSize, HitsAt
from kvreport.rounds import Round

NO_LIMIT = "no limit"
"""How the name of a round ends that had room for everything."""


class Prediction(msgspec.Struct, frozen=True, kw_only=True):
    """One capacity's prediction for one cold round. Ratios are shares of the prompt tokens.

    `capacity` is null without a limit; `error` is measured less predicted; `like_tokens` is the
    room at which the predicted curve reaches what was measured: null where it never does.
    """

    name: str
    repeat: int
    serial: bool
    requests: int
    block_tokens: int
    order: str
    capacity: str | None
    capacity_tokens: int | None
    predicted: float
    measured: float
    error: float
    like_tokens: int | None


def predictions(rounds: Sequence[Round], analyses: Sequence[Analysis]) -> list[Prediction]:
    """For every cold round that an analysis is of. A round whose name ends as a named capacity does
    is held against that one, one that ends in `no limit` against none, any other against all."""
    return [
        one
        for analysis in analyses
        for found in rounds
        if _belongs(found, analysis)
        for one in _of_round(found, analysis)
    ]


def _belongs(found: Round, analysis: Analysis) -> bool:
    run = found.run
    if run is None or run.arm != "cold" or found.stats.hit_ratio is None:
        return False
    if analysis.plan_sha256 is not None:
        return run.plan_sha256 == analysis.plan_sha256
    return (run.scenario, run.requests) == (analysis.scenario, analysis.requests)


def _of_round(found: Round, analysis: Analysis) -> Iterator[Prediction]:
    run, measured = found.run, found.stats.hit_ratio
    size = _size(analysis, run.block_tokens if run else None)
    if run is None or measured is None or size is None:
        return
    for point in [size.ideal, *_named(size, found.name)]:
        yield Prediction(
            name=found.name,
            repeat=run.repeat,
            serial=run.arrival.kind == "serial"
            or (run.arrival.concurrency == 1 and run.shard in (None, "0/1")),
            requests=analysis.requests,
            block_tokens=size.block_tokens,
            order=analysis.order,
            capacity=point.name,
            capacity_tokens=point.capacity_tokens,
            predicted=point.hit_ratio,
            measured=measured,
            error=measured - point.hit_ratio,
            like_tokens=_like(size.curve, measured),
        )


def _named(size: BlockSize, round_name: str) -> list[HitsAt]:
    """The capacities that a round may be of."""
    if round_name.endswith(NO_LIMIT):
        return []
    own = [one for one in size.named if one.name and round_name.endswith(one.name)]
    return own or size.named


def _size(analysis: Analysis, block_tokens: int | None) -> BlockSize | None:
    """The engine's block size; where that is not among them, the finest."""
    sizes = sorted(analysis.sizes, key=lambda size: size.block_tokens)
    own = (one for one in sizes if one.block_tokens == block_tokens)
    return next(own, sizes[0] if sizes else None)


def _like(curve: Iterable[HitsAt], measured: float) -> int | None:
    """The first room of the curve that gives as much."""
    enough = (one.capacity_tokens for one in curve if one.hit_ratio >= measured - 1e-9)
    return next(enough, None)
