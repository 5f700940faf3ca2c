"""HTTP/1.1 as bytes: the head of a request, and an answer's body out of its framing.

No socket and no clock: bytes go in as they were read, body bytes come out. It refuses what it
does not understand instead of guessing: a length that is not a number ends the answer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from http import HTTPStatus

MAX_HEAD_BYTES = 64 * 1024
_MAX_SIZE_LINE = 4 * 1024
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9]{2})(?: ([^\r\n]*))?")
_HEAD_END = re.compile(rb"\r?\n\r?\n")
_HEX = re.compile(rb"[0-9A-Fa-f]{1,15}")
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")

# Chunk sizes repeat: a look-up is cheaper than checking and converting, and it is bounded.
_SIZES: dict[bytes, int] = {}
_SIZES_KEPT = 4096


class BadFraming(Exception):
    """The answer is not HTTP/1.1 as we understand it; the message says what was seen.

    `body`: what the same read held of the body before that.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.body = b""


def header_line(name: str, value: str) -> str:
    """One line of a head; ValueError if it could smuggle another line in or cannot be sent."""
    if not _TOKEN.fullmatch(name):
        raise ValueError(f"not a header name: {name!r}")
    value = value.strip(" \t")
    if any(ord(sign) < 32 or ord(sign) == 127 for sign in value if sign != "\t"):
        raise ValueError(f"control character in the value of header {name}")
    try:
        value.encode("latin-1")
    except UnicodeEncodeError:
        raise ValueError(f"header {name} has a value outside of latin-1") from None
    return f"{name}: {value}\r\n"


def request_head(path: str, headers: Sequence[tuple[str, str]]) -> bytes:
    """The part of a POST's head that is the same for every request; it ends after a line."""
    if re.search(r"[\s\x00-\x1f\x7f]", path) or not path.isascii():
        raise ValueError(f"not a request path: {path!r}")
    lines = [f"POST {path} HTTP/1.1\r\n", *(header_line(*header) for header in headers)]
    return "".join(lines).encode("latin-1")


class AnswerFraming:
    """Walks one answer: `walk(data)` takes a read and returns the body bytes that were in it.

    `status` and `headers` (names in lower case, repeated ones joined by a comma) are set once the
    head is through; `complete` once the body is. Interim answers (1xx) are dropped. `keep_alive`
    says whether the connection may serve another request. `BadFraming` ends it.
    """

    __slots__ = (
        "_close_ends",
        "_http10",
        "_left",
        "_tail",
        "begun",
        "complete",
        "headers",
        "keep_alive",
        "reason",
        "status",
        "walk",
    )

    def __init__(self) -> None:
        self.status: int | None = None
        self.reason = ""
        self.headers: dict[str, str] = {}
        self.begun = False  # a byte of the final answer was seen
        self.complete = False
        self.keep_alive = False
        self._http10 = False
        self._close_ends = False
        self._left = 0  # bytes of the body, or of the chunk and its CRLF, still to come
        self._tail = b""  # an unfinished head, size line or trailer
        self.walk: Callable[[bytes], bytes] = self._walk_head

    def end_of_stream(self) -> bool:
        """The connection was closed: true if that is a legitimate end of this answer."""
        if self._close_ends and not self.complete:
            self.complete = True
        return self.complete

    def release(self) -> None:
        """Nothing more comes: let go of itself, for no garbage is collected while a round runs."""
        self.walk = _nothing

    def where(self) -> str:
        """What was being read, for the message about an answer cut short."""
        if self.status is None:
            return "in the middle of the answer's head" if self.begun else "before the answer"
        return "in the middle of the answer's body"

    def _walk_head(self, data: bytes) -> bytes:
        start = max(0, len(self._tail) - 3)  # an end of the head may straddle two reads
        data, self._tail = self._tail + data, b""
        while data:
            self.begun = True
            if not b"HTTP/1.".startswith(data[:7]):
                raise BadFraming(f"not an HTTP/1.1 answer: {data[:40]!r}")
            end = _HEAD_END.search(data, start)
            if len(data if end is None else data[: end.start()]) > MAX_HEAD_BYTES:
                raise BadFraming(f"the answer's head exceeds {MAX_HEAD_BYTES} bytes")
            if end is None:
                self._tail = data
                return b""
            self._read_head(data[: end.start()])
            data, start = data[end.end() :], 0
            if self.status is not None:
                self._choose_walk()
                return self._refuse_rest(data) if self.complete else self.walk(data)
            self.begun = False  # that was an interim answer: the final one is still to come
        return b""

    def _refuse_rest(self, rest: bytes) -> bytes:
        """Bytes after the end: the connection cannot be trusted with another request."""
        if rest:
            self.keep_alive = False
        return b""

    def _read_head(self, head: bytes) -> None:
        lines = head.replace(b"\r\n", b"\n").split(b"\n")
        line = _STATUS_LINE.fullmatch(lines[0])
        if line is None:
            raise BadFraming(f"not an HTTP/1.1 status line: {lines[0][:40]!r}")
        status = int(line[2])
        if 100 <= status < 200:
            if status == 101:
                raise BadFraming("the server switched protocols, which was not asked for")
            return
        headers: dict[str, str] = {}
        for raw in lines[1:]:
            name, colon, value = raw.decode("latin-1").partition(":")
            if not colon or not _TOKEN.fullmatch(name):
                raise BadFraming(f"not a header line: {raw[:40]!r}")
            key, value = name.lower(), value.strip()
            headers[key] = f"{headers[key]}, {value}" if key in headers else value
        self._http10 = line[1] == b"0"
        self.status, self.headers = status, headers
        self.reason = (line[3] or b"").decode("latin-1").strip() or _phrase(status)

    def _choose_walk(self) -> None:
        """Where the body ends, by RFC 9112 section 6.3."""
        options = {part.strip().lower() for part in self.headers.get("connection", "").split(",")}
        self.keep_alive = "keep-alive" in options if self._http10 else "close" not in options
        coding = self.headers.get("transfer-encoding")
        length = self.headers.get("content-length")
        if self.status in (204, 304):
            self.complete = True
        elif coding is not None:
            if coding.strip().lower() != "chunked":
                raise BadFraming(f"transfer-encoding {coding!r} is not understood")
            if length is not None:
                self.keep_alive = False  # two lengths: RFC 9112 wants the connection closed
            self.walk = self._walk_chunks
        elif length is not None:
            self._left = _content_length(length)
            self.complete = self._left == 0
            self.walk = self._walk_sized
        else:
            self.keep_alive = False
            self._close_ends = True
            self.walk = self._walk_until_close

    def _walk_until_close(self, data: bytes) -> bytes:
        return data

    def _walk_sized(self, data: bytes) -> bytes:
        left = self._left
        size = len(data)
        if size < left:
            self._left = left - size
            return data
        if size > left:
            self.keep_alive = False
        self._left = 0
        self.complete = True
        self.walk = self._walk_past
        return data[:left]

    def _walk_past(self, data: bytes) -> bytes:
        return self._refuse_rest(data)

    def _walk_chunks(self, data: bytes) -> bytes:
        """The common case: reads of whole chunks, as the server's writes made them."""
        if self._left or self._tail:
            return self._walk_pieces(data)
        pieces: list[bytes] = []
        at, end = 0, len(data)
        while True:
            line_end = data.find(b"\r\n", at, at + 20)
            size = _SIZES.get(data[at:line_end]) if line_end > 0 else None
            if not size:
                break
            begin = line_end + 2
            stop = begin + size
            if data[stop : stop + 2] != b"\r\n":
                break
            if not at and stop + 2 == end:
                return data[begin:stop]
            pieces.append(data[begin:stop])
            at = stop + 2
        if at < end:
            try:
                pieces.append(self._walk_pieces(data[at:] if at else data))
            except BadFraming as problem:
                problem.body = b"".join((*pieces, problem.body))
                raise
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _walk_pieces(self, data: bytes) -> bytes:
        """Any cut at all. `_left` counts what is left of a chunk together with its CRLF."""
        if self._tail:
            data, self._tail = self._tail + data, b""
        pieces: list[bytes] = []
        try:
            self._take_pieces(data, pieces)
        except BadFraming as problem:
            problem.body = b"".join(pieces)
            raise
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _take_pieces(self, data: bytes, pieces: list[bytes]) -> None:
        left = self._left
        at, end = 0, len(data)
        while at < end:
            if left > 2:
                piece = data[at : at + left - 2]
                pieces.append(piece)
                at += len(piece)
                left -= len(piece)
            elif left:
                expected = b"\r\n"[2 - left :]
                found = data[at : at + left]
                if not expected.startswith(found):
                    raise BadFraming(f"a chunk is followed by {found!r}, not by CRLF")
                at += len(found)
                left -= len(found)
            else:
                line_end = data.find(b"\n", at)
                if line_end < 0:
                    self._keep_tail(data[at:])
                    break
                size = _chunk_size(_short(data[at:line_end]))
                at = line_end + 1
                if not size:
                    self.walk = self._walk_trailer
                    self._left = 0
                    self._walk_trailer(data[at:])
                    return
                left = size + 2
        self._left = left

    def _walk_trailer(self, data: bytes) -> bytes:
        """Lines after the last chunk, up to an empty one; nothing in them is of use here."""
        data, self._tail = self._tail + data, b""
        at = 0
        while (line_end := data.find(b"\n", at)) >= 0:
            empty = _short(data[at:line_end]) in (b"", b"\r")
            at = line_end + 1
            if empty:
                self.complete = True
                self.walk = self._walk_past
                return self._refuse_rest(data[at:])
        self._keep_tail(data[at:])
        return b""

    def _keep_tail(self, tail: bytes) -> None:
        self._tail = _short(tail)


def _nothing(_data: bytes) -> bytes:
    return b""


def _short(line: bytes) -> bytes:
    """A line of the chunked framing, or its beginning; refused if too long, however it came."""
    if len(line) > _MAX_SIZE_LINE:
        raise BadFraming(f"a line of the chunked framing exceeds {_MAX_SIZE_LINE} bytes")
    return line


def _content_length(text: str) -> int:
    lengths = {part.strip() for part in text.split(",")}
    length = lengths.pop()
    if lengths or not re.fullmatch(r"[0-9]{1,18}", length, re.ASCII):
        raise BadFraming(f"content-length {text[:40]!r} is not a number")
    return int(length)


def _chunk_size(line: bytes) -> int:
    """Size in a chunk's first line, without its extensions (RFC 9112 section 7.1)."""
    line = line.removesuffix(b"\r")
    digits = line.partition(b";")[0].strip(b" \t")
    if not _HEX.fullmatch(digits):
        raise BadFraming(f"not a chunk size: {line[:40]!r}")
    size = int(digits, 16)
    if len(_SIZES) < _SIZES_KEPT:
        _SIZES[line] = size
    return size


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""
