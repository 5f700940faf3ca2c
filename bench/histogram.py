"""Does the server see the same difference? `python -m bench.histogram RECORDS.jsonl ...`

The server's TTFT histogram is not the client's TTFT less queueing: tokenising and templating may
lie outside of it. What must hold is that their difference changes between two rounds by less than
5 % of the effect; else what changed lies between client and server, and not in the engine. Reads
kvload's records with the servers' counters in them (`vllm:time_to_first_token_seconds`, sum and
count over the round) and holds each hit round against the others of its repeat.

Exit status: 0 every change is below 5 %, 1 one is not, 2 nothing could be held against anything.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kvpipe.jsonl import open_lines, read_records
from kvpipe.records import Request, Run, ServerMetrics

MOST = 0.05


@dataclass(slots=True)
class Means:
    """One round: mean TTFT in seconds by the client's stamps and by the server's histogram.

    `server_s` is None where no server counted exactly the requests that were answered.
    """

    run: Run
    total_s: float = 0.0
    answered: int = 0
    server_s: float | None = None
    counted: float | None = None

    @property
    def client_s(self) -> float:
        return self.total_s / self.answered

    @property
    def gap_s(self) -> float | None:
        """The client's less the server's."""
        whole = self.answered and self.counted == self.answered
        return self.client_s - self.server_s if whole and self.server_s is not None else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """Two rounds. `share` is how much their gap changed, as a part of the effect."""

    base: Means
    other: Means
    effect_s: float
    share: float


def means(path: Path) -> list[Means]:
    """Every round of the records, in their order."""
    rounds: dict[str, Means] = {}
    with open_lines(str(path)) as (name, stream):
        for record in read_records(stream, name):
            match record:
                case Run():
                    rounds[record.run_id] = Means(record)
                case Request(status="ok", first_token_ns=int(first), sent_ns=int(sent)):
                    rounds[record.run_id].total_s += (first - sent) / 1e9
                    rounds[record.run_id].answered += 1
                case ServerMetrics():
                    count = record.counters.get("ttft_count")
                    total = record.counters.get("ttft_sum_s")
                    if count and total is not None:
                        found = rounds[record.run_id]
                        found.counted, found.server_s = count, total / count
    return list(rounds.values())


def changes(rounds: list[Means]) -> Iterator[Change]:
    """Each hit round against every round of its repeat that is none, where both can be told."""
    for other in rounds:
        for base in rounds:
            before, after = base.gap_s, other.gap_s
            same = (base.run.name, base.run.repeat) == (other.run.name, other.run.repeat)
            arms = other.run.arm == "hit" and base.run.arm != "hit"
            if same and arms and before is not None and after is not None:
                effect = base.client_s - other.client_s
                share = abs(after - before) / abs(effect) if effect else math.inf
                yield Change(base=base, other=other, effect_s=effect, share=share)


def main() -> int:
    found = [change for name in sys.argv[1:] for change in changes(means(Path(name)))]
    if not found:
        print("histogram: no two rounds whose servers told their TTFT", file=sys.stderr)
        return 2
    print("| rounds | client | server | effect | change of their difference |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for one in found:
        base, other = one.base, one.other
        print(
            f"| {base.run.name}: {base.run.arm} → {other.run.arm} "
            f"| {base.client_s * 1e3:.1f} → {other.client_s * 1e3:.1f} ms "
            f"| {(base.server_s or 0) * 1e3:.1f} → {(other.server_s or 0) * 1e3:.1f} ms "
            f"| {one.effect_s * 1e3:.1f} ms | {one.share:.2%} |"
        )
    return 0 if all(one.share < MOST for one in found) else 1


if __name__ == "__main__":
    sys.exit(main())
