"""Client and server must see the same difference: what `bench.histogram` makes of records."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from bench import histogram

EXAMPLE = Path(__file__).parents[2] / "schemas/examples/valid/stream.jsonl"


def stream(folder: Path, *, hit_gap_s: float, counted: int = 4) -> Path:
    """Four requests a round: 100 ms cold and 20 ms as hits; the server sees 3 ms less when cold,
    and `hit_gap_s` less in the hit round."""
    kinds: dict[str, dict[str, Any]] = {}
    for line in EXAMPLE.read_text("utf-8").splitlines():
        record = json.loads(line)
        kinds.setdefault(record["record"], record)
    lines: list[dict[str, Any]] = []
    for number, (arm, ttft, gap) in enumerate((("cold", 0.1, 0.003), ("hit", 0.02, hit_gap_s)), 1):
        own = {"run_id": f"r{number}"}
        lines.append({**kinds["run"], **own, "arm": arm, "round_num": number})
        for index in range(4):
            first = round(ttft * 1e9)
            times = {"sent_ns": 0, "first_token_ns": first, "status": "ok", "index": index}
            lines.append({**kinds["request"], **own, **times})
        told = {"ttft_count": float(counted), "ttft_sum_s": counted * (ttft - gap)}
        lines.append({**kinds["server_metrics"], **own, "counters": told})
    path = folder / "run.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


@pytest.mark.parametrize(("hit_gap_s", "status"), [(0.003, 0), (0.006, 0), (0.008, 1)])
def test_the_change_of_the_difference_is_held_against_the_effect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hit_gap_s: float, status: int
) -> None:
    path = stream(tmp_path, hit_gap_s=hit_gap_s)
    (change,) = histogram.changes(histogram.means(path))
    assert change.effect_s == pytest.approx(0.08)
    assert change.share == pytest.approx(abs(hit_gap_s - 0.003) / 0.08)
    monkeypatch.setattr(sys, "argv", ["histogram", str(path)])
    assert histogram.main() == status


def test_a_server_that_counted_others_too_tells_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = stream(tmp_path, hit_gap_s=0.003, counted=5)
    assert [*histogram.changes(histogram.means(path))] == []
    monkeypatch.setattr(sys, "argv", ["histogram", str(path)])
    assert histogram.main() == 2
