"""What changed between two rounds of one repeat: plain arithmetic on complete pairs.

No inference: whether a change holds beyond this run is kvreport's question.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from kvpipe.records import RoundStats, Run, Samples
from kvstats.metrics import OPEN_LOOP

TARGET_TTFT_REDUCTION = 0.6  # the documents': at least 60 %
TARGET_THROUGHPUT_INCREASE = 1.5  # at least 150 %


@dataclass(frozen=True, slots=True, kw_only=True)
class Sums:
    """Sums over complete pairs of one metric."""

    pairs: int
    first_s: float
    second_s: float

    @property
    def reduction(self) -> float | None:
        """1 - second / first; null without pairs."""
        return 1 - self.second_s / self.first_s if self.pairs and self.first_s > 0 else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """Second round against the first."""

    ttft: Sums
    e2e: Sums
    tpot: Sums
    dropped: int  # pairs with unequal status or output tokens
    throughput_increase: float | None
    open_loop: bool
    cold: int | None
    total: int
    invalid: list[str]  # findings that withhold the verdict


def run_of(stats: RoundStats) -> Run:
    """The round's head; of merged shards the first."""
    return stats.run[0] if isinstance(stats.run, list) else stats.run


def change_of(first: RoundStats, second: RoundStats) -> Change | None:
    """The change from a cold to a later round of the same plan; null if they are no pair."""
    before, after = run_of(first), run_of(second)
    same = ("experiment_id", "name", "repeat", "plan_sha256")
    if any(getattr(before, key) != getattr(after, key) for key in same):
        return None
    if before.arm != "cold" or after.arm != "hit" or not first.samples or not second.samples:
        return None
    pairs = list(_pairs(first.samples, second.samples))
    whole = [(i, j) for i, j in pairs if _equal_work(first.samples, i, second.samples, j)]
    rates = first.request_throughput_rps, second.request_throughput_rps
    open_loop = after.arrival.kind in OPEN_LOOP
    return Change(
        ttft=_sums(first.samples.ttft_s, second.samples.ttft_s, whole),
        e2e=_sums(first.samples.e2e_s, second.samples.e2e_s, whole),
        tpot=_sums(first.samples.tpot_s, second.samples.tpot_s, whole),
        dropped=len(pairs) - len(whole),
        throughput_increase=rates[1] / rates[0] - 1 if rates[0] and rates[1] else None,
        open_loop=open_loop,
        cold=first.cold_requests,
        total=first.total_requests,
        invalid=sorted(
            {f.code for one in (first, second) for f in one.findings if f.severity == "invalid"}
        ),
    )


def previous(stats: Sequence[RoundStats], position: int) -> Change | None:
    """The change from the last cold round before `position` that it pairs with."""
    for earlier in reversed(stats[:position]):
        change = change_of(earlier, stats[position])
        if change is not None:
            return change
    return None


def _pairs(first: Samples, second: Samples) -> Iterator[tuple[int, int]]:
    places = {index: row for row, index in enumerate(second.index)}
    for row, index in enumerate(first.index):
        if first.stratum[row] != "sentinel" and index in places:
            yield row, places[index]


def _equal_work(first: Samples, i: int, second: Samples, j: int) -> bool:
    return first.ok[i] and second.ok[j] and first.output_tokens[i] == second.output_tokens[j]


def _sums(
    first: Sequence[float | None], second: Sequence[float | None], rows: list[tuple[int, int]]
) -> Sums:
    values = [
        (before, after)
        for i, j in rows
        if (before := first[i]) is not None and (after := second[j]) is not None
    ]
    return Sums(
        pairs=len(values),
        first_s=sum(before for before, _ in values),
        second_s=sum(after for _, after in values),
    )
