"""One round as it comes in: its records are added up, nothing is judged here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvpipe.process import ToolError
from kvpipe.records import Arm, End, Request, Run, ServerMetrics, Tier
from kvstats.answered import Answered
from kvstats.delivery import BUFFERED_TOKENS_PER_READ
from kvstats.distribution import Values
from kvstats.goodput import meets
from kvstats.indexes import Indexes
from kvstats.ledger import Ledger
from kvstats.lots import Lot
from kvstats.metrics import OPEN_LOOP, REQUEST_METRICS, Column, itl_s
from kvstats.rows import Picked, Rows
from kvstats.tally import Delivery, Span, Tally, Traffic


@dataclass(frozen=True, slots=True)
class Told:
    """What requests of one lot were found to be: a column for each metric."""

    metrics: Mapping[str, Column]
    meets_slo: NDArray[np.bool_] | None  # null: failed, or there is no --slo


VALUES = (*REQUEST_METRICS, "itl_s")  # of which distributions are kept


@dataclass(frozen=True, slots=True)
class Part:
    """What a lot leaves to keep beside its sums."""

    picked: Picked
    values: Column  # of each of VALUES in turn those that there are
    sizes: tuple[int, ...] = ()  # how many of each; nothing of failures


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundKey:
    """What shards of one round have in common; runs that differ in any of it are other rounds."""

    experiment_id: str
    name: str
    scenario: str
    tier: Tier
    repeat: int
    round_num: int
    arm: Arm
    position: str | None
    plan_sha256: str
    salt: str | None  # an A/A pair differs in nothing else; shards may each have made their own

    @classmethod
    def of(cls, run: Run) -> RoundKey:
        """The key of a run's round."""
        return cls(
            experiment_id=run.experiment_id,
            name=run.name,
            scenario=run.scenario,
            tier=run.tier,
            repeat=run.repeat,
            round_num=run.round_num,
            arm=run.arm,
            position=run.position,
            plan_sha256=run.plan_sha256,
            salt=run.salt if run.shard is None else None,
        )

    def __str__(self) -> str:
        return f"round {self.round_num} ({self.arm}) of {self.name}, repeat {self.repeat}"


@dataclass(slots=True)
class Stream:
    """One run of a round: one shard, or all of it."""

    run: Run
    records: int = 0
    span: Span = field(default_factory=Span)
    end: End | None = None


class Round:
    """Everything that is kept of a round: sums, distributions and bounded rows."""

    def __init__(self, key: RoundKey, slo: Mapping[str, float]) -> None:
        self.key = key
        self.slo = slo
        self.streams: dict[str, Stream] = {}
        self.servers: list[ServerMetrics] = []
        self.tally = Tally()
        self.ledger = Ledger(key.arm)
        self.delivery = Delivery()
        self.answered = Answered()
        self.traffic: dict[str, Traffic] = {}
        self.timings: dict[str, dict[str, Values]] = {}
        self.rows = Rows(f"{key.experiment_id}/{key.plan_sha256}/{key.repeat}")
        self.good = 0
        self._seen = Indexes()

    @property
    def runs(self) -> list[Run]:
        """The runs, in an order that the order of files does not change."""
        runs = [stream.run for stream in self.streams.values()]
        return sorted(runs, key=lambda run: (shard_of(run) or (-1, 0), run.run_id))

    @property
    def open_loop(self) -> bool:
        """Whether requests follow a schedule whatever the answers do."""
        return any(run.arrival.kind in OPEN_LOOP for run in self.runs)

    def add_run(self, run: Run) -> None:
        """Take the head of a stream."""
        self.streams[run.run_id] = Stream(run)

    def expect(self, request: Request) -> None:
        """Before it is taken; ToolError if its index was there before."""
        if not self._seen.add(request.index):
            raise ToolError(
                f"index {request.index} twice in {self.key}: the same records were given twice, "
                "or runs that are no shards of one round share an experiment"
            )

    def is_new(self, indexes: NDArray[Any]) -> bool:
        """Whether none of these was there before, and none is there twice."""
        return self._seen.is_new(indexes)

    def see(self, indexes: NDArray[Any]) -> None:
        """Have these been there."""
        self._seen.put(indexes)

    def add(self, lot: Lot) -> Told:
        """Take requests, in any order and any number at once; what they were found to be."""
        told, part = self.sum_up(lot)
        self.take(part)
        return told

    def sum_up(self, lot: Lot) -> tuple[Told, Part]:
        """Take the sums of a lot alone; what else there is to keep of it is the part."""
        stream = self.streams[lot.like.run_id]
        stream.records += len(lot)
        metrics = {name: metric(lot) for name, metric in REQUEST_METRICS.items()}
        picked = self.rows.pick(lot, metrics)
        self.tally.add(lot)
        self.ledger.add(lot)
        self.traffic.setdefault(lot.like.endpoint_url, Traffic()).add(lot)
        if lot.stratum != "sentinel":
            stream.span.add(lot)
        if not lot.ok:
            return Told(metrics, None), Part(picked, np.empty(0))
        self.delivery.add(lot, BUFFERED_TOKENS_PER_READ)
        self.answered.add(lot)
        values = [column[~np.isnan(column)] for column in metrics.values()]
        values.append(itl_s(lot))
        good = None
        if self.slo:
            good = meets(metrics, self.slo, open_loop=stream.run.arrival.kind in OPEN_LOOP)
            if lot.stratum != "sentinel":
                self.good += int(good.sum())
        sizes = tuple(len(column) for column in values)
        return Told(metrics, good), Part(picked, np.concatenate(values), sizes)

    def take(self, part: Part) -> None:
        """Keep the rows and the values of a part."""
        self.rows.take(part.picked)
        if not part.sizes:
            return
        timings = self.timings.get(part.picked.stratum)
        if timings is None:
            timings = self.timings[part.picked.stratum] = {name: Values() for name in VALUES}
        start = 0
        for values, size in zip(timings.values(), part.sizes, strict=True):
            values.extend(part.values[start : start + size])
            start += size

    def merge(self, other: Round) -> None:
        """Take the sums of other lots of this round; their parts are taken on their own."""
        for run_id, stream in other.streams.items():
            self.streams[run_id].records += stream.records
            self.streams[run_id].span.merge(stream.span)
        self.tally.merge(other.tally)
        self.ledger.merge(other.ledger)
        self.delivery.merge(other.delivery)
        self.answered.merge(other.answered)
        for url, traffic in other.traffic.items():
            self.traffic.setdefault(url, Traffic()).merge(traffic)
        self.good += other.good

    def add_server(self, metrics: ServerMetrics) -> None:
        """Take what a server counted."""
        self.servers.append(metrics)

    def add_end(self, end: End) -> None:
        """Take the foot of a stream."""
        self.streams[end.run_id].end = end


def shard_of(run: Run) -> tuple[int, int] | None:
    """(I, N) of a shard, I from 0; null for a run that is none, or names it otherwise."""
    found = _SHARD.fullmatch(run.shard or "")
    return None if found is None else (int(found[1]), int(found[2]))


_SHARD = re.compile("([0-9]{1,5})/([0-9]{1,5})")
