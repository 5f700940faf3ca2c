"""One round as the report sees it: its stats, where they were read, and what role it plays."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from kvpipe.records import Arm, RoundStats, Run, Stratum

COLD_STRATA: tuple[Stratum, ...] = ("leader", "unique")
"""Requests whose prefix no earlier request of the round gives: what a round-1 miss is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """A round's stats and their origin. `run` is None for an old stats file, which had no head."""

    stats: RoundStats
    place: str
    label: str | None = None

    @property
    def run(self) -> Run | None:
        """Head of the round; the first shard's where shards were merged."""
        run = self.stats.run
        if isinstance(run, Run):
            return run
        return run[0] if run else None

    @property
    def ids(self) -> set[str]:
        """Runs that it was made of: one, or each shard's; none of an old file."""
        runs = self.stats.run if isinstance(self.stats.run, list) else [self.stats.run]
        return {run.run_id for run in runs}

    @property
    def old(self) -> bool:
        """Whether it comes from an old stats file: means only, no head, no samples."""
        return self.run is None

    @property
    def name(self) -> str:
        return self.label or self.stats.name

    @property
    def number(self) -> int:
        return self.stats.round_num

    @property
    def repeat(self) -> int:
        return self.run.repeat if self.run else 1

    @property
    def arm(self) -> Arm:
        """As recorded; old files only have the documents' numbering."""
        if self.run:
            return self.run.arm
        if self.number == 0:
            return "no_reuse"
        return "cold" if self.number == 1 else "hit"

    @property
    def endpoint(self) -> str | None:
        return self.stats.endpoint_url or (self.run.endpoint_url if self.run else None)

    @property
    def simulated(self) -> bool:
        return bool(self.run and self.run.simulated) or any(
            finding.code == "simulated" for finding in self.stats.findings
        )

    @property
    def serial(self) -> bool | None:
        """One request at a time; None where an old file does not tell."""
        if not self.run:
            return None
        arrival = self.run.arrival
        if arrival.kind == "closed" and self.run.shard not in (None, "0/1"):
            return False  # one at a time from each of several machines
        return arrival.kind == "serial" or (arrival.kind == "closed" and arrival.concurrency == 1)

    @property
    def open_loop(self) -> bool:
        """Requests were sent on a schedule, whether answers came or not."""
        if self.run is None:
            return False
        return self.run.arrival.kind in ("constant", "poisson", "gamma", "planned")

    @property
    def started(self) -> datetime | None:
        """Wall clock at the round's start; None for old files or an unreadable stamp."""
        if not self.run:
            return None
        try:
            return datetime.fromisoformat(self.run.started_at)
        except ValueError:
            return None

    def count(self, strata: tuple[Stratum, ...]) -> int | None:
        """Requests of some strata; None where neither samples nor `cold_requests` tell."""
        samples = self.stats.samples
        if samples and samples.total == len(samples.index):
            return sum(stratum in strata for stratum in samples.stratum)
        return self.stats.cold_requests if strata == COLD_STRATA else None
