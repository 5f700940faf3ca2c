"""Whoever reads records: damaged streams give figures or one line that names file and line."""

from __future__ import annotations

import gzip
import itertools
import json
from pathlib import Path

import msgspec
from hypothesis import strategies as st
from tests.family import ROOT
from tests.fuzz.fuzzing import fuzzed
from tests.fuzz.inprocess import Ended, files, refused, run, sound
from tests.fuzz.mutation import broken, broken_lines, broken_object
from tests.kvstats.streams import cold, hit

from kvpipe.jsonl import encode
from kvreport.cli import run as kvreport
from kvreport.inputs import read_file
from kvstats.cli import run as kvstats

EXAMPLES = ROOT / "schemas" / "examples" / "valid"
STREAM = b"".join(map(encode, itertools.chain(cold().records(), hit().records())))
STREAMS = [
    STREAM,
    (EXAMPLES / "stream.jsonl").read_bytes(),
    b"".join(encode(one) for one in list(hit().records())[:4]),
]
STATS = [
    (EXAMPLES / "round_stats.jsonl").read_bytes(),
    *(path.read_bytes() for path in sorted(EXAMPLES.glob("capacity*.json"))),
    (EXAMPLES / "outcome.json").read_bytes(),
    (EXAMPLES / "analysis.json").read_bytes(),
    (ROOT / "tests/cases/kvreport/old-stats-file/in.json").read_bytes(),
    gzip.compress((EXAMPLES / "round_stats.jsonl").read_bytes()),
]


def checked(ended: Ended, path: str) -> None:
    """`sound`, and a refusal says where: a line, or what the whole file lacks."""
    sound(ended, path)


@fuzzed(broken_lines(STREAMS) | broken(st.sampled_from(STREAMS)), examples=60)
def test_any_stream(data: bytes) -> None:
    """kvstats: records with values, lines and bytes changed"""
    with files(run_jsonl=data) as (path,):
        checked(run("kvstats", kvstats, path, "--slo", "ttft=1s"), path)


@fuzzed(broken_lines(STREAMS), examples=15)
def test_any_stream_in_other_forms(data: bytes) -> None:
    """kvstats: the same as a table, OpenMetrics, a line a request, and as vllm bench's file"""
    with files(run_jsonl=data) as (path,):
        for flags in (
            ["--format", "table"],
            ["--format", "openmetrics"],
            ["--per-request"],
            ["--to", "vllm-bench"],
        ):
            ended = run("kvstats", kvstats, path, *flags)
            assert ended.status in (0, 1, 2)
            if ended.status == 2:
                refused(ended)
            assert b"NaN" not in ended.out.replace(b'"NaN"', b"") or "openmetrics" in flags


@fuzzed(broken_lines(STATS[:1]) | broken_object([json.loads(STATS[-2])]), examples=25)
def test_any_stats(data: bytes) -> None:
    """kvreport: round stats with values changed, as JSON and as text"""
    with files(stats_jsonl=data) as (path,):
        for form in ("json", "text"):
            ended = run("kvreport", kvreport, path, "--format", form)
            assert ended.status in (0, 1, 2)
            if ended.status == 2:
                refused(ended)
            elif form == "json":
                msgspec.json.decode(ended.out)


@fuzzed(broken_lines(STATS[:-1]) | broken(st.sampled_from(STATS)), examples=80)
def test_any_report_input(data: bytes) -> None:
    """kvreport's reader alone: every kind of record that it takes"""
    with files(stats_jsonl=data) as (path,):

        def main(_: object) -> int:
            read_file(path)
            return 0

        ended = run("kvreport", main)
        if ended.status == 2:
            refused(ended, path)


@fuzzed(broken_lines([STREAM + STATS[0]]), examples=15)
def test_any_audit(data: bytes) -> None:
    """kvreport --audit: records and figures that need not belong together"""
    with files(run_jsonl=data) as (path,):
        ended = run("kvreport", kvreport, path, "--audit", "--format", "json")
        assert ended.status in (0, 1, 2)
        if ended.status == 2:
            refused(ended)
        else:
            msgspec.json.decode(ended.out)


def test_the_seeds_are_read() -> None:
    """Undamaged they are what the tools take: else everything above would test refusals alone."""
    with files(run_jsonl=STREAM, stats_jsonl=STATS[0]) as (stream, stats):
        assert run("kvstats", kvstats, stream).status == 0
        assert run("kvreport", kvreport, stats, "--format", "json").status == 0
    assert all(Path(path).suffix for path in EXAMPLES.iterdir())
