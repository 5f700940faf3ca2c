"""What lies on disk of a scenario's repeat: attempts, whole or not.

`attempt-K.part` is being made, or was left half done; one rename makes it `attempt-K`. Nothing in
the folder needs to be trusted beyond that: half a cold round never has the whole name.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from kvmatrix.matrix import Scenario
from kvpipe.jsonl import NOT_JSON

NAMED = re.compile(r"attempt-(?P<number>[1-9][0-9]*)(?P<part>\.part)?")
DESCRIBED = "scenario.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempts:
    """The attempts at one repeat of a scenario, oldest first."""

    folder: Path
    whole: tuple[int, ...]
    """Complete, and of what the matrix says today."""
    half: tuple[int, ...]
    """Begun under what the matrix says today, and not complete: failed, or interrupted."""
    next_number: int

    def path(self, number: int) -> Path:
        """Where a complete attempt lies."""
        return self.folder / f"attempt-{number}"

    def part(self, number: int) -> Path:
        """Where an attempt lies until it is complete."""
        return self.folder / f"attempt-{number}.part"


def attempts_at(out: Path, scenario: Scenario, repeat: int) -> Attempts:
    """What is there of a repeat; attempts at another experiment of the same name do not count."""
    folder = out / scenario.slug / f"repeat-{repeat}"
    whole, half, numbers = [], [], [0]
    for path in folder.iterdir() if folder.is_dir() else ():
        match = NAMED.fullmatch(path.name)
        if match is None:
            continue
        number = int(match["number"])
        numbers.append(number)
        if fingerprint_in(path) != scenario.fingerprint:
            continue
        if match["part"]:
            half.append(number)
        elif (path / "run.jsonl").is_file():
            whole.append(number)
    return Attempts(
        folder=folder,
        whole=tuple(sorted(whole)),
        half=tuple(sorted(half)),
        next_number=max(numbers) + 1,
    )


def fingerprint_in(attempt: Path) -> str | None:
    """Of which experiment an attempt is; None if it does not say, being cut short."""
    try:
        described = json.loads((attempt / DESCRIBED).read_text(encoding="utf-8"))
    except (OSError, *NOT_JSON):
        return None
    found = described.get("fingerprint") if isinstance(described, dict) else None
    return found if isinstance(found, str) else None


def experiment_in(out: Path) -> str | None:
    """The experiment that the results in a folder belong to; None if there are none yet."""
    try:
        found = (out / "experiment").read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return None
    return found if re.fullmatch(r"[0-9a-f]{12}", found) else None
