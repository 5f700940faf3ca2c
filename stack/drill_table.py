"""What a drill cost, from its records: a line of JSON for each fault and phase, and a table.

    python stack/drill_table.py OUT        (stack/drill.py does it at its end)

Reads OUT/FAULT/fault.json, the records of each phase and stats.jsonl; writes OUT/drill.jsonl and
OUT/drill.md. Counts are of the scenario's own requests, sentinels apart:

  hit       all of the prompt that the store could have held came through the connector
  part      some of it did
  own       some of it came out of the engine's own cache: its reset had failed
  computed  none of it was cached: the fallback
  failed    no complete answer, by status
  lost      planned, and without a record
  other     another answer than the cold round's to the same request; of these `wrong` are no
            near tie by their log probabilities (`kvstats`' same-answer check), which are compared
            in `control` as well, where no cache has a part

The hit round is cut where the fault came: what had been recorded by then stands in `hit`, the rest,
with the request in flight, in `struck`. Needs the project's tools.
"""

import json
import statistics
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from kvpipe.jsonl import open_lines, read_records
from kvpipe.records import End, Request, RoundStats, Run
from kvstats.divergence import divergence, kept

FILES = ("hit", "down", "repaired", "anew")
SHOWN = ("control", "hit", "struck", "down", "repaired", "anew")
"""Phases of the table; drill.jsonl has the cold rounds too."""


@dataclass(frozen=True, kw_only=True)
class Round:
    """One stream of kvload's records."""

    run: Run
    requests: list[Request]
    end: End | None

    @property
    def own(self) -> list[Request]:
        """Without sentinels, as they ended."""
        return [one for one in self.requests if one.stratum != "sentinel"]


def rounds_in(path: Path) -> list[Round]:
    """The rounds of a file, in order; a request that comes twice is an error of the reader."""
    heads: list[Run] = []
    requests: dict[str, list[Request]] = {}
    ends: dict[str, End] = {}
    with open_lines(str(path)) as (name, stream):
        for record in read_records(stream, name):
            if isinstance(record, Run):
                heads.append(record)
            elif isinstance(record, Request):
                requests.setdefault(record.run_id, []).append(record)
            elif isinstance(record, End):
                ends[record.run_id] = record
    return [
        Round(run=head, requests=requests.get(head.run_id, []), end=ends.get(head.run_id))
        for head in heads
    ]


def outcome(one: Request) -> str:
    """`hit`, `part`, `own`, `computed`, `unknown` (no count of cached tokens) or the status."""
    if one.status != "ok":
        return one.status
    if one.cached_tokens is None:
        return "unknown"
    if one.cached_local_tokens:
        return "own"
    if one.cached_tokens == 0:
        return "computed"
    return "hit" if one.cached_tokens >= (one.ideal_prior_tokens or 0) else "part"


def ttft_s(one: Request) -> float | None:
    """First byte sent to first token; null if none came."""
    if one.first_token_ns is None or one.sent_ns is None:
        return None
    return (one.first_token_ns - one.sent_ns) / 1e9


def waited_s(one: Request) -> float:
    """How long whoever asked it waited for a first token, or for the end if none came."""
    first = one.end_ns if one.first_token_ns is None else one.first_token_ns
    return (first - (one.start_ns if one.sent_ns is None else one.sent_ns)) / 1e9


def answers(requests: Iterable[Request], cold: Sequence[Request]) -> dict[str, int]:
    """How many complete answers were compared, differ, and differ by no near tie."""
    before = {one.index: one for one in cold if one.status == "ok"}
    counts = Counter[str](compared=0, other=0, wrong=0)
    for one in requests:
        base = before.get(one.index)
        if one.status != "ok" or base is None:
            continue
        counts["compared"] += 1
        if one.output_sha256 == base.output_sha256:
            continue
        counts["other"] += 1
        pair = [kept(at.output_text or "", at.logprobs) for at in (base, one)]
        # What nothing tells apart is counted as wrong: a drill must not be lenient.
        counts["wrong"] += divergence(one.index, *pair).kind != "near_tie"
    return dict(counts)


def line(
    phase: str, round_: Round, requests: Sequence[Request], planned: int, cold: Sequence[Request]
) -> dict[str, Any]:
    """One phase in figures. `planned`: requests that should have a record here."""
    outcomes = Counter(map(outcome, requests))
    hits = [at for at, one in enumerate(requests) if outcome(one) == "hit"]
    computed = [ttft_s(one) or 0.0 for one in requests if outcome(one) == "computed"]
    failed = {name: outcomes[name] for name in sorted(outcomes) if name not in KINDS}
    return {
        "phase": phase,
        "round_num": round_.run.round_num,
        "requests": planned,
        **{kind: outcomes[kind] for kind in KINDS},
        "failed": sum(failed.values()),
        "statuses": failed,
        "errors": sorted({one.error for one in requests if one.error}),
        "lost": planned - len(requests),
        "first_hit": hits[0] + 1 if hits else None,
        "longest_wait_s": max(map(waited_s, requests), default=None),
        "computed_ttft_s": statistics.median(computed) if computed else None,
        "barrier": round_.end and round_.end.barrier and round_.end.barrier.state,
        "distinct_answers": len({one.output_sha256 for one in requests if one.status == "ok"}),
        **answers(requests, cold),
    }


KINDS = ("hit", "part", "own", "computed", "unknown")


def lines_of(folder: Path) -> list[dict[str, Any]]:
    """All phases of one fault."""
    told = json.loads((folder / "fault.json").read_text(encoding="utf-8"))
    rounds = {name: rounds_in(folder / f"{name}.jsonl") for name in FILES}
    arms = {one.run.arm: one for one in rounds["hit"]}
    cold, hit = arms["cold"], arms["hit"]
    at = told["answered"]
    phases = [
        ("control", arms["no_reuse"], arms["no_reuse"].own, None, cold.own),
        ("cold", cold, cold.own, None, []),
        ("hit", hit, hit.own[:at], at, cold.own),
        ("struck", hit, hit.own[at:], hit.run.requests - at, cold.own),
        *((name, rounds[name][0], rounds[name][0].own, None, cold.own) for name in FILES[1:3]),
    ]
    anew = {one.run.arm: one for one in rounds["anew"]}
    phases.append(("anew", anew["hit"], anew["hit"].own, None, anew["cold"].own))
    found = findings_of(folder / "stats.jsonl")
    lines = []
    for phase, round_, own, planned, base in phases:
        planned = round_.run.requests if planned is None else planned
        one = line(phase, round_, own, planned, base)
        one["findings"] = found.get(round_.run.run_id, [])
        one["simulated"] = round_.run.simulated
        lines.append({"fault": told["fault"], **one})
    control = lines[0]["computed_ttft_s"]
    for one in lines:
        own = one["computed_ttft_s"]
        one["computed_to_control"] = own / control if own and control else None
    [struck] = [one for one in lines if one["phase"] == "struck"]
    struck["first_answer_s"] = first_answer_s(hit, at, told["done_ns"])
    struck |= {key: told[key] for key in ("what", "repair", "dead_after", "started_again")}
    return lines


def first_answer_s(hit: Round, at: int, done_ns: int) -> float | None:
    """From the fault to the first token of the first request that was answered after it."""
    began_ns = datetime.fromisoformat(hit.run.started_at).timestamp() * 1e9
    first = [one.first_token_ns for one in hit.own[at:] if one.status == "ok"]
    stamps = [stamp for stamp in first if stamp is not None]
    return max(0.0, (began_ns + min(stamps) - done_ns) / 1e9) if stamps else None


def findings_of(path: Path) -> dict[str, list[str]]:
    """What kvstats said of each round that is graver than a remark: `code severity`."""
    found: dict[str, list[str]] = {}
    with open_lines(str(path)) as (name, stream):
        for stats in read_records(stream, name):
            assert isinstance(stats, RoundStats)
            run = stats.run[0] if isinstance(stats.run, list) else stats.run
            found[run.run_id] = [
                f"{one.code} {one.severity}" for one in stats.findings if one.severity != "info"
            ]
    return found


HEAD = (
    "fault", "phase", "requests", "hit", "part", "computed", "failed", "lost", "first hit",
    "longest wait", "computed / control", "other answers", "findings",
)  # fmt: skip


def markdown(lines: Sequence[dict[str, Any]]) -> str:
    """The table, and under it what was done."""
    rows = [HEAD, ("---",) * len(HEAD)]
    rows += [row(one) for one in lines if one["phase"] in SHOWN]
    text = "".join(f"| {' | '.join(cells)} |\n" for cells in rows)
    text += "".join(
        f"\n- `{one['fault']}`: {one['what']}; then {one['repair']}. {after(one)}"
        for one in lines
        if one["phase"] == "struck"
    )
    simulated = "SIMULATED: kvsim answered, not an engine.\n\n" if lines[0]["simulated"] else ""
    return f"{simulated}{text}\n"


def row(one: dict[str, Any]) -> tuple[str, ...]:
    """One phase as it is shown; the table's `own` and `unknown` are said where there are any."""
    statuses = ", ".join(f"{count} {name}" for name, count in one["statuses"].items())
    first = "-" if one["first_hit"] is None else str(one["first_hit"])
    ratio = one["computed_to_control"]
    other = f"{one['other']} of {one['compared']}"
    if one["other"]:
        other += f", {one['wrong']} wrong"
    odd = [f"{one[kind]} {kind}" for kind in ("own", "unknown") if one[kind]]
    wait = one["longest_wait_s"]
    return (
        f"`{one['fault']}`", one["phase"], ", ".join([str(one["requests"]), *odd]),
        str(one["hit"]), str(one["part"]), str(one["computed"]), statuses or "0",
        str(one["lost"]), first, "-" if wait is None else f"{wait:.1f} s",
        "-" if ratio is None else f"{ratio:.1f}", other if one["compared"] else "-",
        "as struck" if one["phase"] == "hit" else ", ".join(one["findings"]) or "-",
    )  # fmt: skip


def after(one: dict[str, Any]) -> str:
    """The moments after the fault, in a sentence or two."""
    first = one["first_answer_s"]
    said = (
        "No request was answered after it"
        if first is None
        else f"First answer {first:.1f} s after it"
    )
    said += f"; dead at the round's end: {', '.join(one['dead_after']) or 'nothing'}"
    said += f"; started again: {', '.join(one['started_again']) or 'nothing'}."
    if one["errors"]:
        said += f" Errors: {'; '.join(one['errors'])}."
    return said


def write_tables(out: Path, faults: Sequence[str]) -> str:
    """Write both files for these faults, in order; returns the table."""
    lines = [one for fault in faults for one in lines_of(out / fault)]
    text = "".join(json.dumps(one) + "\n" for one in lines)
    (out / "drill.jsonl").write_text(text, encoding="utf-8")
    table = markdown(lines)
    (out / "drill.md").write_text(table, encoding="utf-8")
    return table


def main(arguments: list[str]) -> int:
    if len(arguments) != 1 or arguments[0].startswith("-"):
        print(__doc__, file=sys.stderr)
        return 2
    out = Path(arguments[0])
    faults = sorted(path.parent.name for path in out.glob("*/fault.json"))
    print(write_tables(out, faults), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
