"""Reads round stats from files or stdin: one object, a list, or lines; new or old."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from kvpipe.jsonl import NOT_JSON, decode_line, explain, open_lines
from kvpipe.process import ToolError
from kvpipe.records import Analysis, Capacity, Outcome, RequestStats, RoundStats
from kvreport import oldstats
from kvreport.capacity import Search
from kvreport.rounds import Round

LABELLED = re.compile(r"(?P<label>[^=]+)=(?P<file>.+)", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """What was read, each kind in its order."""

    rounds: list[Round]
    searches: list[Search]
    outcomes: list[Outcome]
    """What kvmatrix says became of its scenarios."""
    analyses: list[Analysis]
    """What kvplan foretold of a workload."""


def read_inputs(arguments: Sequence[str]) -> Inputs:
    """Everything in `[LABEL=]FILE ...`, stdin if there is none; what is read twice counts once.

    Raises ToolError at the first thing that is neither round stats nor a search for a capacity nor
    a matrix' outcome nor an analysis, with file, line and key.
    """
    rounds: list[Round] = []
    searches: list[Search] = []
    outcomes: list[Outcome] = []
    analyses: list[Analysis] = []
    seen: set[str] = set()
    for argument in arguments or ["-"]:
        label, path = split_label(argument)
        read = labelled(read_file(path), label)
        searches += read.searches
        outcomes += read.outcomes
        analyses += read.analyses
        for found in read.rounds:
            run = found.stats.run
            ids = [run] if not isinstance(run, list) else run
            identity = "\0".join([found.name, *(one.run_id for one in ids)])
            if ids and identity in seen:
                continue
            seen.add(identity)
            rounds.append(found)
    return Inputs(rounds=rounds, searches=searches, outcomes=outcomes, analyses=analyses)


def split_label(argument: str) -> tuple[str | None, str]:
    """`LABEL=FILE` in two; a file that exists under the whole name has no label."""
    match = LABELLED.fullmatch(argument)
    if match is None or Path(argument).exists():
        return None, argument
    return match["label"], match["file"]


def labelled(read: Inputs, label: str | None) -> Inputs:
    """What was read under a label; where a file holds several names they stay apart behind it."""
    if label is None:
        return read
    names = {one.stats.name for one in read.rounds} | {one.record.name for one in read.searches}
    names |= {one.name for one in read.outcomes}
    several = len(names) > 1

    def under(name: str) -> str:
        return f"{label}: {name}" if several else label

    return Inputs(
        rounds=[replace(one, label=under(one.stats.name)) for one in read.rounds],
        searches=[replace(one, label=under(one.record.name)) for one in read.searches],
        outcomes=[msgspec.structs.replace(one, name=under(one.name)) for one in read.outcomes],
        analyses=read.analyses,
    )


def read_file(path: str) -> Inputs:
    """Everything in one file; ToolError with the place of what is none."""
    with open_lines(path) as (name, stream):
        data = stream.read()
    inputs = Inputs(rounds=[], searches=[], outcomes=[], analyses=[])
    for place, piece in pieces(data, name):
        match _record(piece, place):
            case RoundStats() as stats:
                inputs.rounds.append(Round(stats=stats, place=place))
            case Capacity() as record:
                inputs.searches.append(Search(record=record, place=place))
            case Outcome() as outcome:
                inputs.outcomes.append(outcome)
            case Analysis() as analysis:
                inputs.analyses.append(analysis)
    return inputs


def pieces(data: bytes, name: str) -> Iterator[tuple[str, bytes]]:
    """The JSON objects of a file with their places, whichever of the three forms it has."""
    try:
        whole = msgspec.json.decode(data, type=msgspec.Raw)
    except NOT_JSON:
        for number, line in enumerate(data.splitlines(), 1):
            if line.strip():
                yield f"{name}:{number}", line
        return
    if not bytes(whole).lstrip().startswith(b"["):
        yield f"{name}:1", data
        return
    for number, element in enumerate(msgspec.json.decode(data, type=list[msgspec.Raw]), 1):
        yield f"{name}: element {number}", bytes(element)


def _record(piece: bytes, place: str) -> RoundStats | Capacity | Outcome | Analysis | None:
    """The record; None for a request's line, which `kvstats --per-request` writes before it."""
    try:
        value: Any = msgspec.json.decode(piece)
    except NOT_JSON as error:
        raise ToolError(f"{place}: {explain(piece, str(error))}") from error
    if not isinstance(value, dict):
        raise ToolError(f"{place}: not round stats: a JSON object is expected (is it kvstats'?)")
    if "record" not in value:
        return oldstats.round_stats(value, place)
    record = decode_line(piece, place)
    if isinstance(record, RequestStats):
        return None
    if isinstance(record, (Capacity, Outcome, Analysis)):
        return record
    if not isinstance(record, RoundStats):
        raise ToolError(
            f"{place}: a `{value['record']}` record, but kvreport reads round stats; "
            "pipe it through kvstats first"
        )
    _check_columns(record, place)
    return record


def _check_columns(record: RoundStats, place: str) -> None:
    """Samples are columns of one table: a short one would pair requests with strangers.

    A column that came later may be empty: whoever wrote the file did not know it, or had nothing
    to put there.
    """
    samples = record.samples
    if samples is None:
        return
    rows = len(samples.index)
    for field in msgspec.structs.fields(samples):
        name, column = field.name, getattr(samples, field.name)
        if not isinstance(column, list) or not (column or field.required):
            continue
        if len(column) != rows:
            raise ToolError(
                f"{place}: round_stats: 'samples.{name}' has {len(column)} rows, but "
                f"'samples.index' has {rows}"
            )
