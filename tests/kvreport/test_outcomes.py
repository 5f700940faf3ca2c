"""What became of a matrix' scenarios stands in the report, with the reason and the log."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from tests.conftest import Done
from tests.family import ROOT

Shell = Callable[..., Done]
OUTCOME = json.loads((ROOT / "schemas/examples/valid/outcome.json").read_text(encoding="utf-8"))


def test_failed_and_tainted_scenarios_are_told_of_with_why_and_log(
    sh: Shell, tmp_path: Path
) -> None:
    good = OUTCOME | {"name": "good", "state": "succeeded", "tainted": [], "error": [], "log": None}
    good |= {"done": 3, "failed_repeats": []}
    path = tmp_path / "outcomes.jsonl"
    lines = [json.dumps(one, ensure_ascii=False) + "\n" for one in (good, OUTCOME)]
    path.write_text("".join(lines), encoding="utf-8")
    done = sh(f"kvreport {path} --format md")
    assert done.status == 1
    assert "of the matrix: failed" in done.err
    assert "2 scenarios in all, 1 succeeded, 1 failed, 1 tainted, 0 not run" in done.out
    (row,) = [line for line in done.out.splitlines() if line.startswith("| ") and "failed" in line]
    for words in (OUTCOME["name"], "2 of 3; failed: 3", OUTCOME["log"], "connection refused"):
        assert words in row
    assert "| good |" not in done.out
    assert "成功 1" in sh(f"kvreport {path} --format md --lang zh").out


def test_a_matrix_that_went_well_is_one_line(sh: Shell, tmp_path: Path) -> None:
    good = OUTCOME | {"state": "succeeded", "tainted": [], "error": [], "failed_repeats": []}
    path = tmp_path / "outcomes.jsonl"
    path.write_text(json.dumps(good), encoding="utf-8")
    done = sh(f"kvreport {path}")
    assert done.status == 0
    assert "1 scenarios in all, 1 succeeded, 0 failed, 0 tainted" in done.out
    assert "Why" not in done.out
