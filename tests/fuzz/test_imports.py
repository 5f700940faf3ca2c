"""Files of other people's tools, and traces: damaged ones are refused in one line."""

from __future__ import annotations

import gzip
import json
from itertools import islice
from pathlib import Path

from hypothesis import strategies as st
from tests.fuzz.fuzzing import fuzzed
from tests.fuzz.inprocess import files, refused, run, sound
from tests.fuzz.mutation import broken, broken_lines, broken_object

from kvplan.cli import run as kvplan
from kvstats.cli import run as kvstats

DATA = Path(__file__).parents[1] / "data"
BENCH = [path.read_bytes() for path in sorted((DATA / "peers/vllm-bench").glob("*.json"))]
BENCH_VALUES = [json.loads(data.splitlines()[0]) for data in BENCH]
AIPERF = [
    b"".join(path.read_bytes().splitlines(keepends=True)[:6])
    for path in sorted((DATA / "peers/aiperf").glob("*/profile_export.jsonl"))
]
AIPERF_SUMMARY = [
    json.loads(path.read_bytes())
    for path in sorted((DATA / "peers/aiperf").glob("*/profile_export_aiperf.json"))
]
with gzip.open(DATA / "traces" / "conversation_trace.jsonl.gz") as packed:
    MOONCAKE = b"".join(
        line for line in islice(packed, 300) if json.loads(line)["input_length"] < 3000
    )
TRACES = [
    MOONCAKE[: MOONCAKE.index(b"\n", 1500) + 1],
    b"".join(
        json.dumps(
            {
                "chat_id": at, "parent_chat_id": at - 1 if at % 3 else -1, "timestamp": at * 0.7,
                "input_length": 40, "output_length": 3, "type": "text", "turn": 1 + at % 3,
                "hash_ids": [1, at % 3, at],
            }
        ).encode() + b"\n"
        for at in range(6)
    ),
    (DATA.parent / "cases/kvplan/a-trace-says-what-was-altered/in.jsonl").read_bytes(),
]  # fmt: skip


@fuzzed(broken_object(BENCH_VALUES) | broken(st.sampled_from(BENCH)), examples=60)
def test_any_vllm_bench(data: bytes) -> None:
    """kvstats --from vllm-bench: results with values and bytes changed"""
    with files(bench_json=data) as (path,):
        sound(run("kvstats", kvstats, "--from", "vllm-bench", path), path)


@fuzzed(
    st.tuples(
        broken_lines(AIPERF) | broken(st.sampled_from(AIPERF)), broken_object(AIPERF_SUMMARY)
    ),
    examples=50,
)
def test_any_aiperf(case: tuple[bytes, bytes]) -> None:
    """kvstats --from aiperf: profiles and the summary beside them"""
    profile, summary = case
    with files(profile__export_jsonl=profile, profile__export__aiperf_json=summary) as paths:
        sound(run("kvstats", kvstats, "--from", "aiperf", paths[0]), str(Path(paths[0]).parent))


@fuzzed(broken_lines(TRACES) | broken(st.sampled_from(TRACES)), examples=50)
def test_any_trace(data: bytes) -> None:
    """kvplan --trace: Mooncake's and Qwen's forms, to a plan"""
    with files(trace_jsonl=data) as (path,):
        sound(run("kvplan", kvplan, "--trace", path, "-q", "--limit", "3"), path)


@fuzzed(broken_lines(TRACES), examples=20)
def test_any_trace_analysed(data: bytes) -> None:
    """kvplan --trace --analyze: what a cache would be worth, and at which size"""
    with files(trace_jsonl=data) as (path,):
        ended = run("kvplan", kvplan, "--trace", path, "--analyze", "-q")
        if ended.status == 2:
            refused(ended, path)


def test_the_seeds_are_taken() -> None:
    for trace in TRACES:
        with files(trace_jsonl=trace) as (path,):
            assert run("kvplan", kvplan, "--trace", path, "-q", "--limit", "3").status == 0
    assert len(BENCH) > 3 and len(AIPERF) > 2
