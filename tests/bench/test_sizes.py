"""Every size, small: that it runs, and that its counts are held against what was made."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from bench.sizes import SIZES, TRACE, hit, in_flight, lines, round_of, written_trace


@pytest.mark.parametrize("name", ["prompts", "trace", "records"])
def test_a_size_in_small(name: str, tmp_path: Path) -> None:
    steps = list(SIZES[name](tmp_path, 0.001))
    assert steps
    assert all(one.right and one.status == 0 for one in steps), steps
    assert all(one.wall_s > 0 for one in steps)


def test_a_trace_is_the_carried_one_and_then_half_known_copies(tmp_path: Path) -> None:
    with gzip.open(TRACE, "rt", encoding="utf-8") as stream:
        carried = [json.loads(line) for line in stream]
    path = tmp_path / "t.jsonl"
    again, blocks = written_trace(path, 13_000)
    rows = list(lines(path))
    assert rows[: len(carried)] == carried
    stamps = [row["timestamp"] for row in rows]
    assert stamps == sorted(stamps)
    assert blocks == sum(len(row["hash_ids"]) for row in rows)
    assert again == blocks - len({one for row in rows for one in row["hash_ids"]})
    before = {one for row in carried for one in row["hash_ids"][1:]}
    kept = [bool(before & set(row["hash_ids"])) for row in rows[len(carried) :]]
    assert 0.1 < sum(kept) / len(kept) < 0.5


def test_a_hit_is_a_tenth_of_the_wait() -> None:
    cold = [json.loads(line) for line in round_of(3, 1, "cold")]
    warm = [json.loads(line) for line in round_of(3, 1, "hit")]
    assert {one["run_id"] for one in cold} != {one["run_id"] for one in warm}
    for one, other in zip(cold[1:-1], warm[1:-1], strict=True):
        waits = [row["first_token_ns"] - row["sent_ns"] for row in (one, other)]
        assert waits[1] == pytest.approx(waits[0] / 10, rel=0.01)
        assert other["cached_tokens"] <= other["prompt_tokens"]
        assert other["headers_ns"] >= other["body_sent_ns"]
    assert hit(cold[1])["end_ns"] < cold[1]["end_ns"]


def test_requests_in_flight_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "truth.jsonl"
    rows = [(0, 10), (5, 20), (12, 30), (13, None)]
    path.write_text(
        "".join(json.dumps({"read_ns": a, "end_ns": b}) + "\n" for a, b in rows), encoding="utf-8"
    )
    assert in_flight(path) == 2
