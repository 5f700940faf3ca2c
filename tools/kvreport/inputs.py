"""Reads round stats from files or stdin: one object, a list, or lines; new or old."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from kvpipe.jsonl import decode_line, explain, open_lines
from kvpipe.process import ToolError
from kvpipe.records import RequestStats, RoundStats
from kvreport import oldstats
from kvreport.rounds import Round

LABELLED = re.compile(r"(?P<label>[^=]+)=(?P<file>.+)", re.DOTALL)


def read_rounds(arguments: Sequence[str]) -> list[Round]:
    """The rounds of every `[LABEL=]FILE`, stdin if there is none; a round read twice counts once.

    Raises ToolError at the first thing that is no round stats, with file, line and key.
    """
    rounds: list[Round] = []
    seen: set[str] = set()
    for argument in arguments or ["-"]:
        label, path = split_label(argument)
        for found in labelled(read_file(path), label):
            run = found.stats.run
            ids = [run] if not isinstance(run, list) else run
            identity = "\0".join([found.name, *(one.run_id for one in ids)])
            if ids and identity in seen:
                continue
            seen.add(identity)
            rounds.append(found)
    return rounds


def split_label(argument: str) -> tuple[str | None, str]:
    """`LABEL=FILE` in two; a file that exists under the whole name has no label."""
    match = LABELLED.fullmatch(argument)
    if match is None or Path(argument).exists():
        return None, argument
    return match["label"], match["file"]


def labelled(rounds: list[Round], label: str | None) -> list[Round]:
    """The rounds under a label; where a file holds several names they stay apart behind it."""
    if label is None:
        return rounds
    several = len({one.stats.name for one in rounds}) > 1
    return [
        replace(one, label=f"{label}: {one.stats.name}" if several else label) for one in rounds
    ]


def read_file(path: str) -> list[Round]:
    """Every round of one file; ToolError with the place of what is none."""
    with open_lines(path) as (name, stream):
        data = stream.read()
    read = ((place, _round_stats(piece, place)) for place, piece in _pieces(data, name))
    return [Round(stats=stats, place=place) for place, stats in read if stats is not None]


def _pieces(data: bytes, name: str) -> Iterator[tuple[str, bytes]]:
    """The JSON objects of a file with their places, whichever of the three forms it has."""
    try:
        whole = msgspec.json.decode(data, type=msgspec.Raw)
    except msgspec.DecodeError:
        for number, line in enumerate(data.splitlines(), 1):
            if line.strip():
                yield f"{name}:{number}", line
        return
    if not bytes(whole).lstrip().startswith(b"["):
        yield f"{name}:1", data
        return
    for number, element in enumerate(msgspec.json.decode(data, type=list[msgspec.Raw]), 1):
        yield f"{name}: element {number}", bytes(element)


def _round_stats(piece: bytes, place: str) -> RoundStats | None:
    """The round; None for a request's line, which `kvstats --per-request` writes before it."""
    try:
        value: Any = msgspec.json.decode(piece)
    except msgspec.DecodeError as error:
        raise ToolError(f"{place}: {explain(piece, str(error))}") from error
    if not isinstance(value, dict):
        raise ToolError(f"{place}: not round stats: a JSON object is expected (is it kvstats'?)")
    if "record" not in value:
        return oldstats.round_stats(value, place)
    record = decode_line(piece, place)
    if isinstance(record, RequestStats):
        return None
    if not isinstance(record, RoundStats):
        raise ToolError(
            f"{place}: a `{value['record']}` record, but kvreport reads round stats; "
            "pipe it through kvstats first"
        )
    _check_columns(record, place)
    return record


def _check_columns(record: RoundStats, place: str) -> None:
    """Samples are columns of one table: a short one would pair requests with strangers."""
    samples = record.samples
    if samples is None:
        return
    rows = len(samples.index)
    for name in samples.__struct_fields__:
        column = getattr(samples, name)
        if isinstance(column, list) and len(column) != rows:
            raise ToolError(
                f"{place}: round_stats: 'samples.{name}' has {len(column)} rows, but "
                f"'samples.index' has {rows}"
            )
