"""Everything that was published, of any kind and in any order, sorted by what belongs together."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from kvpipe.jsonl import NOT_JSON, decode_line, open_lines
from kvpipe.process import ToolError
from kvpipe.records import (
    AnyRecord,
    Calibration,
    Capacity,
    Cleared,
    End,
    Outcome,
    Plan,
    Planned,
    Request,
    RoundStats,
    Run,
    ServerMetrics,
)
from kvreport.capacity import Search
from kvreport.inputs import pieces
from kvreport.rounds import Round


@dataclass(kw_only=True)
class RawPlan:
    """A plan's head with its requests as they stand in the file."""

    head: Plan
    planned: list[Planned]
    place: str


@dataclass(kw_only=True)
class Stream:
    """One run's records. `twice` are indexes that two different records claim."""

    run: Run
    place: str
    requests: dict[int, Request] = field(default_factory=dict)
    servers: list[ServerMetrics] = field(default_factory=list)
    end: End | None = None
    twice: list[int] = field(default_factory=list)

    def plan_of(self, plans: Sequence[RawPlan]) -> RawPlan | None:
        """The plan that this run says it sent; None if it was not published."""
        wanted = self.run.plan_sha256
        return next((one for one in plans if one.head.plan_sha256 == wanted), None)


@dataclass(kw_only=True)
class Bundle:
    """What was read. `loose` are run ids that requests or ends name and no run has, `others`
    records by kind that nothing is derived from."""

    plans: list[RawPlan] = field(default_factory=list)
    streams: dict[str, Stream] = field(default_factory=dict)
    stats: list[Round] = field(default_factory=list)
    reports: list[dict[str, Any]] = field(default_factory=list)
    searches: list[Search] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)
    calibrations: list[Calibration] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)
    loose: set[str] = field(default_factory=set)
    lines: set[str] = field(default_factory=set)

    @property
    def probes(self) -> set[str]:
        """Runs that were probes of a search: of many rates, they are no rounds of an experiment."""
        return {probe.run_id for one in self.searches for probe in one.record.probes}

    @property
    def sha256(self) -> str:
        """Hash of what the records say, whatever their order, their spaces and their files."""
        digest = hashlib.sha256()
        for line in sorted(self.lines):
            digest.update(line.encode())
        return digest.hexdigest()


class _Kind(msgspec.Struct):
    record: str | None = None


def read(paths: Sequence[str]) -> Bundle:
    """Every record of every file, stdin if there is none; ToolError at what is no record."""
    bundle = Bundle()
    late: list[tuple[str, Request | ServerMetrics | End]] = []
    for path in paths or ["-"]:
        with open_lines(path) as (name, stream):
            data = stream.read()
        plan: RawPlan | None = None
        for place, piece in pieces(data, name):
            plan = _take(bundle, piece, place, plan, late)
    for _, record in late:
        _place(bundle, record)
    if not (bundle.streams or bundle.searches):
        raise ToolError("nothing to audit: no `run` record; the records of kvload are needed")
    return bundle


def _take(
    bundle: Bundle,
    piece: bytes,
    place: str,
    plan: RawPlan | None,
    late: list[tuple[str, Request | ServerMetrics | End]],
) -> RawPlan | None:
    """Sort one record in; the plan that a `planned` line behind it belongs to."""
    try:
        value: Any = msgspec.json.decode(piece)
        kind = msgspec.convert(value, _Kind).record
    except NOT_JSON:
        kind, value = None, None
    if kind == "report":
        if _note(bundle, value):
            bundle.reports.append(value)
        return plan
    record = decode_line(piece, place)
    again = not _note(bundle, value)
    if isinstance(record, Plan):
        plan = RawPlan(head=record, planned=[], place=place)
        bundle.plans.append(plan)
    elif isinstance(record, Planned):
        if plan is None:
            raise ToolError(f"{place}: planned: no `plan` record stands before it")
        plan.planned.append(record)
    elif isinstance(record, Run):
        bundle.streams.setdefault(record.run_id, Stream(run=record, place=place))
    elif isinstance(record, RoundStats) and not again:
        bundle.stats.append(Round(stats=record, place=place))
    elif isinstance(record, Request | ServerMetrics | End):
        late.append((place, record))
    elif not again:
        _beside(bundle, record, place)
    return plan


def _beside(bundle: Bundle, record: AnyRecord, place: str) -> None:
    """What belongs to no stream."""
    match record:
        case Capacity():
            bundle.searches.append(Search(record=record, place=place))
        case Outcome():
            bundle.outcomes.append(record)
        case Calibration():
            bundle.calibrations.append(record)
        case _:
            bundle.others[str(type(record).__struct_config__.tag)] += 1


def _note(bundle: Bundle, value: Any) -> bool:
    """Whether this record was not read before: a file given twice counts once."""
    line = hashlib.sha256(msgspec.json.encode(value, order="sorted")).hexdigest()
    known = line in bundle.lines
    bundle.lines.add(line)
    return not known


def _place(bundle: Bundle, record: Request | ServerMetrics | End) -> None:
    """Put a record to its run: a shard's lines need not stand behind its head."""
    stream = bundle.streams.get(record.run_id)
    if stream is None:
        bundle.loose.add(record.run_id)
    elif isinstance(record, ServerMetrics):
        if record not in stream.servers:
            stream.servers.append(record)
    elif isinstance(record, End):
        stream.end = record
    elif stream.requests.setdefault(record.index, record) != record:
        stream.twice.append(record.index)


def cleared_of(streams: Sequence[Stream]) -> Cleared | None:
    """kvclear's record that the runs carry; None if none does."""
    return next((one.run.isolation for one in streams if one.run.isolation), None)
