"""The project's tools in one shell pipeline against real engines, and what came out of it."""

from __future__ import annotations

import json
import statistics
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.family import environment

PATIENCE_S = 300.0  # for what takes seconds on an idle machine
LEADING = ("leader", "unique")

Record = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Round:
    """One round: the records that kvload wrote, and what kvstats made of them."""

    run: Record
    requests: list[Record]
    servers: dict[str, Record]  # by role
    end: Record
    stats: Record

    def of(self, *strata: str) -> list[Record]:
        found = [request for request in self.requests if request["stratum"] in strata]
        assert found, f"no {' or '.join(strata)} in the plan: the test would show nothing"
        return found

    @property
    def leading(self) -> list[Record]:
        """Requests to which no other of their round gives a prefix."""
        return self.of(*LEADING)

    @property
    def own(self) -> list[Record]:
        """All but the sentinels."""
        return self.of(*LEADING, "follower")

    def findings(self) -> dict[str, str]:
        """Severity by code."""
        return {finding["code"]: finding["severity"] for finding in self.stats["findings"]}

    def total(self, key: str) -> int:
        return sum(request[key] for request in self.requests)

    def counted(self, name: str) -> float:
        """What the node counted in this round."""
        return float(self.servers["node"]["counters"][name])


@dataclass(frozen=True, kw_only=True)
class Done:
    """How a pipeline ended. `statuses`: of each of its processes, in order."""

    statuses: list[int]
    err: str
    stats_path: Path
    rounds: list[Round] = field(repr=False)

    def round_of(self, arm: str) -> Round:
        [found] = [one for one in self.rounds if one.run["arm"] == arm]
        return found


def measure(folder: Path, load: str, *, name: str = "run") -> Done:
    """`... kvload ...` as given, `| tee RECORDS | kvstats > STATS`, in a shell.

    Fails unless every process of the pipeline ended with 0.
    """
    records, stats = folder / f"{name}.jsonl", folder / f"{name}.stats.jsonl"
    done = subprocess.run(
        ["bash", "-c", f'{load} | tee {records} | kvstats > {stats}; echo "${{PIPESTATUS[@]}}"'],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        cwd=folder,
        env=environment(),
        check=False,
    )
    print(done.stderr)  # pytest shows it with a failure
    statuses = [int(word) for word in done.stdout.split()]
    assert set(statuses) == {0}, f"{load}: {statuses}: {done.stderr}"
    return Done(
        statuses=statuses,
        err=done.stderr,
        stats_path=stats,
        rounds=list(rounds_of(lines(records), lines(stats))),
    )


def lines(path: Path) -> list[Record]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def rounds_of(records: list[Record], stats: list[Record]) -> Iterator[Round]:
    """Each stream of records with its line of stats."""
    by_run = {one["run"]["run_id"]: one for one in stats}
    for head in (record for record in records if record["record"] == "run"):
        mine = [record for record in records if record.get("run_id") == head["run_id"]]
        [end] = of_kind(mine, "end")
        yield Round(
            run=head,
            requests=sorted(of_kind(mine, "request"), key=lambda request: request["index"]),
            servers={one["role"]: one for one in of_kind(mine, "server_metrics")},
            end=end,
            stats=by_run[head["run_id"]],
        )


def of_kind(records: Iterable[Record], kind: str) -> list[Record]:
    return [record for record in records if record["record"] == kind]


def median_ttft(requests: Iterable[Record]) -> float:
    """In ns; only for ratios."""
    return statistics.median(one["first_token_ns"] - one["sent_ns"] for one in requests)
