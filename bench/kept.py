"""What a bench leaves behind: JSON of every run, and a page that can be kept as it is."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.conditions import conditions_table

RUNS = Path(__file__).with_name("runs")


def folder_of(label: str) -> Path:
    """`runs/DATE-LABEL`, made if it is not there."""
    name = re.sub(r"[^a-z0-9]+", "-", label.lower()).strip("-") or "run"
    folder = RUNS / f"{datetime.now(UTC):%Y-%m-%d}-{name}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def keep(folder: Path, name: str, found: dict[str, Any], page: Sequence[str]) -> None:
    """`name.json` with everything, `name.md` for people."""
    text = json.dumps(found, indent=1, ensure_ascii=False) + "\n"
    (folder / f"{name}.json").write_text(text, encoding="utf-8")
    lines = [*page, "", conditions_table(found["conditions"]), ""]
    (folder / f"{name}.md").write_text("\n".join(lines), encoding="utf-8")


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table; its columns stand under one another in a terminal too."""
    widths = [max(len(row[at]) for row in (head, *rows)) for at in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        padded = [cell.ljust(width) for cell, width in zip(cells, widths, strict=True)]
        return "| " + " | ".join(padded) + " |"

    return [line(head), line(["-" * width for width in widths]), *map(line, rows)]
