"""Plans as they are read: kvplan's stream and the bare lines of others."""

from __future__ import annotations

import json
from io import BytesIO
from typing import Any

import msgspec
import pytest

from kvpipe.jsonl import encode
from kvpipe.process import ToolError
from kvpipe.records import Plan, Planned
from kvprompt.hashes import plan_sha256, shape_sha256
from kvprompt.workload import RawPlan, read_plan

HEAD = Plan(
    scenario="cold_start",
    seed=1,
    plan_sha256="0" * 64,
    shape_sha256="0" * 64,
    calibrated="none",
    requests=2,
    sentinels=0,
)
REQUESTS = [
    Planned(index=0, stratum="unique", prompt="one", max_tokens=4),
    Planned(index=1, stratum="unique", prompt="two", max_tokens=4, after=0),
]


def read(*records: object) -> list[RawPlan]:
    return read_plan(BytesIO(b"\n".join(encode(record) for record in records)), "w.jsonl")


def read_bare(*lines: dict[str, Any]) -> RawPlan:
    (plan,) = read_plan(BytesIO("\n".join(map(json.dumps, lines)).encode()), "w.jsonl")
    return plan


def test_a_stream_of_repeats_is_read_with_the_hashes_of_what_stands_there() -> None:
    second = msgspec.structs.replace(HEAD, repeat=2)
    plans = read(HEAD, *REQUESTS, second, *REQUESTS)
    assert [plan.repeat for plan, _ in plans] == [1, 2]
    for plan, requests in plans:
        assert requests == REQUESTS
        assert plan.plan_sha256 == plan_sha256(REQUESTS)
        assert plan.shape_sha256 == shape_sha256(REQUESTS)


@pytest.mark.parametrize(
    ("records", "words"),
    [
        ([HEAD, REQUESTS[0]], "says 2 requests and has 1"),
        ([REQUESTS[0]], "w.jsonl:1: planned: no `plan`"),
        ([HEAD, REQUESTS[1], REQUESTS[0]], "index 1 where 0 is due"),
        ([HEAD, msgspec.structs.replace(REQUESTS[0], after=0)], "after 0 is no earlier"),
        ([HEAD, msgspec.structs.replace(REQUESTS[0], prompt=None)], "one of messages and prompt"),
    ],
)
def test_a_broken_plan_is_named(records: list[object], words: str) -> None:
    with pytest.raises(ToolError, match=words):
        read(*records)


def test_an_empty_workload_is_said_to_be_empty() -> None:
    with pytest.raises(ToolError, match=r"w\.jsonl: empty"):
        read_plan(BytesIO(b"\n\n"), "w.jsonl")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"{", r"w\.jsonl:1: "),
        (b'{"prompt": "x", "temprature": 1}', "temprature.*max_tokens, group, turn, at_s, body"),
        (b'{"prompt": "x", "messages": [{}]}', "and not both"),
        (b'{"max_tokens": 3}', "one of messages and prompt"),
        (b'{"prompt": ""}', "empty"),
        (b'{"prompt": "x", "max_tokens": 0}', "max_tokens"),
        (b'{"prompt": "x", "turn": 1}', "turn without group"),
        (b'{"prompt": "x"}\n{"prompt": [1]}', "token ids and texts"),
        (b'{"prompt": "x"}\n{"record": "end"}', r"w\.jsonl:2: .*record"),
    ],
)
def test_a_bad_line_is_named(line: bytes, words: str) -> None:
    with pytest.raises(ToolError, match=words):
        read_plan(BytesIO(line), "w.jsonl")


def test_strata_come_from_shared_text() -> None:
    system = {"role": "system", "content": "A long contract about the harbour. " * 40}
    user = [{"role": "user", "content": f"{n}: question?"} for n in ("first", "second", "third")]
    head, requests = read_bare(
        {"prompt": "Something else altogether."},
        {"messages": [system, user[0]]},
        {"messages": [system, user[1]], "max_tokens": 7},
        {"messages": [user[2]], "body": {"seed": 1}},
        {"messages": [system, user[2]]},
    )
    strata = [request.stratum for request in requests]
    assert strata == ["unique", "leader", "follower", "unique", "follower"]
    groups = [None, "shared-1", "shared-1", None, "shared-1"]
    assert [request.group for request in requests] == groups
    assert [request.max_tokens for request in requests] == [64, 64, 7, 64, 64]
    assert requests[3].body == {"seed": 1}
    assert requests[2].new_tokens is not None and requests[1].new_tokens is not None
    assert requests[2].new_tokens < 10 < 300 < requests[1].new_tokens
    assert (head.scenario, head.source, head.order) == ("workload", "w.jsonl", "given")
    assert (head.requests, head.cold_requests, head.contexts) == (5, 3, 1)
    assert (head.calibrated, head.got_tokens) == ("none", None)
    assert head.note is not None and "estimated" in head.note


def test_groups_and_turns_are_taken_as_given() -> None:
    _, requests = read_bare(
        {"prompt": "a", "group": "x", "turn": 1},
        {"prompt": "b", "group": "y", "turn": 1, "at_s": 0.5},
        {"prompt": "ab", "group": "x", "turn": 2},
        {"prompt": "abc", "group": "x", "turn": 3},
    )
    assert [request.after for request in requests] == [None, None, 0, 2]
    assert [request.stratum for request in requests] == ["leader", "unique"] + ["follower"] * 2
    assert requests[1].at_s == 0.5


def test_token_ids_are_counted_exactly() -> None:
    shared = list(range(100))
    head, requests = read_bare({"prompt": [*shared, 7]}, {"prompt": [*shared, 8, 9]})
    assert (head.calibrated, head.got_tokens, head.note) == ("token_ids", 203, None)
    assert [request.prompt_tokens for request in requests] == [101, 102]
    assert [request.new_tokens for request in requests] == [101, 2]
