"""Same answer: near ties told from wrong ones, in whatever order and form answers come."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs
from tests.kvstats.peers import PEERS, stats_of
from tests.kvstats.streams import Made, cold, hit

from kvpipe.records import Request
from kvstats import blocks, readers
from kvstats.answers import AnswerBook
from kvstats.divergence import (
    NEAR_TIE_NATS,
    SHIFT_NATS,
    Kept,
    Place,
    divergence,
    escaped,
    judged,
    kept,
)
from kvstats.readers import Reading
from kvstats.streams import Rounds
from kvstats.summary import summarise

Capture = pytest.CaptureFixture[bytes]
Top = dict[str, float]


def chat(*tops: Top) -> list[dict[str, Any]]:
    """Log probabilities as chat has them, the first of each place being the token."""
    return [
        {
            "token": next(iter(top)),
            "logprob": next(iter(top.values())),
            "bytes": [*next(iter(top)).encode()],
            "top_logprobs": [
                {"token": name, "logprob": value, "bytes": [*name.encode()]}
                for name, value in top.items()
            ],
        }
        for top in tops
    ]


def completions(*tops: Top) -> list[dict[str, Any]]:
    """The same as completions have them, an object a chunk."""
    return [
        {
            "tokens": [next(iter(top))],
            "token_logprobs": [next(iter(top.values()))],
            "top_logprobs": [top],
            "text_offset": [0],
        }
        for top in tops
    ]


SAME = {" the": -0.1, " a": -2.5}
FORMS = pytest.mark.parametrize("form", [chat, completions])


def answer(form: Any, *tops: Top) -> Kept:
    return kept("".join(next(iter(top)) for top in tops), form(*tops))


@FORMS
def test_a_near_tie_is_where_either_might_win(form: Any) -> None:
    base = answer(form, SAME, {" cat": -0.70, " dog": -0.71}, {" sat": -0.1})
    other = answer(form, SAME, {" dog": -0.70, " cat": -0.72}, {" ran": -0.1})
    found = divergence(7, base, other)
    assert (found.index, found.token, found.kind) == (7, 1, "near_tie")
    assert (found.before, found.base, found.other) == (" the", " cat sat", " dog ran")
    assert found.gap == pytest.approx(0.02) and found.shift == pytest.approx(0.02)


@FORMS
def test_a_token_that_was_clearly_less_likely_is_wrong(form: Any) -> None:
    base = answer(form, SAME, {" cat": -0.1, " dog": -3.0})
    other = answer(form, SAME, {" dog": -0.2, " cat": -2.0})
    found = divergence(0, base, other)
    assert (found.kind, found.gap) == ("wrong", pytest.approx(2.9))


@pytest.mark.parametrize(
    ("gap", "kind"), [(NEAR_TIE_NATS - 0.01, "near_tie"), (NEAR_TIE_NATS + 0.01, "wrong")]
)
def test_the_threshold_is_what_it_says(gap: float, kind: str) -> None:
    base = answer(chat, {" cat": -0.5, " dog": -0.5 - gap})
    other = answer(chat, {" dog": -0.5, " cat": -0.5})
    assert divergence(0, base, other).kind == kind


def test_one_clear_side_is_enough() -> None:
    """A hit that was sure of its token computed something else than a cold round that was not."""
    base = answer(chat, {" cat": -0.70, " dog": -0.71})
    other = answer(chat, {" dog": -0.10, " cat": -2.40})
    assert divergence(0, base, other).kind == "wrong"


def test_rounding_does_not_move_a_log_probability_by_a_nat() -> None:
    base = answer(chat, {" cat": -1.0, " dog": -1.1})
    other = answer(chat, {" dog": -1.0 - SHIFT_NATS, " cat": -1.1 - SHIFT_NATS})
    assert divergence(0, base, other).kind == "wrong"


def test_a_rival_that_was_not_told_was_at_most_as_likely_as_the_last() -> None:
    sure = answer(chat, {" cat": -0.1, " cow": -4.0})
    flat = answer(chat, {" cat": -5.0, " cow": -5.1})
    other = answer(chat, {" dog": -5.0, " cot": -5.1})
    assert divergence(0, sure, other).kind == "wrong"
    assert divergence(0, flat, other).kind == "unknown"  # it may have been the next


@pytest.mark.parametrize("logprobs", [None, [], [3], [{}], [{"token": 1}], [{"tokens": [1]}]])
def test_without_log_probabilities_nothing_tells(logprobs: Sequence[Any] | None) -> None:
    found = divergence(0, kept("one two", logprobs), kept("one too", logprobs))
    assert (found.kind, found.token, found.character) == ("unknown", None, 5)
    assert (found.before, found.base, found.other) == ("one t", "wo", "oo")


def test_an_answer_that_stops_early_is_not_judged() -> None:
    found = divergence(0, answer(chat, SAME, SAME), answer(chat, SAME))
    assert (found.kind, found.token, found.other) == ("unknown", 1, "")


def test_half_a_character_is_a_token_of_its_own() -> None:
    """Two tokens that have the same sign in text differ by their bytes."""

    def half(last: int) -> list[dict[str, Any]]:
        one: dict[str, Any] = {"token": "\ufffd", "logprob": -0.1, "bytes": [0xE4, last]}
        return [one | {"top_logprobs": [dict(one), {"token": "x", "logprob": -0.2, "bytes": [1]}]}]

    found = divergence(0, kept("\u4e00", half(1)), kept("\u5000", half(2)))
    assert found.token == 0


def test_what_has_no_sign_is_escaped() -> None:
    assert escaped("a\x1b[31m\n\u202e\ud800\u4e2d") == r"a\x1b[31m\n\u202e\ud800" + "\u4e2d"


NUMBER = st.floats(-20, 0) | st.none() | st.text(max_size=2)
ENTRY = st.recursive(
    NUMBER | st.booleans() | st.integers(-1, 300),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.fixed_dictionaries(
            {},
            optional={
                "token": inner | st.sampled_from(["a", "b"]),
                "logprob": inner,
                "bytes": inner,
                "top_logprobs": inner,
                "tokens": st.lists(st.sampled_from(["a", "b"]), max_size=2) | inner,
                "token_logprobs": inner,
            },
        )
        | st.dictionaries(st.sampled_from(["a", "b"]), inner, max_size=2)
    ),
    max_leaves=12,
)


@given(st.lists(ENTRY, max_size=3), st.lists(ENTRY, max_size=3))
def test_whatever_a_server_calls_log_probabilities(one: list[Any], two: list[Any]) -> None:
    found = divergence(0, kept("ab", one), kept("aa", two))
    assert found.kind in ("near_tie", "wrong", "unknown")
    if found.kind == "near_tie":
        assert found.gap is not None and found.gap < NEAR_TIE_NATS


@given(
    st.dictionaries(st.sampled_from("abc"), st.floats(-9, 0), min_size=2),
    st.dictionaries(st.sampled_from("abc"), st.floats(-9, 0), min_size=2),
)
def test_judging_is_the_same_from_both_sides(one: Top, two: Top) -> None:
    (base,), (other,) = answer(chat, one).places or [], answer(chat, two).places or []
    assert judged(base, other) == judged(other, base)


# --- rounds --------------------------------------------------------------------------------------


def answered(made: Made, *, last: str = " end", top: Top | None = None, who: int = -1) -> Made:
    """The round with its answers kept: those of request `who` (or of all) end in `last`."""

    def keep(one: Request) -> Request:
        word = last if who in (-1, one.index) else " end"
        tops = {word: -0.1, " none": -5.0} if top is None else top
        text = f" {one.index} is the{word}"
        places = chat({f" {one.index}": -0.1}, {" is": -0.1}, {" the": -0.1}, tops)
        sha = hashlib.sha256(text.encode()).hexdigest()
        return structs.replace(one, output_text=text, output_sha256=sha, logprobs=places)

    return made.map(keep)


def kinds(stats: dict[str, Any]) -> tuple[int, int, int, int, int]:
    told = stats["answers"]
    return tuple(told[key] for key in ("compared", "equal", "near_ties", "wrong", "unknown"))  # type: ignore[return-value]


def differ(stats: dict[str, Any]) -> dict[str, Any] | None:
    return next((one for one in stats["findings"] if one["code"] == "answers_differ"), None)


def written(path: Path, *parts: Made) -> Path:
    path.write_bytes(b"".join(one.lines() for one in parts))
    return path


def test_equal_answers_are_counted_and_found_nothing(tmp_path: Path, capsysbinary: Capture) -> None:
    path = written(tmp_path / "run.jsonl", answered(cold()), answered(hit()))
    first, second = stats_of(capsysbinary, path)
    assert first["answers"] is None
    asked = second["total_requests"]
    assert kinds(second) == (asked, asked, 0, 0, 0) and differ(second) is None
    assert (second["answers"]["base_arm"], second["answers"]["base_round_num"]) == ("cold", 1)


def test_wrong_answers_withhold_the_verdict(tmp_path: Path, capsysbinary: Capture) -> None:
    path = written(tmp_path / "run.jsonl", answered(cold()), answered(hit(), last=" fin", who=3))
    _, second = stats_of(capsysbinary, path)
    found = differ(second)
    assert found is not None and found["severity"] == "invalid"
    assert found["evidence"]["wrong"] == 1
    assert (
        'request 3 parts after 3 tokens: " 3 is the" goes on " end" in round 1 and'
        in (found["message"])
    )


def test_near_ties_are_information(tmp_path: Path, capsysbinary: Capture) -> None:
    tie = {" end": -0.7, " fin": -0.7}
    path = written(
        tmp_path / "run.jsonl",
        answered(cold(), top=tie),
        answered(hit(), last=" fin", top=dict(reversed(tie.items()))),
    )
    _, second = stats_of(capsysbinary, path)
    found = differ(second)
    assert found is not None and found["severity"] == "info"
    assert second["answers"]["near_ties"] == second["answers"]["compared"] > 0


def test_rounds_may_come_in_any_order(tmp_path: Path, capsysbinary: Capture) -> None:
    parts = [answered(cold()), answered(hit(), last=" fin", who=2)]
    told = []
    for order in itertools.permutations(parts):
        path = written(tmp_path / "run.jsonl", *order)
        rounds = {one["round_num"]: one for one in stats_of(capsysbinary, path)}
        told.append(rounds[2]["answers"])
    assert told[0] == told[1] and told[0]["wrong"] == 1


def test_a_server_that_differs_without_hits_too_is_no_proof_against_the_cache(
    tmp_path: Path, capsysbinary: Capture
) -> None:
    control = cold().named("r0").head(arm="no_reuse", round_num=0, salt="t", position="before")
    path = written(
        tmp_path / "run.jsonl",
        answered(control, last=" stop"),
        answered(cold()),
        answered(hit(), last=" fin"),
    )
    rounds = {one["round_num"]: one for one in stats_of(capsysbinary, path)}
    assert [rounds[number]["answers"]["wrong"] > 0 for number in (0, 2)] == [True, True]
    for number in (0, 2):
        found = differ(rounds[number])
        assert found is not None and found["severity"] == "warning"
    assert "need not be the cache" in (differ(rounds[2]) or {})["message"]


def test_salts_in_the_prompt_make_other_prompts(tmp_path: Path, capsysbinary: Capture) -> None:
    path = written(
        tmp_path / "run.jsonl",
        answered(cold().head(salt_way="prompt_head", salt="one")),
        answered(hit().head(salt_way="prompt_head", salt="two"), last=" fin"),
    )
    assert [one["answers"] for one in stats_of(capsysbinary, path)] == [None, None]


def test_without_kept_answers_nothing_is_said(tmp_path: Path, capsysbinary: Capture) -> None:
    path = written(tmp_path / "run.jsonl", cold(), hit())
    assert [one["answers"] for one in stats_of(capsysbinary, path)] == [None, None]


def test_memory_does_not_grow_with_the_answers() -> None:
    """Texts wait in a file: what stays is a few numbers an answer, and none beyond a limit."""
    import tracemalloc

    made = next(one for one in cold().requests if one.stratum != "sentinel")
    long = structs.replace(made, output_text="word " * 20_000)
    book = AnswerBook()
    book._file.rollover()  # type: ignore[attr-defined]  # as after the first 8 MB
    tracemalloc.start()
    try:
        for index in range(300):  # 30 MB of text
            book.add(structs.replace(long, index=index))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        book.close()
    assert peak < 2_000_000


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="needs Linux")
def test_reading_processes_hand_answers_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks with kept answers are read where the answers are kept."""
    monkeypatch.setattr(blocks, "BLOCK", 4096)
    monkeypatch.setattr(readers, "ALONE", 0)
    data = answered(cold()).lines() + answered(hit(), last=" fin", who=2).lines()
    told = []
    for count in (0, 2):
        book = AnswerBook()
        rounds = Rounds({}, keep=book.add)
        with Reading(rounds, readers=count) as reading:
            reading.read(BytesIO(data), "made")
            assert len(reading._readers) == count
        told.append(book.compared([summarise(one) for one in rounds]))
        book.close()
    assert told[0] == told[1]
    assert [one.answers and one.answers.wrong for one in told[0]] == [None, 1]


def test_a_real_stream_of_vllm_is_understood() -> None:
    """Recorded on vLLM 0.32: two candidates a place, the token itself among them."""
    captured = PEERS.parent / "captures" / "vllm_chat_stream_logprobs.sse"
    events = [
        json.loads(line.removeprefix("data: "))
        for line in captured.read_text().splitlines()
        if line.startswith("data: {")
    ]
    choices = [choice for event in events for choice in event["choices"]]
    told = [
        one for choice in choices if choice["logprobs"] for one in choice["logprobs"]["content"]
    ]
    found = kept(" PROGRAM" * 3, told)
    assert found.places is not None and len(found.places) == 3
    for place in found.places:
        assert place.token == b" PROGRAM" and place.top[place.token] == place.logprob
        assert len(place.top) == 2
    other = Kept(text="LD", places=[Place(b"LD", -6.94, {b"LD": -6.94, b" PROGRAM": -7.01})])
    near = divergence(0, found, other)
    assert (near.kind, near.token) == ("near_tie", 0)  # 0.07 nats apart in the recording
