"""Small workloads in the form that other people's tools write."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any


def words(seed: str, count: int) -> str:
    chance = random.Random(seed)
    return " ".join(
        "".join(chance.choices("abcdefghijklmnopqrstuvwxyz", k=chance.randint(3, 8)))
        for _ in range(count)
    )


def lines(groups: int, each: int, context: int = 300, max_tokens: int = 8) -> list[dict[str, Any]]:
    """`groups` contexts with `each` questions, leaders first within a group."""
    return [
        {
            "messages": [
                {"role": "system", "content": words(f"context {group}", context)},
                {"role": "user", "content": words(f"question {group} {turn}", 12)},
            ],
            "max_tokens": max_tokens,
            "group": f"g{group}",
        }
        for group in range(groups)
        for turn in range(each)
    ]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
