"""The server's own log against the files: whose answer was whole must be found there.

kvsim writes a line for each request as its answer ends, on the clock that the test reads too. It
is no part of what is killed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.chaos.killing import Kill

PLANNED = re.compile(r"[0-9a-f]{16}-\d+")
"""Ids of what a plan asks for; warm-ups, probes and canaries have others, or none."""
SECOND_NS = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """`lost`: answered more than a second before the kill, and in no file.

    `at_risk`: under way at a kill, or answered in the second before it.
    """

    answered: int
    recorded: int
    at_risk: int
    lost: list[str]
    half_lines: int


def answers(truth: Path) -> dict[str, tuple[int, int]]:
    """When the server had read each planned request, and had finished its whole answer."""
    found = {}
    for row in whole_lines(truth):
        if row["complete"] and row["status"] == 200 and PLANNED.fullmatch(row["request_id"] or ""):
            found[row["request_id"]] = (row["read_ns"], row["end_ns"])
    return found


def whole_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Every line that was ended; each of them must be JSON. What has no end is a half line."""
    *lines, _ = path.read_bytes().split(b"\n")
    for line in lines:
        yield json.loads(line)


def half_line(path: Path) -> bool:
    """Whether the file stops within a line."""
    data = path.read_bytes()
    return bool(data) and not data.endswith(b"\n")


def compare(truth: Path, records: Iterable[Path], kills: Sequence[Kill]) -> Found:
    """What the files have of what the server answered."""
    ended = answers(truth)
    files = list(records)
    recorded = {
        row["request_id"]
        for path in files
        for row in whole_lines(path)
        if row["record"] == "request" and row["status"] == "ok"
    }
    at_risk = {
        name
        for name, (read_ns, end_ns) in ended.items()
        if any(
            read_ns < (kill.gone_ns or kill.at_ns) and kill.at_ns <= end_ns + SECOND_NS
            for kill in kills
        )
    }
    return Found(
        answered=len(ended),
        recorded=len(recorded & set(ended)),
        at_risk=len(at_risk),
        lost=sorted(set(ended) - recorded - at_risk),
        half_lines=sum(map(half_line, files)),
    )
