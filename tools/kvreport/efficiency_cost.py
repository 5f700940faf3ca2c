"""What a cache costs whoever it does not help: prompts that nobody asked before.

Rounds without reuse, with the cache and without it, paired by request where the plans are equal:
`kvreport off=off.jsonl on=on.jsonl --baseline off`. And churn: what a store throws away while it is
written and read, by its own counters, beside what its hits came to.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import msgspec

from kvpipe.records import RoundStats
from kvreport.experiments import Experiment, Role

if TYPE_CHECKING:
    from kvreport.conclusion import Conclusion, Contrast

ROLES: tuple[Role, ...] = ("no_reuse", "cold", "hit")
EVICTED, PUT, REFUSED = "store_evicted_keys", "store_puts", "store_alloc_failures"


class Churn(msgspec.Struct, frozen=True, kw_only=True):
    """What the store did in a scenario's rounds of one role, summed over repeats.

    `put_keys` and `refused_puts` are null where the store does not count them; `efficiency` is the
    mean of the hits of ideal, null for other rounds than hits.
    """

    scenario: str
    role: str
    rounds: int
    evicted_keys: float
    put_keys: float | None
    refused_puts: float | None
    efficiency: float | None


def churns(experiments: Sequence[Experiment]) -> list[Churn]:
    """Every role of every scenario in whose rounds a store evicted something, or refused a put."""
    return [one for experiment in experiments for one in _churns(experiment)]


def _churns(experiment: Experiment) -> Iterator[Churn]:
    found = [
        _churn(experiment, role, stats)
        for role in ROLES
        if (stats := [one.stats for repeat in experiment.repeats for one in repeat.of(role)])
    ]
    if any(one.evicted_keys or one.refused_puts for one in found):
        yield from found


def _churn(experiment: Experiment, role: Role, stats: Sequence[RoundStats]) -> Churn:
    shares = [one.efficiency for one in stats if one.efficiency is not None]
    return Churn(
        scenario=experiment.name,
        role=role,
        rounds=len(stats),
        evicted_keys=_counted(stats, EVICTED) or 0.0,
        put_keys=_counted(stats, PUT),
        refused_puts=_counted(stats, REFUSED),
        efficiency=sum(shares) / len(shares) if shares else None,
    )


def _counted(stats: Sequence[RoundStats], name: str) -> float | None:
    """A store's own counter over some rounds; None where no round has it."""
    told = [
        value
        for one in stats
        for server in one.server
        if server.role == "store" and (value := server.counters.get(name)) is not None
    ]
    return sum(told) if told else None


def evicting(conclusion: Conclusion) -> set[str]:
    """Scenarios whose store evicted something."""
    return {one.scenario for one in conclusion.churn if one.evicted_keys}


def costs(conclusion: Conclusion) -> list[Contrast]:
    """The contrasts that tell what the cache costs: rounds without reuse stood on both sides.

    Where only one side's store evicts, they tell of churn instead.
    """
    full = evicting(conclusion)
    return [
        one
        for one in conclusion.contrasts
        if "ttft_no_reuse" in one.effects and (one.name in full) == (conclusion.baseline in full)
    ]
