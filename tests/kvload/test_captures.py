"""Real answers of vLLM, cut in every way a network may cut them, always say the same."""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path

import pytest
from tests.fakeserver import FakeServer, chunked_answer, sized_answer
from tests.kvload.exchanges import exchange_of, untimed

from kvload.answer import Answer, parse_answer
from kvload.client import Client, Target

CAPTURES = Path(__file__).parents[1] / "data" / "captures"
STREAMS = sorted(CAPTURES.glob("vllm_*.sse"), key=lambda path: path.name)
REFUSALS = sorted(CAPTURES.glob("vllm_err_*.json"), key=lambda path: path.name)

# status, token events, first of them (event, from 0), prompt, output, cached, created, source, text
FACTS = {
    "vllm_chat_stream_cold_usage": ("ok", 8, 1, 2787, 8, 0, 2688, "usage", "ange" * 8),
    "vllm_chat_stream_warm_usage": ("ok", 8, 1, 2787, 8, 2688, 0, "usage", "ange" * 8),
    "vllm_chat_stream_continuous_usage": ("ok", 8, 1, 19, 8, 0, 0, "usage", " PROGRAM" * 8),
    "vllm_chat_stream_logprobs": ("ok", 3, 1, 19, 3, 0, 0, "usage", " PROGRAM" * 3),
    "vllm_chat_stream_max1": ("ok", 1, 1, 19, 1, 0, 0, "usage", " PROGRAM"),
    "vllm_chat_stream_n2": (
        *("ok", 6, 2, 19, 6, 0, 0, "usage"),
        "----------------regvey" + ".)orrespondingUN",
    ),
    "vllm_chat_stream_no_text_chunks": ("ok", 8, 1, 2740, 8, 2688, 0, "usage", ""),
    "vllm_chat_stream_no_usage": ("ok", 8, 1, None, 8, None, None, "chunks", " PROGRAM" * 8),
    "vllm_chat_stream_return_token_ids": ("ok", 3, 1, 19, 3, 0, 0, "usage", " PROGRAM" * 3),
    "vllm_completions_stream_cold_usage": ("ok", 8, 0, 1166, 8, 0, None, "usage", "ceding" * 8),
    "vllm_completions_stream_warm_usage": (
        *("ok", 8, 0, 2776, 8, 0, None, "usage"),
        " Disclaim" * 8,
    ),
    "vllm_enginedead_first_request": (
        *("stream_error", 0, None, None, None, None, None, None, None),
    ),
}


def facts_of(answer: Answer) -> tuple[object, ...]:
    first = None if answer.first_token_ns is None else answer.first_token_ns // 1000 - 1
    return (
        answer.status,
        len(answer.chunk_ns),
        first,
        answer.prompt_tokens,
        answer.output_tokens,
        answer.cached_tokens,
        answer.created_cache_tokens,
        answer.token_source,
        answer.output_text,
    )


def events_of(body: bytes) -> list[bytes]:
    return [event + b"\n\n" for event in body.split(b"\n\n") if event.strip()]


def test_every_stream_is_known():
    assert {path.stem for path in STREAMS} == set(FACTS)
    assert len(REFUSALS) > 5


@pytest.mark.parametrize("path", STREAMS, ids=lambda path: path.stem)
def test_a_capture_says_what_a_person_reads_in_it(path: Path):
    body = path.read_bytes()
    answer = parse_answer(exchange_of(events_of(body)))
    assert facts_of(answer) == FACTS[path.stem]
    assert answer.merged_reads == 0
    assert answer.reads == len(events_of(body))
    if answer.status == "ok":
        assert answer.server_request_id is not None
        assert answer.server_request_id in body.decode()
        assert answer.finish_reason == "length"
        assert answer.error is None


@pytest.mark.parametrize("path", STREAMS, ids=lambda path: path.stem)
def test_a_cut_at_any_byte_changes_only_stamps(path: Path):
    body = path.read_bytes()
    events = events_of(body)
    whole = untimed(parse_answer(exchange_of([body])))
    ends = [sum(map(len, events[: n + 1])) for n in range(len(events))]
    # Which events carry tokens, seen when each is a read of its own; that they are these is
    # what FACTS says.
    carrying = [stamp // 1000 - 1 for stamp in parse_answer(exchange_of(events)).chunk_ns]
    for at in range(1, len(body)):
        answer = parse_answer(exchange_of([body[:at], body[at:]]))
        assert untimed(answer) == whole
        assert answer.chunk_ns == [1000 if ends[event] <= at else 2000 for event in carrying]
        assert answer.merged_reads == len(carrying) - len(set(answer.chunk_ns))


@pytest.mark.parametrize("path", STREAMS, ids=lambda path: path.stem)
@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"], ids=["lf", "crlf", "cr"])
def test_many_cuts_and_other_line_ends_change_only_stamps(path: Path, line_end: bytes):
    body = path.read_bytes()
    whole = untimed(parse_answer(exchange_of([body])))
    other = body.replace(b"\n", line_end)
    seeded = random.Random(path.stem)
    ends = [len(event.replace(b"\n", line_end)) for event in events_of(body)]
    carrying = [s // 1000 - 1 for s in parse_answer(exchange_of(events_of(body))).chunk_ns]
    for cuts in (len(other) - 1, *(seeded.randrange(1, 40) for _ in range(60))):
        places = sorted(seeded.sample(range(1, len(other)), cuts))
        marks = [0, *places, len(other)]
        reads = [other[a:b] for a, b in itertools.pairwise(marks)]
        answer = parse_answer(exchange_of(reads))
        assert untimed(answer) == whole
        # An event's stamp is that of the first read which reaches its last byte.
        for event, stamp in zip(carrying, answer.chunk_ns, strict=True):
            end = sum(ends[: event + 1])
            assert marks[stamp // 1000 - 1] < end <= marks[stamp // 1000]


@pytest.mark.parametrize("path", STREAMS, ids=lambda path: path.stem)
def test_comments_and_other_fields_change_nothing(path: Path):
    events = events_of(path.read_bytes())
    whole = untimed(parse_answer(exchange_of([b"".join(events)])))
    dressed = [b": keep-alive\n\n"]
    for n, event in enumerate(events):
        dressed += [b": ping\n\n", b"event: message\nid: %d\nretry: 5\n" % n + event]
    assert untimed(parse_answer(exchange_of(dressed))) == whole
    bare = [event.replace(b"data: ", b"data:", 1) for event in events]
    assert untimed(parse_answer(exchange_of(bare))) == whole
    marked = [b"\xef\xbb\xbf" + events[0], *events[1:]]
    assert untimed(parse_answer(exchange_of(marked))) == whole


@pytest.mark.parametrize("path", STREAMS, ids=lambda path: path.stem)
def test_a_capture_cut_short_is_never_ok_unless_it_was_finished(path: Path):
    body = path.read_bytes()
    for at in range(0, len(body), 7):
        seen = body[:at]
        answer = parse_answer(exchange_of([seen], error_kind="truncated", error="closed"))
        if b"[DONE]\n\n" not in seen:
            assert answer.status in ("truncated", "stream_error")
            assert answer.error


@pytest.mark.parametrize("path", REFUSALS, ids=lambda path: path.stem)
def test_a_refusal_is_told_in_the_servers_words(path: Path):
    first, _, body = path.read_bytes().partition(b"\n")
    head = json.loads(first)
    exchange = exchange_of(
        [body[:20], body[20:]], status=head["status"], headers=head["headers"], reason="No"
    )
    said = json.loads(body)
    message = said["error"]["message"] if "error" in said else said["detail"]
    answer = parse_answer(exchange)
    assert answer.status == "http_error"
    assert answer.error == f"HTTP {head['status']} No: {' '.join(message.split())}"
    assert (answer.output_text, answer.usage, answer.chunk_ns) == (None, None, [])


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("vllm_chat_nonstream", " PROGRAM" * 4),
        ("vllm_completions_nonstream", "afversion what ineff"),
        ("vllm_unknown_field", " PROGRAM" * 4),
    ],
)
def test_an_answer_that_was_not_streamed_has_counts_and_no_stamps(name: str, text: str):
    body = (CAPTURES / f"{name}.json").read_bytes().partition(b"\n")[2]
    whole = untimed(parse_answer(exchange_of([body])))
    for at in range(1, len(body)):
        answer = parse_answer(exchange_of([body[:at], body[at:]]))
        assert untimed(answer) == whole
    assert (answer.status, answer.output_text, answer.output_tokens) == ("ok", text, 4)
    assert (answer.cached_tokens, answer.token_source, answer.finish_reason) == (
        *(0, "usage"),
        "length",
    )
    assert answer.first_token_ns is answer.first_chunk_ns is answer.last_token_ns is None
    assert answer.chunk_ns == [] and answer.merged_reads is None


@pytest.mark.parametrize("path", STREAMS, ids=lambda path: path.stem)
async def test_over_the_wire_it_is_the_same(path: Path):
    body = path.read_bytes()
    whole = untimed(parse_answer(exchange_of([body])))
    ways = [
        chunked_answer(body),
        chunked_answer(body, at_once=True),
        sized_answer(body, content_type="application/json"),
    ]
    with FakeServer(ways) as server:
        client = Client(Target.parse(server.url), timeout_s=60)
        answers = [parse_answer(await client.send(b"{}", f"{n}")) for n in range(len(ways))]
        await client.close()
    assert [untimed(answer) for answer in answers] == [whole] * len(ways)
    # Written at once they came in one read, or a few: then events share their stamps.
    assert answers[1].merged_reads == len(answers[1].chunk_ns) - len(set(answers[1].chunk_ns))
