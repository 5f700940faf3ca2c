"""Golden pipelines: what a user would type, and every byte that comes of it.

A case is a folder `tests/cases/<topic>/<name>/` with `cmd` and what is expected: `out`, `err` and
`status`; a missing file means empty, and 0. `make record` writes them anew, and `git diff` shows
what changed. A failed case leaves what it got in `out.got` and `err.got`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

CASES = Path(__file__).parent / "cases"
FOUND = sorted(path.parent for path in CASES.glob("*/*/cmd"))
RECORD = os.environ.get("KV_RECORD") == "1"


def test_there_are_cases() -> None:
    assert FOUND, f"no case under {CASES}: nothing was tested"


def test_every_folder_is_a_case() -> None:
    folders = sorted(path for path in CASES.glob("*/*") if path.is_dir() and path.name != "data")
    assert folders == FOUND


@pytest.mark.parametrize("case", FOUND, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_case(case: Path, sh: Callable[..., Any]) -> None:
    done = sh((case / "cmd").read_text(encoding="utf-8"), cwd=case)
    got = {"out": done.out, "err": done.err, "status": f"{done.status}\n" if done.status else ""}
    if RECORD:
        for name, text in got.items():
            _write(case / name, text)
    wanted = {name: _read(case / name) for name in got}
    for name in got:
        _write(case / f"{name}.got", got[name] if got[name] != wanted[name] else "")
    assert got == wanted


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


def _write(path: Path, text: str) -> None:
    """Empty is no file at all, so that a case shows only what matters to it."""
    if text:
        path.write_text(text, encoding="utf-8")
    else:
        path.unlink(missing_ok=True)
