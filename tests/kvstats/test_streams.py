"""The grammar of streams, merging of shards, and that order never matters."""

from __future__ import annotations

import gzip
import random
from io import BytesIO
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.kvstats.streams import (
    Made,
    as_json,
    cold,
    hit,
    no_reuse,
    node,
    shards,
    summarise_lines,
)

from kvpipe.process import ToolError
from kvstats.indexes import Indexes
from kvstats.streams import Rounds, read_into


def refused(*lines: bytes) -> str:
    """The one line that refuses these."""
    with pytest.raises(ToolError) as error:
        read_into(Rounds({}), BytesIO(b"".join(lines)), "in.jsonl")
    assert error.value.status == 2
    return str(error.value)


def lines_of(made: Made) -> list[bytes]:
    return made.lines().splitlines(True)


@given(st.randoms())
@settings(max_examples=30)
def test_order_of_request_lines_never_changes_the_result(order: random.Random) -> None:
    made = cold().seen_by(node(cold()))
    lines = lines_of(made)
    count = len(made.requests)
    mixed = [lines[0], *order.sample(lines[1 : count + 1], count), *lines[count + 1 :]]
    assert as_json(summarise_lines(mixed)) == as_json(summarise_lines(lines))


@given(st.randoms(), st.integers(2, 4))
@settings(max_examples=30)
def test_order_of_shards_never_changes_the_result(order: random.Random, count: int) -> None:
    parts = shards(cold(), count)
    wanted = summarise_lines(b"".join(part.lines() for part in parts).splitlines(True))
    mixed = order.sample(parts, count)
    got = summarise_lines(b"".join(part.lines() for part in mixed).splitlines(True))
    assert as_json(got) == as_json(wanted)
    assert len(got) == 1
    assert [run.shard for run in got[0].run] == [f"{n}/{count}" for n in range(count)]


def test_shards_may_be_interleaved() -> None:
    first, second = (lines_of(part) for part in shards(cold(), 2))
    mixed = [first[0], second[0]]
    for pair in zip(first[1:-1], second[1:-1], strict=False):
        mixed += pair
    mixed += [line for line in (*first[1:], *second[1:]) if line not in mixed]
    (stats,) = summarise_lines(mixed)
    assert stats.total_requests == cold().stats().total_requests


def test_merged_shards_are_the_whole_round() -> None:
    parts = shards(cold(), 3)
    (merged,) = summarise_lines(b"".join(part.lines() for part in parts).splitlines(True))
    whole = cold().stats()
    for name in ("timings", "strata", "hit_ratio", "cold_proof", "conservation", "samples"):
        assert getattr(merged, name) == getattr(whole, name), name
    assert merged.findings == []
    assert merged.complete


def test_shards_with_salts_of_their_own_are_one_round() -> None:
    parts = [part.head(salt=part.run.shard) for part in shards(cold(), 2)]
    (stats,) = summarise_lines(b"".join(part.lines() for part in parts).splitlines(True))
    assert stats.complete


def test_a_round_takes_as_long_as_its_longest_shard() -> None:
    parts = shards(cold(), 5)
    spans = [part.stats().total_time_s for part in parts]
    (merged,) = summarise_lines(b"".join(part.lines() for part in parts).splitlines(True))
    assert merged.total_time_s == max(one for one in spans if one is not None)
    assert len(set(spans)) > 1


def test_rounds_arms_repeats_and_salts_are_rounds_of_their_own() -> None:
    made = [no_reuse(), cold(), hit(), cold().named("a").head(salt="other")]
    made += [cold().named("b").head(repeat=2), no_reuse().named("c").head(position="after")]
    made += [cold().named("d").head(name="other"), cold().named("f").head(plan_sha256="c" * 64)]
    stats = summarise_lines(b"".join(one.lines() for one in made).splitlines(True))
    assert len(stats) == len(made)
    assert [one.round_num for one in stats[:3]] == [0, 1, 2]
    assert all(one.complete for one in stats)


def test_several_servers_records_of_a_round() -> None:
    made = cold().seen_by(node(cold()), node(cold()))
    assert len(made.stats().server) == 2
    assert made.stats().findings == []  # one URL: its change is counted once


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (lines_of(cold())[1:], "in.jsonl:1: request: run_id r1 has no `run` line before it"),
        (lines_of(cold())[-1:], "in.jsonl:1: end: run_id r1 has no `run` line"),
        (lines_of(cold()) * 2, "in.jsonl:16: run: run_id r1 twice"),
        ([*lines_of(cold()), lines_of(cold())[3]], "in.jsonl:16: request: run_id r1 has ended"),
        (lines_of(cold())[:3] + lines_of(cold())[2:3], "in.jsonl:4: index 1 twice in round 1"),
        ([*lines_of(cold())[:2], b'{"record":"request","schema":1}\n'], "in.jsonl:3: request: '"),
        ([b'{"record":"plan","schema":1,"a":1}\n'], "in.jsonl:1: plan: "),
        ([b"avg_ttft\n"], "in.jsonl:1: not a JSON line"),
        ([b"\n", b"[1]\n"], "in.jsonl:2: not a record"),
    ],
    ids=["no head", "end alone", "twice", "after end", "index", "schema", "plan", "csv", "list"],
)
def test_what_breaks_the_grammar_is_refused_with_its_place(lines: list[bytes], words: str) -> None:
    assert refused(*lines).startswith(words)


def test_two_runs_that_are_no_shards_collide() -> None:
    said = refused(*lines_of(cold()), *lines_of(cold().named("again")))
    assert "index 0 twice" in said


def test_a_cleared_record_is_no_part_of_a_stream() -> None:
    line = (
        b'{"record":"cleared","schema":1,"tool_version":"0","cleared_at":"t","steps":[],'
        b'"proofs":[],"verified":null,"reason":"r"}\n'
    )
    assert "no record of a kvload stream" in refused(line)


def test_half_a_line_at_the_end_is_a_stream_cut_short(capsys: pytest.CaptureFixture[str]) -> None:
    whole = cold().lines()
    rounds = Rounds({})
    read_into(rounds, BytesIO(whole[:-30]), "in.jsonl")
    assert "in.jsonl:15: the last line is cut short" in capsys.readouterr().err
    assert len(rounds) == 1
    unterminated = Rounds({})
    read_into(unterminated, BytesIO(whole[:-1]), "in.jsonl")
    assert capsys.readouterr().err == ""


def test_compressed_data_cut_short(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    packed = gzip.compress(cold().lines())
    path = tmp_path / "in.jsonl.gz"
    path.write_bytes(packed[:-40])
    with gzip.open(path) as stream:
        read_into(Rounds({}), stream, "in.jsonl.gz")
    assert "cut short" in capsys.readouterr().err


@given(st.lists(st.integers(0, 2**62)))
def test_indexes_are_a_set(indexes: list[int]) -> None:
    seen = Indexes()
    known: set[int] = set()
    for index in indexes:
        assert seen.add(index) == (index not in known)
        known.add(index)
