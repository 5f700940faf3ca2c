"""Reading by the block is reading line by line, only faster."""

from __future__ import annotations

import random
from io import BytesIO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.kvstats.streams import as_json, cold, failed, hit, node, shards, summarise_lines
from tests.strategies import values

from kvpipe.jsonl import decode_line, encode
from kvpipe.process import ToolError
from kvpipe.records import Request
from kvstats import blocks
from kvstats.blocks import blocks_of, requests_of
from kvstats.streams import Rounds, read_into
from kvstats.summary import summarise

LINE = len(encode(cold().requests[0]))
LINES = cold(followers=9, uniques=20).lines().splitlines(True)


@pytest.fixture(params=[1, 3, 8, 1_000], ids=lambda lines: f"{lines} lines a block")
def block(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Blocks of about so many lines."""
    monkeypatch.setattr(blocks, "BLOCK", request.param * LINE)
    return int(request.param)


def read(data: bytes) -> Rounds:
    rounds = Rounds({})
    read_into(rounds, BytesIO(data), "in.jsonl")
    return rounds


def test_blocks_are_whole_lines(block: int) -> None:
    data = b"".join(LINES) + b'{"half'
    found = list(blocks_of(BytesIO(data), "in.jsonl"))
    assert b"".join(found) == data
    assert all(one.endswith(b"\n") for one in found[:-1])
    assert len(found) >= len(LINES) // (block + 1)


def test_a_line_longer_than_a_block() -> None:
    data = b"a" * (3 * blocks.BLOCK) + b"\nb\n"
    assert list(blocks_of(BytesIO(data), "in.jsonl")) == [data]


@pytest.mark.usefixtures("block")
@pytest.mark.parametrize("seed", range(4))
def test_any_stream_is_the_same_by_the_block(seed: int) -> None:
    chance = random.Random(seed)
    made = cold(followers=9, uniques=20).seen_by(node(cold()))
    spoilt = made.map(lambda one: failed(one) if chance.random() < 0.2 else one)
    many = [spoilt, hit(), *shards(cold().head(name="other").named("x"), 3)]
    lines = b"".join(one.lines() for one in many).splitlines(True)
    got = [summarise(one) for one in read(b"".join(lines))]
    assert as_json(got) == as_json(summarise_lines(lines))


def spoil(how: str, at: int) -> list[bytes]:
    """The stream with one thing wrong at a line, counted from 0."""
    line = LINES[at]
    wrong = {
        "no json": [b"{]\n"],
        "no schema": [line.replace(b'"schema":1,', b"")],
        "a key more": [line.replace(b'"turn"', b'"tern"')],
        "usage is a list": [line.replace(b'"usage":null', b'"usage":[]')],
        "a negative index": [line.replace(b'"index":', b'"index":-1')],
        "twice": [line, line],
        "unknown run": [line.replace(b'"run_id":"r1"', b'"run_id":"r9"')],
        "two on a line": [line.strip() + line],
        "one on two lines": [line.replace(b',"turn"', b',\n"turn"')],
        "two on one, one on two": [line.strip() + LINES[at + 1].replace(b',"turn"', b',\n"turn"')],
        "a blank line, then none": [b"\n", b"[1]\n"],
    }
    return [*LINES[:at], *wrong[how], *LINES[at + 1 :]]


SPOILT = [
    "no json",
    "no schema",
    "a key more",
    "usage is a list",
    "a negative index",
    "twice",
    "unknown run",
    "two on a line",
    "one on two lines",
    "two on one, one on two",
    "a blank line, then none",
]


def complaint_of(lines: list[bytes]) -> str:
    """What is said of them when they are read one by one."""
    rounds = Rounds({})
    for number, line in enumerate(b"".join(lines).splitlines(True), 1):
        place = f"in.jsonl:{number}"
        if not line.strip():
            continue
        try:
            record = decode_line(line, place)
        except ToolError as error:
            return str(error)
        try:
            rounds.add(record)
        except ToolError as error:
            return f"{place}: {error}"
    return "nothing"


@pytest.mark.usefixtures("block")
@pytest.mark.parametrize("at", [1, 7, 30])
@pytest.mark.parametrize("how", SPOILT)
def test_what_is_refused_is_refused_with_its_line(how: str, at: int) -> None:
    lines = spoil(how, at)
    with pytest.raises(ToolError) as got:
        read(b"".join(lines))
    assert str(got.value) == complaint_of(lines)


def test_blank_lines_count(block: int) -> None:
    lines = [*LINES[:9], b"\n", *LINES[9:12], b"  \n", *LINES[12:], b"[1]\n"]
    with pytest.raises(ToolError, match=f"^in.jsonl:{len(lines)}: "):
        read(b"".join(lines))
    assert as_json([summarise(one) for one in read(b"".join(lines[:-1]))]) == as_json(
        summarise_lines(LINES)
    )


@given(st.lists(values(Request), min_size=1, max_size=5))
@settings(max_examples=100)
def test_both_ways_of_decoding_accept_the_same(requests: list[dict[str, object]]) -> None:
    lines = [encode({"record": "request", "schema": 1} | one) for one in requests]
    got = requests_of(b"".join(lines))
    assert got is not None
    for line, one in zip(lines, got, strict=True):
        whole = decode_line(line, "line")
        assert isinstance(whole, Request)
        for name in set(Request.__struct_fields__) - {"usage"}:
            assert getattr(one, name) == getattr(whole, name), name
