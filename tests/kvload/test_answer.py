"""What is read out of an answer. The streams here are made by hand: no capture has these shapes."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.kvload.exchanges import DONE, ROLE, delta, exchange_of, patient, sse, untimed, usage

from kvload.answer import Answer, parse_answer
from kvload.events import take_events
from kvload.transcript import Transcript
from kvpipe.records import Status

CAPTURES = Path(__file__).parents[1] / "data" / "captures"
STOP = delta("stop")


def answer_to(*chunks: dict[str, Any] | str) -> Answer:
    """One event a read: the n-th event (from 0) has the stamp (n + 1) * 1000."""
    return parse_answer(exchange_of(sse(*chunks)))


def test_the_role_chunk_is_a_chunk_and_no_token():
    answer = answer_to(ROLE, delta(content="a"), delta(content="b"), STOP, usage(2), DONE)
    assert answer.first_chunk_ns == 1000
    assert answer.chunk_ns == [2000, 3000]
    assert (answer.first_token_ns, answer.second_token_ns, answer.last_token_ns) == (
        *(2000, 3000),
        3000,
    )
    assert answer.output_text == "ab"


def test_a_role_in_every_chunk_does_not_hide_tokens():
    answer = answer_to(*(delta(role="assistant", content=text) for text in "abc"), STOP, DONE)
    assert answer.chunk_ns == [1000, 2000, 3000]
    assert (answer.output_tokens, answer.token_source) == (3, "chunks")


def test_empty_chunks_are_no_tokens_where_the_count_fits():
    answer = answer_to(
        ROLE,
        delta(),
        delta(content="a"),
        delta(content=""),
        delta(content="b"),
        STOP,
        usage(2),
        DONE,
    )
    assert answer.chunk_ns == [3000, 5000]


def test_empty_chunks_are_tokens_where_usage_counts_more():
    """The first token had no text (half a character): its chunk is the first token."""
    answer = answer_to(
        ROLE, delta(content=""), delta(content="é"), delta("length", content=""), usage(3), DONE
    )
    assert answer.chunk_ns == [2000, 3000, 4000]
    assert (answer.first_token_ns, answer.first_content_ns) == (2000, 3000)


def test_without_usage_empty_chunks_stay_unknown():
    answer = answer_to(ROLE, delta(content=""), delta("stop", content=""), DONE)
    assert answer.status == "ok"
    assert (answer.chunk_ns, answer.first_token_ns, answer.output_tokens) == ([], None, None)
    assert answer.token_source is None
    assert answer.output_text == ""


def test_an_empty_text_of_a_completion_may_be_its_first_token():
    chunks = [
        {"choices": [{"index": 0, "text": text, "finish_reason": None, "prompt_token_ids": None}]}
        for text in ("", "a")
    ]
    assert answer_to(*chunks, usage(2), DONE).chunk_ns == [1000, 2000]
    chunks[0]["choices"][0]["prompt_token_ids"] = [1, 2]  # vLLM's opening of return_token_ids
    assert answer_to(*chunks, usage(2), DONE).chunk_ns == [2000]


@pytest.mark.parametrize(
    "fields",
    [
        {"reasoning": "hm"},
        {"reasoning_content": "hm"},
        {"reasoning": "hm", "reasoning_content": "hm"},  # vLLM 0.11 to 0.14 say it twice
    ],
)
def test_reasoning_is_a_token_and_no_content(fields: dict[str, str]):
    answer = answer_to(ROLE, delta(**fields), delta(content="so"), STOP, DONE)
    assert (answer.first_token_ns, answer.first_content_ns) == (2000, 3000)
    assert answer.output_text == "hmso"
    assert answer.output_tokens == 2


def test_tool_calls_are_tokens():
    def call(**function: str) -> dict[str, Any]:
        return delta(tool_calls=[{"index": 0, "function": function}])

    answer = answer_to(
        ROLE,
        call(name="f", arguments=""),
        call(arguments='{"a"'),
        call(arguments=":1}"),
        delta("tool_calls"),
        DONE,
    )
    assert answer.chunk_ns == [2000, 3000, 4000]
    assert answer.first_content_ns is None
    assert answer.output_text == 'f{"a":1}'
    assert answer.finish_reason == "tool_calls"
    assert answer_to(ROLE, delta(tool_calls=[]), STOP, DONE).chunk_ns == []


def test_token_ids_are_tokens_and_counted_where_nothing_else_is():
    def ids(*given: int) -> dict[str, Any]:
        chunk = delta(content="")
        chunk["choices"][0]["token_ids"] = list(given)
        return chunk

    answer = answer_to(ROLE, ids(7, 8), ids(), ids(9), STOP, DONE)
    assert answer.chunk_ns == [2000, 4000]
    assert (answer.output_tokens, answer.token_source) == (3, "token_ids")
    assert answer_to(ROLE, ids(7, 8), STOP, usage(5), DONE).token_source == "usage"


def test_several_tokens_in_a_chunk_are_one_event():
    answer = answer_to(ROLE, delta(content="a b c"), delta("length", content="d"), usage(4), DONE)
    assert (len(answer.chunk_ns), answer.output_tokens, answer.token_source) == (2, 4, "usage")


@pytest.mark.parametrize("split", [False, True])
def test_events_of_one_read_are_merged(split: bool):
    events = sse(ROLE, *(delta(content=text) for text in "abcd"), STOP, DONE)
    reads = [b"".join(events[:3]), events[3] + events[4], b"".join(events[5:])]
    if split:  # a cut within an event: it belongs to the read that completes it
        reads = [reads[0] + events[3][:9], events[3][9:] + events[4], reads[2]]
    answer = parse_answer(exchange_of(reads))
    assert answer.chunk_ns == [1000, 1000, 2000, 2000]
    assert answer.merged_reads == 2
    assert answer.reads == 3


def test_an_event_is_whole_with_its_empty_line():
    first, second = sse(ROLE, delta(content="a"))
    answer = parse_answer(exchange_of([first, second[:-1], b"\n", *sse(STOP, DONE)]))
    assert answer.first_token_ns == 3000


def test_usage_in_the_last_content_chunk():
    last = delta("length", content="b") | {"usage": {"prompt_tokens": 3, "completion_tokens": 2}}
    answer = answer_to(ROLE, delta(content="a"), last, DONE)
    assert (answer.prompt_tokens, answer.output_tokens, answer.token_source) == (3, 2, "usage")
    assert answer.chunk_ns == [2000, 3000]


def test_usage_in_every_chunk_and_the_last_one_counts():
    chunks = [delta(content=t) | {"usage": {"completion_tokens": n}} for n, t in enumerate("abc")]
    answer = answer_to(ROLE, *chunks, STOP, usage(3, prompt_tokens_details=None), DONE)
    assert answer.output_tokens == 3
    assert answer.usage == {
        "prompt_tokens": 10,
        "completion_tokens": 3,
        "prompt_tokens_details": None,
    }


@pytest.mark.parametrize(
    ("more", "cached", "created"),
    [
        ({}, None, None),
        ({"prompt_tokens_details": None}, None, None),
        ({"prompt_tokens_details": {}}, None, None),
        ({"prompt_tokens_details": {"cached_tokens": None}}, None, None),
        ({"prompt_tokens_details": {"cached_tokens": 0}}, 0, None),
        ({"prompt_tokens_details": {"cached_tokens": 4, "created_cache_tokens": 6}}, 4, 6),
        ({"prompt_cache_hit_tokens": 5, "prompt_cache_miss_tokens": 5}, 5, None),  # DeepSeek
        ({"prompt_tokens_details": {"cached_tokens": True}}, None, None),
        ({"prompt_tokens_details": {"cached_tokens": -1}}, None, None),
        ({"prompt_tokens_details": [4]}, None, None),
    ],
)
def test_cached_tokens_are_what_was_reported_and_else_null(
    more: dict[str, Any], cached: int | None, created: int | None
):
    answer = answer_to(ROLE, delta(content="a"), STOP, usage(1, **more), DONE)
    assert (answer.cached_tokens, answer.created_cache_tokens) == (cached, created)
    assert answer.usage is not None and answer.usage.items() >= more.items()


def test_llamacpp_reports_in_its_timings():
    timings = {"cache_n": 236, "prompt_n": 1, "prompt_ms": 30.9, "predicted_n": 35}
    answer = answer_to(ROLE, delta(content="a"), STOP | {"timings": timings}, DONE)
    assert answer.server_timings == timings
    assert (answer.cached_tokens, answer.prompt_tokens) == (236, 237)


def test_vllms_own_timings():
    lines = (CAPTURES / "kv_events" / "request_metrics.jsonl").read_text().splitlines()
    last = json.loads(lines[0])["chunk"]
    answer = answer_to(ROLE, delta(content="a"), STOP, last, DONE)
    assert answer.server_timings == last["metrics"]
    assert (answer.prompt_tokens, answer.cached_tokens) == (2727, 0)


def test_two_choices():
    answer = answer_to(
        *(delta(index=n, role="assistant", content="") for n in (0, 1)),
        *(delta(index=n, content=f"{t}{n}") for t in "ab" for n in (1, 0)),
        delta("stop", 0),
        delta("length", 1),
        usage(4),
        DONE,
    )
    assert answer.output_text == "a0b0a1b1"
    assert answer.chunk_ns == [3000, 4000, 5000, 6000]
    assert answer.finish_reason == "stop"


def test_logprobs_are_joined():
    def scored(text: str, finish: str | None = None) -> dict[str, Any]:
        chunk = delta(finish, content=text)
        chunk["choices"][0]["logprobs"] = {"content": [{"token": text, "logprob": -1.0}]}
        return chunk

    answer = answer_to(ROLE, scored("a"), scored("b", "stop"), DONE)
    assert answer.logprobs == [{"token": "a", "logprob": -1.0}, {"token": "b", "logprob": -1.0}]
    assert answer_to(ROLE, delta(content="a"), STOP, DONE).logprobs is None


@pytest.mark.parametrize(
    ("event", "message"),
    [
        ({"error": {"message": "engine is dead", "code": 500}}, "engine is dead"),
        ({"error": {"code": 500}}, '{"code": 500}'),
        ({"error": "Input validation error"}, "Input validation error"),
        ({"object": "error", "message": "engine is dead"}, "engine is dead"),  # very old vLLM
        ({"error": {"message": "a\n  b"}}, "a b"),
    ],
)
def test_an_error_within_the_stream(event: dict[str, Any], message: str):
    for tail in ([DONE], []):
        answer = answer_to(ROLE, delta(content="a"), event, *tail)
        assert (answer.status, answer.error) == ("stream_error", message)
        assert answer.first_token_ns == 2000
        assert answer.output_text == "a"


def test_an_answer_that_the_server_gave_up():
    answer = answer_to(ROLE, delta(content="a"), delta("abort", content=""), DONE)
    assert answer.status == "stream_error"
    assert answer.error is not None and "abort" in answer.error


def test_a_long_message_is_shortened():
    answer = answer_to({"error": {"message": "x" * 5000}})
    assert answer.error is not None and len(answer.error) == 300


def test_done_or_every_finish_reason_makes_it_whole():
    said = [ROLE, delta(content="a")]
    both = [*said, delta(index=1, content="b")]
    assert answer_to(*said, STOP, DONE).status == "ok"
    assert answer_to(*said, STOP).status == "ok"
    assert answer_to(*said, DONE).status == "ok"
    assert answer_to(*said).status == "truncated"
    assert answer_to(*both, STOP).status == "truncated"
    assert answer_to(*both, STOP, delta("stop", 1)).status == "ok"


def test_a_rest_without_its_empty_line_counts_only_if_the_answer_ended_well():
    *reads, last = sse(ROLE, delta(content="a"), delta("stop", content="b"))
    reads.append(last.rstrip(b"\n"))
    assert parse_answer(exchange_of(reads)).output_text == "ab"
    cut = parse_answer(exchange_of(reads, error_kind="truncated", error="closed"))
    assert (cut.status, cut.output_text, cut.error) == ("truncated", "a", "closed")


def test_a_close_after_done_is_an_end():
    reads = sse(ROLE, delta(content="a"), STOP, DONE)
    answer = parse_answer(exchange_of(reads, error_kind="truncated", error="closed"))
    assert (answer.status, answer.error) == ("ok", None)
    answer = parse_answer(exchange_of(reads[:-1], error_kind="truncated", error="closed"))
    assert answer.status == "truncated"


@pytest.mark.parametrize("kind", ["timeout", "cancelled", "stream_error", "truncated"])
def test_what_was_seen_of_a_failure_is_kept(kind: Status):
    reads = sse(ROLE, delta(content="a"), delta(content="b"))
    answer = parse_answer(exchange_of(reads, error_kind=kind, error="why"))
    assert (answer.status, answer.error) == (kind, "why")
    assert (answer.first_token_ns, answer.output_tokens, answer.output_text) == (2000, 2, "ab")


@pytest.mark.parametrize("kind", ["timeout", "cancelled", "connect_error", "stream_error"])
def test_no_answer_at_all(kind: Status):
    answer = parse_answer(exchange_of([], status=None, error_kind=kind, error="why"))
    assert (answer.status, answer.error, answer.chunk_ns) == (kind, "why", [])
    assert answer.reads is None and answer.output_text is None


@pytest.mark.parametrize(
    ("body", "status", "why"),
    [
        (b"", "stream_error", "an empty answer"),
        (b": ping\n\n", "stream_error", "no choices"),
        (b"data: [DONE]\n\n", "stream_error", "no choices"),
        (b"<html>hello</html>", "stream_error", "<html>hello</html>"),
        (b"data: {oops\n\n", "stream_error", "not JSON: {oops"),
        (b"data: [1]\n\n", "stream_error", "not a JSON object"),
        (b'{"choices": []}', "stream_error", "no choices"),
        (b'{"choices": [', "stream_error", "not JSON"),
        (b'{"error": {"message": "sorry"}}', "stream_error", "sorry"),
        (b"data: " + b"[" * 100_000, "stream_error", "not JSON"),
    ],
)
def test_what_is_no_answer(body: bytes, status: str, why: str):
    answer = parse_answer(exchange_of([body]))
    assert answer.status == status
    assert answer.error is not None and why in answer.error


def test_a_bad_event_between_good_ones_is_an_error():
    answer = answer_to(ROLE, delta(content="a"), "{oops", delta(content="b"), STOP, DONE)
    assert answer.status == "stream_error"
    assert answer.output_text == "ab"


def test_a_compressed_answer_is_refused():
    exchange = exchange_of([b"\x1f\x8b\x08"], headers={"content-encoding": "gzip"})
    answer = parse_answer(exchange)
    assert (answer.status, answer.reads) == ("stream_error", 1)
    assert answer.error is not None and "gzip" in answer.error
    ok = exchange_of(sse(ROLE, STOP, DONE), headers={"content-encoding": "identity"})
    assert parse_answer(ok).status == "ok"


@pytest.mark.parametrize(
    ("status", "reason", "body", "error"),
    [
        (401, "Unauthorized", b'{"error":"Unauthorized"}', "HTTP 401 Unauthorized: Unauthorized"),
        (500, "Internal", b"it broke\n\n here", "HTTP 500 Internal: it broke here"),
        (502, "", b"", "HTTP 502"),
        (503, "Busy", b"\xff\xfe", "HTTP 503 Busy: ��"),
        (422, "No", b'{"detail":[{"msg":"x"}]}', 'HTTP 422 No: {"detail":[{"msg":"x"}]}'),
        (304, "Not Modified", b"", "HTTP 304 Not Modified: redirected; give the final URL"),
    ],
)
def test_a_refusal(status: int, reason: str, body: bytes, error: str):
    answer = parse_answer(exchange_of([body], status=status, reason=reason))
    assert (answer.status, answer.error) == ("http_error", error)


def test_a_redirect_does_not_show_credentials():
    headers = {"location": "http://user:pass@h/x"}
    answer = parse_answer(exchange_of([b""], status=302, reason="Found", headers=headers))
    assert answer.error == "HTTP 302 Found: redirected to http://h/x; give the final URL"


def test_python_servers_write_what_is_no_json():
    answer = answer_to(ROLE, '{"choices":[{"delta":{"content":"a"},"logprobs":NaN}]}', STOP, DONE)
    assert (answer.status, answer.output_text) == ("ok", "a")
    answer = answer_to(ROLE, '{"choices":[{"delta":{"content":"\\ud83d"}}]}', STOP, DONE)
    assert (answer.status, answer.output_text) == ("ok", "?")


# Templates: what looks like the chunk before it, and is another.


def test_a_line_end_within_a_text_is_no_text_of_a_known_shape():
    first, second = sse(*(delta(content=text) for text in ("a", "@")))
    broken = second.replace(b"@", b"x\n\ndata: y")
    for reads in ([first, broken], [first + broken], [first, broken[:60], broken[60:]]):
        answer = parse_answer(exchange_of([*reads, *sse(STOP, DONE)]))
        assert (answer.status, answer.output_text) == ("stream_error", "a")


@pytest.mark.parametrize("key", ["content", "text"])
def test_the_text_is_that_of_the_choice_and_no_other(key: str):
    def both(other: str, said: str) -> dict[str, Any]:
        return {"meta": {key: other}, **delta(content=said)}

    answer = answer_to(both("a", "a"), both("b", "a"), both("c", "a"), STOP, DONE)
    assert answer.output_text == "aaa"


@pytest.mark.parametrize(
    ("field", "value"),
    [("token_ids", [7, 8]), ("logprobs", {"content": [{"logprob": -1}]})],
)
def test_what_repeats_in_every_chunk_is_counted_in_every_chunk(field: str, value: Any):
    chunks = [delta(content=text) for text in "abc"]
    for chunk in chunks:
        chunk["choices"][0][field] = value
    answer = answer_to(ROLE, *chunks, STOP, DONE)
    if field == "token_ids":
        assert (answer.output_tokens, answer.token_source) == (6, "token_ids")
    else:
        assert answer.logprobs == [{"logprob": -1}] * 3


def test_reasoning_beside_content_is_not_lost():
    chunks = [delta(reasoning="hm", content=text) for text in "abc"]
    assert answer_to(*chunks, STOP, DONE).output_text == "hmahmbhmc"


# Properties: the same words whatever way they are written, cut or escaped.

texts = st.lists(st.text(min_size=1, max_size=12), max_size=30)


@patient
@given(texts, st.sampled_from([None, (",", ":"), (", ", ": ")]), st.booleans(), st.data())
def test_any_text_comes_back(
    words: list[str], separators: tuple[str, str] | None, ascii_only: bool, data: st.DataObject
):
    def line(chunk: dict[str, Any]) -> str:
        return json.dumps(chunk, separators=separators, ensure_ascii=ascii_only)

    printable = ["".join(c for c in word if not 0xD800 <= ord(c) < 0xE000) for word in words]
    events = sse(*map(line, [ROLE, *(delta(content=word) for word in printable), STOP]), DONE)
    body = b"".join(events)
    cuts = data.draw(st.lists(st.integers(0, len(body)), max_size=20))
    marks = sorted({0, len(body), *cuts})
    reads = [body[a:b] for a, b in itertools.pairwise(marks)]
    answer = parse_answer(exchange_of(reads))
    assert answer.status == "ok"
    assert answer.output_text == "".join(printable)
    said = [word for word in printable if word]
    assert len(answer.chunk_ns) == len(said)
    assert answer.output_tokens == (len(said) or None)
    assert answer.chunk_ns == sorted(answer.chunk_ns)


@patient
@given(
    st.lists(st.sampled_from(["a", "b\\n", '"', "\\", "é", "}]}", 'x","y":"', ""]), max_size=25),
    st.lists(st.sampled_from(["content", "reasoning", "tool_calls"]), min_size=25, max_size=25),
)
def test_chunks_read_by_template_and_in_full_say_the_same(words: list[str], kinds: list[str]):
    """The id of each chunk of the second stream is another one: nothing can be learnt there."""

    def chunk(n: int, kind: str, word: str) -> dict[str, Any]:
        value: Any = [{"function": {"arguments": word}}] if kind == "tool_calls" else word
        return delta(**{kind: value}) | {"id": f"{n}"}

    pairs = list(zip(kinds, words, strict=False))
    alike = answer_to(ROLE, *(chunk(0, *pair) for pair in pairs), STOP, DONE)
    unlike = answer_to(ROLE, *(chunk(n, *pair) for n, pair in enumerate(pairs)), STOP, DONE)
    first, second = untimed(alike), untimed(unlike)
    assert first == second | {"server_request_id": first["server_request_id"]}
    assert alike.chunk_ns == unlike.chunk_ns


KEYS = ["choices", "delta", "content", "text", "usage", "index", "finish_reason", "error"]
KEYS += ["tool_calls", "function", "logprobs", "token_ids", "id", "message", "timings"]
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=5)
    ),
    max_leaves=12,
)


@patient
@given(st.lists(values, max_size=6), st.booleans())
def test_chunks_of_any_shape_never_raise(chunks: list[Any], streamed: bool):
    lines = [json.dumps(chunk) for chunk in chunks]
    reads = sse(*lines) if streamed else [line.encode() for line in lines]
    answer = parse_answer(exchange_of(reads))
    assert answer.status in ("ok", "stream_error", "truncated")
    assert (answer.error is None) == (answer.status == "ok")


@patient
@given(st.lists(st.binary(max_size=60), max_size=6), st.sampled_from([200, 400, 500]))
def test_garbage_never_raises(reads: list[bytes], status: int):
    answer = parse_answer(exchange_of(reads, status=status))
    assert answer.status != "ok"
    assert answer.error is not None
    answer.error.encode()


def test_an_event_of_many_reads_is_joined_once(monkeypatch: pytest.MonkeyPatch):
    """A line of megabytes comes in thousands of reads: joining at each is the square of them."""
    looked_at = []

    def counting(text: bytes) -> tuple[list[bytes], bytes]:
        looked_at.append(len(text))
        return take_events(text)

    monkeypatch.setattr("kvload.transcript.take_events", counting)
    long = b'data: {"choices":[{"index":0,"delta":{"content":"' + b"x" * 3000
    reads = [bytes([byte]) for byte in long + b'"}}]}\n\n'] + [b"data: [DONE]\n", b"\n"]
    transcript = Transcript()
    transcript.read_stream(reads, whole=True)
    assert transcript.done and transcript.text() == "x" * 3000
    assert sum(looked_at) < 2 * len(long)
