"""`kvplan --analyze`, as people type it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.conftest import Done
from tests.family import ROOT

from kvpipe.jsonl import decode_line
from kvpipe.records import Analysis

Shell = Callable[..., Done]
TRACE = ROOT / "tests/data/traces/conversation_trace.jsonl.gz"


def analysis(done: Done) -> Analysis:
    """The one record on stdout, which nothing else stands beside."""
    assert (done.status, done.err) == (0, "")
    (line,) = done.out.splitlines()
    found = decode_line(line.encode(), "stdout")
    assert isinstance(found, Analysis)
    return found


def test_a_trace_is_one_record(sh: Shell) -> None:
    found = analysis(sh(f"kvplan --trace {TRACE} --limit 2000 --analyze --block-sizes 512"))
    assert (found.scenario, found.requests, found.plan_sha256) == ("trace", 2000, None)
    assert found.given_block_tokens == 512 and found.sizes[0].cut == "given"


def test_what_the_replay_changes_the_analysis_changes_too(sh: Shell) -> None:
    """A window, a scale and a speed: as many blocks, of a quarter, in half the time."""
    own = analysis(sh(f"kvplan --trace {TRACE} --limit 300 --analyze --block-sizes 512"))
    scaled = analysis(
        sh(f"kvplan --trace {TRACE} --limit 300 --scale 1/4 --speedup 2 --analyze --block-sizes 16")
    )
    assert (scaled.blocks, scaled.unique_blocks) == (own.blocks, own.unique_blocks)
    assert scaled.block_hit_ratio == own.block_hit_ratio
    assert scaled.given_block_tokens == 128
    assert (scaled.note or "").startswith("its first 300 requests; blocks of 512 tokens became 128")
    assert scaled.span_s == pytest.approx((own.span_s or 0) / 2)
    assert scaled.prompt_tokens == pytest.approx(own.prompt_tokens / 4, rel=0.01)


def test_an_analysis_is_of_the_plan_that_would_be_written(sh: Shell) -> None:
    """The plan's own `new_tokens` add up to the distinct prefixes."""
    flags = "--scenario code_generation --contexts 3 --requests 20 -q"
    head, *planned = map(json.loads, sh(f"kvplan {flags}").out.splitlines())
    found = analysis(sh(f"kvplan {flags} --analyze --block-sizes 16,256"))
    assert (found.scenario, found.plan_sha256) == ("code_generation", head["plan_sha256"])
    assert (found.requests, found.sentinels) == (20, 3)
    assert found.working_set_tokens == sum(one["new_tokens"] for one in planned)
    own = [one for one in planned if one["stratum"] != "sentinel"]
    assert found.prompt_tokens == sum(one["prompt_tokens"] for one in own)
    shared = 16 * 0.8 - 3  # of 20, 80 % share a context and three of those lead
    assert 0 < shared / 20 - 0.1 < (found.block_hit_ratio or 0) < 0.8


def test_a_page_for_people_and_a_chart(sh: Shell, tmp_path: Path) -> None:
    chart = tmp_path / "curve.png"
    kv = "--kv llama-3.1-8b/fp8 --capacity 8GiB,100000"
    done = sh(
        f"kvplan --trace {TRACE} --limit 500 --analyze {kv} --format table --chart {chart} "
        "--eviction head-first"
    )
    assert done.status == 0
    for words in ("Hit ratio of an LRU cache, head-first", "8GiB", "100000 tokens", "65,536 bytes"):
        assert words in done.out
    assert chart.read_bytes().startswith(b"\x89PNG")


def test_a_window_without_requests_is_none(sh: Shell) -> None:
    done = sh(f"kvplan --trace {TRACE} --window 90000-90001 --analyze")
    assert (done.status, done.out) == (2, "")
    assert "no request is left to analyse; see --window and --limit" in done.err


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--kv qwen3-8b", "--kv: only with --analyze"),
        ("--analyze --capacity 1GiB", "how many bytes is a token?"),
        ("--analyze --kv gpt-2", "no model known by this name"),
        ("--analyze --kv qwen3-8b --kv-bytes-per-token 9", "one of them"),
        ("--analyze --block-sizes 16,x", "--block-sizes 'x': a whole number of 1 or more"),
        ("--analyze --chart /nowhere/x.png", "--chart /nowhere/x.png: No such file"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(sh: Shell, flags: str, said: str) -> None:
    done = sh(f"kvplan --scenario cold_start --requests 3 -q {flags}")
    assert done.status == 2 and done.out == ""
    (line,) = done.err.splitlines()
    assert said in line
