"""`--to vllm-bench`: the file that vLLM writes today, from our records and from its own."""

from __future__ import annotations

import json
import subprocess
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.family import environment
from tests.kvstats.peers import VLLM, read, stats_of
from tests.kvstats.streams import GAP_MS, HIT_MS, MISS_MS, OUTPUT, cold, failed, hit, shards

from kvpipe.process import UsageError
from kvpipe.records import Request
from kvstats.exports.vllm_bench import Export, row_of

Capture = pytest.CaptureFixture[bytes]
NOT_KNOWN = ("max_output_tokens_per_s", "max_concurrent_requests", "rtfx")
MOVED = ("start_times", "request_goodput", *NOT_KNOWN)


def close(one: Any, other: Any) -> bool:
    """Equal within a nanosecond, or a millionth of a figure."""
    if isinstance(one, list):
        return isinstance(other, list) and len(one) == len(other) and all(map(close, one, other))
    if isinstance(one, float) and isinstance(other, int | float):
        return bool(np.isclose(one, other, rtol=1e-6, atol=2e-9))
    return bool(one == other)


@pytest.mark.parametrize("name", ["cold", "hit", "rate", "errors"])
def test_their_file_comes_back(name: str, capsysbinary: Capture) -> None:
    """What both know is kept: every key, every row, every figure."""
    path = VLLM / f"{name}.json"
    theirs = read(path)
    (ours,) = stats_of(capsysbinary, "--from", "vllm-bench", "--to", "vllm-bench", path)
    if name == "errors":  # of a failed request vLLM keeps its own count of the prompt
        theirs["input_lens"] = [
            None if error else length
            for length, error in zip(theirs["input_lens"], theirs["errors"], strict=True)
        ]
    assert set(theirs) <= set(ours)
    named = [key for key in theirs if key not in ("name", "round")]
    assert named == [key for key in ours if key in named]
    differing = [key for key in theirs if key not in MOVED and not close(theirs[key], ours[key])]
    assert differing == []
    assert [ours[key] for key in NOT_KNOWN] == [None] * 3
    since = np.diff(theirs["start_times"])
    assert np.diff(ours["start_times"]) == pytest.approx(since, abs=1e-8)


def test_there_and_back_gives_the_same_stats(tmp_path: Path, capsysbinary: Capture) -> None:
    first = stats_of(capsysbinary, "--from", "vllm-bench", VLLM / "rate.json")
    kept = tmp_path / "again.json"
    kept.write_text(
        json.dumps(
            stats_of(
                capsysbinary, "--from", "vllm-bench", "--to", "vllm-bench", VLLM / "rate.json"
            )[0]
        )
    )
    again = stats_of(capsysbinary, "--from", "vllm-bench", kept)
    for one in (*first, *again):
        del one["run"]
    assert close([first[0]["timings"]["ttft_s"]["p90"]], [again[0]["timings"]["ttft_s"]["p90"]])
    assert first[0]["samples"]["output_sha256"] == again[0]["samples"]["output_sha256"]
    assert (first[0]["name"], first[0]["round_num"]) == (again[0]["name"], again[0]["round_num"])


def test_our_rounds_in_their_words(tmp_path: Path, capsysbinary: Capture) -> None:
    """The keys of their own file, figures from the rows, and sentinels apart."""
    path = tmp_path / "run.jsonl"
    path.write_bytes(cold().lines() + hit().lines())
    ours = stats_of(capsysbinary, "--to", "vllm-bench", path)
    stats = stats_of(capsysbinary, path)
    theirs = read(VLLM / "cold.json")
    for one, known in zip(ours, stats, strict=True):
        assert set(theirs) <= set(one)
        assert one["completed"] == known["successful_requests"] == len(one["ttfts"])
        assert one["mean_ttft_ms"] == pytest.approx(known["avg_ttft"] * 1e3)
        assert one["p99_ttft_ms"] == pytest.approx(np.percentile(one["ttfts"], 99) * 1e3)
        assert one["std_ttft_ms"] == pytest.approx(np.std(one["ttfts"]) * 1e3)
        gaps = [gap for row in one["itls"] for gap in row]
        assert one["mean_itl_ms"] == pytest.approx(np.mean(gaps) * 1e3) == pytest.approx(GAP_MS)
        assert one["std_itl_ms"] == pytest.approx(np.std(gaps) * 1e3, abs=1e-6)
        assert one["mean_tpot_ms"] == pytest.approx(GAP_MS)
        assert one["total_output_tokens"] == OUTPUT * one["completed"]
        assert one["endpoint_type"] == "openai-chat"
        assert (one["request_rate"], one["burstiness"]) == ("inf", 1.0)
        datetime.strptime(one["date"], "%Y%m%d-%H%M%S")
    assert [one["round"] for one in ours] == ["1", "2"]
    assert ours[0]["ttfts"][0] == pytest.approx(MISS_MS / 1e3)
    assert min(ours[1]["ttfts"]) == pytest.approx(HIT_MS / 1e3)


def test_failures_are_zero_as_they_write_them(tmp_path: Path, capsysbinary: Capture) -> None:
    path = tmp_path / "run.jsonl"
    path.write_bytes(cold(groups=1, followers=1, uniques=1, sentinels=1).map(failed).lines())
    (one,) = stats_of(capsysbinary, "--to", "vllm-bench", path)
    assert (one["completed"], one["failed"]) == (0, 3)
    assert one["ttfts"] == one["latencies"] == [0.0] * 3
    assert all(one["errors"]) and one["mean_ttft_ms"] is None


def test_shards_are_one_run(tmp_path: Path, capsysbinary: Capture) -> None:
    path = tmp_path / "run.jsonl"
    parts = shards(cold(), 2)
    path.write_bytes(b"".join(one.lines() for one in parts))
    (one,) = stats_of(capsysbinary, "--to", "vllm-bench", path)
    (known,) = stats_of(capsysbinary, path)
    assert one["completed"] == known["successful_requests"] == len(one["ttfts"])


def test_a_long_round_has_figures_without_rows(capfd: pytest.CaptureFixture[str]) -> None:
    """Memory is bounded: beyond the limit the rows are left out, and that is said."""
    made = cold(followers=0)
    export = Export(detailed=2)
    for one in made.requests:
        export.add(one)
    line = json.loads(export.write(made.stats()))
    assert "ttfts" not in line and "itls" not in line
    assert line["mean_ttft_ms"] == pytest.approx(MISS_MS)
    assert "without a row a request" in capfd.readouterr().err


def test_an_opening_chunk_ends_their_ttft_and_not_ours() -> None:
    made = cold().requests[0]
    assert isinstance(made, Request) and made.first_token_ns and made.sent_ns is not None
    from msgspec import structs

    early = structs.replace(made, first_chunk_ns=made.first_token_ns - 5_000_000)
    assert row_of(early).ttft == pytest.approx((MISS_MS - 5) / 1e3)
    assert row_of(early).itl[0] == pytest.approx(0.005)
    assert len(row_of(early).itl) == OUTPUT and len(row_of(made).itl) == OUTPUT - 1


def test_other_forms_do_not_go_with_it(capsysbinary: Capture) -> None:
    for flags in (["--format", "table"], ["--per-request"]):
        with pytest.raises(UsageError, match="--to vllm-bench"):
            stats_of(capsysbinary, "--to", "vllm-bench", *flags, VLLM / "cold.json")


def test_through_the_pipe(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    path.write_bytes(cold().lines())
    done = subprocess.run(
        ["kvstats", "--to", "vllm-bench", path],
        capture_output=True,
        env=environment(),
        check=True,
    )
    assert json.loads(done.stdout)["completed"] > 0 and not done.stderr
