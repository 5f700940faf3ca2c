"""The client's eyes: whatever comes over the wire is an answer, a failure, and a valid record."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from tests.fakeserver import LAST_CHUNK, Close, FakeServer, Received, Reply, Reset, chunk, head
from tests.fuzz.fuzzing import fuzzed
from tests.fuzz.mutation import broken, broken_object, text_of
from tests.kvload.exchanges import untimed

from kvload.answer import parse_answer
from kvload.bodies import Prepared
from kvload.client import Client, Target
from kvload.drafts import Ended, RoundFacts, draft_of
from kvload.exchange import Exchange
from kvload.http1 import AnswerFraming, BadFraming
from kvpipe.jsonl import decode_line, encode
from kvpipe.records import Planned
from kvschemas import first_problem

CAPTURES = Path(__file__).parents[1] / "data" / "captures"
STREAMS = [path.read_bytes() for path in sorted(CAPTURES.glob("vllm_*.sse"))]
# Of an answer that was not streamed the first line holds its head.
BODIES = [path.read_bytes().partition(b"\n")[2] for path in sorted(CAPTURES.glob("vllm_*.json"))]
OBJECTS: list[Any] = [json.loads(data) for data in BODIES if data.startswith(b"{")]
CHUNKS: list[Any] = [
    json.loads(line[6:])
    for body in STREAMS
    for line in body.split(b"\n")
    if line.startswith(b"data: {")
]
HEADS = [
    head("200 OK", "transfer-encoding: chunked"),
    head("200 OK", "Transfer-Encoding: Chunked", "Connection: close"),
    head("200 OK"),
    head("200 OK", "content-encoding: gzip"),
    head("503 Service Unavailable", "retry-after: 1"),
    head("307 Temporary Redirect", "location: http://u:p@elsewhere/"),
    b"HTTP/1.0 200\n\n",
    b"HTTP/1.1 100 Continue\r\n\r\n" + head("200 OK"),
    head("204 No Content"),
]

ANSWERS = [HEADS[0] + chunk(body) + LAST_CHUNK for body in STREAMS]

ends = st.sampled_from(["\n\n", "\r\n\r\n", "\r\r", "\n", "\n\n\n"])
extras = st.sampled_from(
    ["", ": ping\n\n", "event: x\nid: 1\n", "retry: 1\r\n", "\ufeff", "data\n"]
)


@st.composite
def events(draw: st.DrawFn) -> bytes:
    """A stream: chunks of real ones with values changed, comments, several data lines, any end."""
    made = b""
    for extra, end, data in draw(
        st.lists(st.tuples(extras, ends, broken_object(CHUNKS)), max_size=5)
    ):
        joined = data.replace(b', "', b',\ndata: "', 1) if len(data) % 5 == 0 else data
        made += extra.encode() + b"data: " + joined + end.encode()
    return made + (b"data: [DONE]\n\n" if draw(st.booleans()) else b"")


@st.composite
def wires(draw: st.DrawFn) -> bytes:
    """An answer as it comes over the wire: framing and body, either of them damaged."""
    body = draw(st.one_of(events(), broken(st.sampled_from(STREAMS)), broken_object(OBJECTS)))
    start = draw(st.sampled_from(HEADS))
    if b"chunked" in start.lower():
        size = draw(st.integers(1, 2000))
        pieces = [body[at : at + size] for at in range(0, len(body), size)]
        wire = start + b"".join(map(chunk, pieces)) + LAST_CHUNK
    elif draw(st.booleans()):
        wire = head("200 OK", f"content-length: {len(body)}") + body
    else:
        wire = start + body
    return draw(broken(st.just(wire), 2))


cuts = st.lists(st.integers(0, 40_000), max_size=12)
FACTS = RoundFacts(
    run_id="r",
    endpoint_url="http://h",
    origin_ns=0,
    floor_tokens=None,
    keep_output=True,
)
PLANNED = Planned(index=0, prompt="x", max_tokens=1, stratum="unique")
PREPARED = Prepared(planned=PLANNED, body=b"{}", request_id="r-0")


def pieces(data: bytes, places: Sequence[int]) -> list[bytes]:
    """`data` cut at these places; none is empty."""
    marks = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[a:b] for a, b in itertools.pairwise(marks)]


def exchange_of(reads: Sequence[bytes]) -> tuple[Exchange, bool]:
    """What the client makes of these reads and the end of the connection; whether it was framed."""
    exchange, framing, framed = Exchange(), AnswerFraming(), True
    for number, data in enumerate(reads, 1):
        try:
            exchange.raw.append((0, number * 1000, framing.walk(data)))
        except BadFraming as problem:
            exchange.raw.append((0, number * 1000, problem.body))
            exchange.error_kind, exchange.error = "stream_error", str(problem)
            framed = False
            break
        if framing.complete:
            break
    if framed and not framing.end_of_stream():
        exchange.error_kind, exchange.error = "truncated", framing.where()
    exchange.ended_ns = (len(reads) + 1) * 1000
    exchange.status, exchange.reason = framing.status, framing.reason
    exchange.headers = framing.headers
    return exchange, framed


def recorded(exchange: Exchange) -> None:
    """The record that kvload would write of it is one that every reader takes."""
    item = Ended(prepared=PREPARED, exchange=exchange, scheduled_ns=0, ready_ns=0, start_ns=0)
    line = encode(draft_of(item, FACTS).record)
    decode_line(line, "line")
    value = json.loads(line)
    assert first_problem("request", value) is None


@fuzzed(st.tuples(wires(), cuts), examples=150)
def test_any_answer_cut_anywhere(case: tuple[bytes, list[int]]) -> None:
    """Answers over HTTP, damaged and cut: no exception, one answer, a valid record"""
    wire, places = case
    at_once, framed = exchange_of([wire] if wire else [])
    in_pieces, also = exchange_of(pieces(wire, places))
    assert framed == also
    first, second = untimed(parse_answer(at_once)), untimed(parse_answer(in_pieces))
    for one in (first, second):
        # Where nothing came, or only the head, some reads were empty.
        one["nulls"].discard("reads")
        if not framed:
            one.pop("error")  # it quotes what came with the read
    assert first == second
    recorded(at_once)
    recorded(in_pieces)


@fuzzed(st.tuples(broken(st.binary(max_size=200) | st.sampled_from(ANSWERS)), cuts), examples=100)
def test_any_bytes(case: tuple[bytes, list[int]]) -> None:
    """Bytes that need not be an answer at all, cut anywhere"""
    wire, places = case
    recorded(exchange_of(pieces(wire, places))[0])


@fuzzed(st.tuples(events(), cuts), examples=150)
def test_any_events(case: tuple[bytes, list[int]]) -> None:
    """Event streams behind a good head: the same answer wherever they are cut"""
    body, places = case
    wire = HEADS[0] + b"".join(map(chunk, [body] if body else [])) + LAST_CHUNK
    first, second = exchange_of([wire])[0], exchange_of(pieces(wire, places))[0]
    assert untimed(parse_answer(first)) == untimed(parse_answer(second))
    recorded(second)


@fuzzed(
    st.lists(
        st.tuples(wires() | st.sampled_from(ANSWERS), cuts, st.booleans()), min_size=1, max_size=4
    ),
    examples=15,
)
def test_any_server(cases: list[tuple[bytes, list[int], bool]]) -> None:
    """The real client and a real socket, several answers on what is left of a connection"""
    replies: list[Reply] = [
        [*pieces(wire, places), Reset() if reset else Close()] for wire, places, reset in cases
    ]

    def reply(request: Received) -> Reply:
        return replies[int(request.headers["x-request-id"])]

    async def ask(url: str) -> list[Exchange]:
        client = Client(Target.parse(url), timeout_s=30)
        try:
            return [await client.send(b"{}", str(number)) for number in range(len(replies))]
        finally:
            await client.close()

    with FakeServer(reply) as server:
        for exchange in asyncio.run(ask(server.url)):
            assert exchange.error_kind not in ("timeout", "cancelled")
            recorded(exchange)


def test_the_pieces_are_put_in_by_name() -> None:
    assert text_of({"a": "@nan@", "b": ["@inf@"]}) == '{"a": NaN, "b": [Infinity]}'
    assert STREAMS and CHUNKS and OBJECTS
