"""The page of kvstats on long streams: no figure without agreement, ratios within a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from bench.stats import ONE, Disagreement, agree, compare, goals, page, plot, stream_of

from kvpipe.jsonl import decode_line
from kvpipe.records import End, Request, Run


def row(tool: str, **over: Any) -> dict[str, Any]:
    facts = {
        "requests": 1_000_000, "bytes": 1_500_000_000, "tool": tool, "runs": 3, "wall_s": 4.0,
        "cpu_s": 9.0, "peak_mb": 190.0, "wall_by_jq": 0.2, "cpu_by_jq": 0.45, "load_average": 1.0,
    }  # fmt: skip
    return facts | over


def test_a_million_requests_have_goals() -> None:
    met = goals([row("kvstats"), row("jq", wall_by_jq=1.0), row(ONE)])
    assert len(met) == 2 + 5
    assert all(line.rstrip("| ").endswith("yes") for line in met[2:])
    missed = goals([row("kvstats", wall_s=30.0), row("jq", wall_by_jq=1.0), row(ONE)])
    assert "no, 2 times as much" in missed[2]
    assert "no" not in missed[3].split("|")[-2]
    assert len(goals([row("kvstats", wall_by_jq=None, cpu_by_jq=None)])) == 2 + 2
    assert goals([row("kvstats", requests=1_000)]) == [
        "No goal is for fewer than a million requests."
    ]


def test_the_page_names_what_was_not_compared(tmp_path: Path) -> None:
    lines = page([row("kvstats"), row("jq")], ["duckdb"])
    assert any("duckdb is not installed" in line for line in lines)
    assert any("stats.png" in line for line in lines)
    plot([row("kvstats"), row("kvstats", requests=1_000)], tmp_path / "stats.png")
    assert (tmp_path / "stats.png").read_bytes().startswith(b"\x89PNG")


def test_figures_that_differ_make_no_page() -> None:
    agree(1_000, "jq", {"mean": 0.1}, {"mean": 0.1 + 1e-12})
    agree(1_000, "duckdb", {"mean": 0.1}, {"mean": 0.1, "p99": 0.5})  # ours is null: too few
    agree(1_000_000, "duckdb", {"mean": 0.1, "p50": 0.1}, {"mean": 0.1, "p50": 0.1001})
    with pytest.raises(Disagreement, match="mean of TTFT"):
        agree(1_000_000, "jq", {"mean": 0.1}, {"mean": 0.1001})
    with pytest.raises(Disagreement, match="p50 of TTFT"):
        agree(1_000, "duckdb", {"mean": 0.1, "p50": 0.1}, {"mean": 0.1, "p50": 0.1001})


def test_streams_are_kvloads_records_and_the_same_again() -> None:
    lines = list(stream_of(20))
    kinds = [type(decode_line(line, "made")) for line in lines]
    assert kinds == [Run, *[Request] * 20, End]
    assert lines == list(stream_of(20))


def test_a_stream_that_was_there_is_used_and_stays(tmp_path: Path) -> None:
    path = tmp_path / "300.jsonl"
    path.write_bytes(b"".join(stream_of(300)))
    (found,) = compare(300, 1, ["kvstats"], tmp_path)
    assert found["bytes"] == path.stat().st_size
    assert found["wall_by_jq"] is None
    assert msgspec.json.decode(msgspec.json.encode(found))["walls_s"] == [found["wall_s"]]
