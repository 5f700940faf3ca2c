"""The framing gives back the body, however it was chunked and however it was cut."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fakeserver import LAST_CHUNK, chunk, head
from tests.kvload.exchanges import patient

from kvload.http1 import MAX_HEAD_BYTES, AnswerFraming, BadFraming, header_line, request_head

CHUNKED = head("200 OK", "Transfer-Encoding: chunked")


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """`data` in pieces, none of them empty."""
    marks = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[a:b] for a, b in itertools.pairwise(marks)]


def walk(reads: list[bytes]) -> tuple[AnswerFraming, bytes]:
    framing = AnswerFraming()
    return framing, b"".join(framing.walk(data) for data in reads)


places = st.lists(st.integers(0, 10_000), max_size=40)
bodies = st.lists(st.binary(min_size=1, max_size=300), max_size=12)


@patient
@given(bodies, places)
def test_any_chunking_cut_anywhere_gives_back_the_body(chunks: list[bytes], cuts: list[int]):
    wire = CHUNKED + b"".join(map(chunk, chunks)) + LAST_CHUNK
    framing, body = walk(cut(wire, cuts))
    assert body == b"".join(chunks)
    assert framing.complete and framing.keep_alive and framing.status == 200


@patient
@given(st.binary(max_size=400), places)
def test_any_sized_body_cut_anywhere_comes_back(body: bytes, cuts: list[int]):
    wire = head("200 OK", f"Content-Length: {len(body)}") + body
    framing, got = walk(cut(wire, cuts))
    assert got == body
    assert framing.complete and framing.keep_alive


@patient
@given(st.binary(max_size=400), places)
def test_a_body_without_a_length_ends_with_the_connection(body: bytes, cuts: list[int]):
    framing, got = walk(cut(head() + body, cuts))
    assert got == body
    assert not framing.complete and not framing.keep_alive
    assert framing.end_of_stream() and framing.complete


@patient
@given(st.binary(max_size=600), places, st.sampled_from([b"", b"HTTP/1.1 200 OK\r\n", CHUNKED]))
def test_garbage_is_refused_or_awaited_and_nothing_else(junk: bytes, cuts: list[int], start: bytes):
    framing = AnswerFraming()
    got = b""
    try:
        for data in cut(start + junk, cuts):
            got += framing.walk(data)
    except BadFraming:
        assert not framing.complete
    assert len(got) <= len(junk)


@patient
@given(bodies, places, st.integers(1, 400))
def test_a_cut_stream_is_never_complete(chunks: list[bytes], cuts: list[int], missing: int):
    wire = b"".join(map(chunk, chunks)) + LAST_CHUNK
    framing, _ = walk(cut(CHUNKED + wire[: max(0, len(wire) - missing)], cuts))
    assert not framing.complete
    assert not framing.end_of_stream()


def test_each_read_gives_the_bytes_that_came_with_it():
    wire = chunk(b"one") + chunk(b"two") + chunk(b"three")
    framing = AnswerFraming()
    framing.walk(CHUNKED)
    assert framing.walk(wire[:4]) == b"o"
    assert framing.walk(wire[4:17]) == b"netwo"
    assert framing.walk(wire[17:]) == b"three"
    assert framing.walk(LAST_CHUNK) == b""
    assert framing.complete


@pytest.mark.parametrize("size_line", [b"5", b"05", b"0005", b"5;a=b", b"5 ;a=b;c", b"5 "])
def test_sizes_as_servers_write_them(size_line: bytes):
    framing, body = walk([CHUNKED + size_line + b"\r\nhello\r\n" + LAST_CHUNK])
    assert (body, framing.complete) == (b"hello", True)


@pytest.mark.parametrize("size", [b"-5", b"+5", b"0x5", b"5_0", b"", b"g", b" ", b";x", b"f" * 16])
def test_what_is_no_size_ends_the_answer(size: bytes):
    for _ in range(2):  # a refused line must not be remembered as an accepted one
        with pytest.raises(BadFraming, match="not a chunk size"):
            walk([CHUNKED, size + b"\r\n" + b"x" * 80 + b"\r\n"])


def test_a_chunk_must_end_where_its_size_says():
    with pytest.raises(BadFraming, match="not by CRLF"):
        walk([CHUNKED, b"3\r\nabcd\r\n"])


def test_trailers_are_read_over():
    wire = CHUNKED + chunk(b"x") + b"0\r\nDigest: 1\r\nOther: 2\r\n\r\n"
    for at in range(1, len(wire)):
        framing, body = walk([wire[:at], wire[at:]])
        assert (body, framing.complete, framing.keep_alive) == (b"x", True, True)


def test_bytes_after_the_end_forbid_another_request():
    for wire in (
        CHUNKED + chunk(b"x") + LAST_CHUNK,
        head("200 OK", "Content-Length: 1") + b"x",
        head("200 OK", "Content-Length: 0"),
        head("204 No Content"),
    ):
        framing, _ = walk([wire])
        assert framing.complete and framing.keep_alive
        framing, body = walk([wire + b"HTTP"])
        assert framing.complete and not framing.keep_alive
        assert body in (b"x", b"")


def test_interim_answers_are_dropped():
    interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
    framing = AnswerFraming()
    framing.walk(interim)
    assert not framing.begun and framing.status is None
    wire = interim * 2000 + CHUNKED + chunk(b"x") + LAST_CHUNK
    for reads in ([wire], cut(wire, list(range(0, len(wire), 1000)))):
        framing, body = walk(reads)
        assert (framing.status, body, framing.complete) == (200, b"x", True)


def test_headers_are_joined_and_in_lower_case():
    framing, _ = walk(
        [b"HTTP/1.1 404 Not  Here\r\nX-A: 1\r\nx-a:2\r\nX-B:\r\nContent-Length: 0\r\n\r\n"]
    )
    assert framing.headers == {"x-a": "1, 2", "x-b": "", "content-length": "0"}
    assert (framing.status, framing.reason) == (404, "Not  Here")


def test_a_status_without_its_words_gets_them():
    assert walk([b"HTTP/1.1 404\r\n\r\n"])[0].reason == "Not Found"
    assert walk([b"HTTP/1.1 299\r\n\r\n"])[0].reason == ""


@pytest.mark.parametrize(
    ("lines", "kept"),
    [
        ("HTTP/1.1 200 OK", True),
        ("HTTP/1.1 200 OK\r\nConnection: close", False),
        ("HTTP/1.1 200 OK\r\nConnection: Keep-Alive, Close", False),
        ("HTTP/1.0 200 OK", False),
        ("HTTP/1.0 200 OK\r\nConnection: keep-alive", True),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked", False),
    ],
)
def test_when_a_connection_may_be_used_again(lines: str, kept: bool):
    wire = f"{lines}\r\nContent-Length: 5\r\n\r\n0\r\n\r\n".encode()
    framing, _ = walk([wire])
    assert framing.complete
    assert framing.keep_alive is kept


@pytest.mark.parametrize(
    ("wire", "why"),
    [
        (b"SSH-2.0-OpenSSH\r\n\r\n", "not an HTTP/1.1 answer"),
        (b"HTTP/2 200\r\n\r\n", "not an HTTP/1.1 answer"),
        (b"HTTP/1.1 OK\r\n\r\n", "status line"),
        (b"HTTP/1.1 101 Switching\r\n\r\n", "switched protocols"),
        (b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n", "header line"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1x\r\n\r\n", "content-length"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", "content-length"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", "not understood"),
        (b"HTTP/1.1 200 OK\r\nA: " + b"x" * MAX_HEAD_BYTES, "exceeds"),
        (CHUNKED + b"1" * 5000, "exceeds"),
        (CHUNKED + b"0\r\n" + b"x" * 5000, "exceeds"),
    ],
)
def test_what_is_not_understood_is_refused(wire: bytes, why: str):
    with pytest.raises(BadFraming, match=why):
        walk([wire])


def test_what_was_cut_is_told():
    assert AnswerFraming().where() == "before the answer"
    assert walk([b"HTTP/1.1 2"])[0].where() == "in the middle of the answer's head"
    assert walk([CHUNKED + b"5\r\nab"])[0].where() == "in the middle of the answer's body"


def test_a_request_head_is_what_was_asked_for():
    made = request_head("/v1/x?a=b", [("Host", "h:1"), ("X-Name", " vé ")])
    assert made == b"POST /v1/x?a=b HTTP/1.1\r\nHost: h:1\r\nX-Name: v\xe9\r\n"


@pytest.mark.parametrize(
    ("name", "value"),
    [("A", "b\r\nC: d"), ("A", "b\n"), ("A", "\0"), ("A:", "b"), ("", "b"), ("A", "€")],
)
def test_nothing_is_smuggled_into_a_head(name: str, value: str):
    with pytest.raises(ValueError):
        header_line(name, value)


@pytest.mark.parametrize("path", ["/a b", "/a\r\nX: y", "/é"])
def test_a_path_that_cannot_be_sent(path: str):
    with pytest.raises(ValueError, match="not a request path"):
        request_head(path, [])
