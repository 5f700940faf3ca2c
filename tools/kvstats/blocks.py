"""Whole lines by the megabyte, and the requests in them decoded at one go.

Nearly every line of a long stream is a request as kvload writes it. A block of nothing else is
decoded at once; any other, and one in which anything is wrong, is for the reader of single lines,
which knows every case and names the place.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from io import BufferedIOBase
from typing import IO, Any, cast, get_type_hints

import msgspec
import numpy as np

from kvpipe.jsonl import NOT_JSON
from kvpipe.process import ToolError, complain
from kvpipe.records import Request

BLOCK = 1 << 19  # bytes: some 350 requests of 16 chunks, and what they become fits a cache
_NEWLINE, _OPENS, _CLOSES = b"\n{}"


def blocks_of(stream: IO[bytes], name: str) -> Iterator[bytes]:
    """The stream in pieces of whole lines; the last one may lack its newline.

    Compressed data that breaks off is a stream cut short.
    """
    rest: list[bytes] = []  # no newline in it
    ends = False
    while not ends:
        parts: list[bytes] = []
        size = 0
        while size < BLOCK and not ends:
            part = _read(stream, BLOCK - size, name)
            ends = not part
            size += len(part)
            parts.append(part)
        data = b"".join(parts)
        end = len(data) if ends else data.rfind(b"\n") + 1
        rest.append(data[:end])
        if end or ends:
            whole = b"".join(rest)
            if whole:
                yield whole
            rest = []
        rest.append(data[end:])


def _read(stream: IO[bytes], size: int, name: str) -> bytes:
    """What there is, at most `size`; nothing at the end."""
    try:
        return cast("BufferedIOBase", stream).read1(size)
    except EOFError:
        complain(f"{name}: the compressed data is cut short", "kvstats")
        return b""
    except zlib.error as error:
        raise ToolError(f"{name}: broken compressed data: {error}") from error


def lines_of(block: bytes) -> int:
    """How many newlines there are; six times as fast as `bytes.count`."""
    return int(np.count_nonzero(np.frombuffer(block, dtype=np.uint8) == _NEWLINE))


def requests_of(block: bytes) -> list[Request] | None:
    """The requests of a block; None if it is not made of them alone, one a line."""
    found = np.frombuffer(block, dtype=np.uint8)
    ends = np.flatnonzero(found == _NEWLINE)
    if not len(ends) or ends[-1] + 1 < len(block):
        return None
    # `}` and `{` with nothing but a newline between them: in JSON that is the end of one thing and
    # the beginning of the next, and nowhere inside of one.
    if (found[ends - 1] != _CLOSES).any() or (found[ends[:-1] + 1] != _OPENS).any():
        return None
    try:
        requests = _decoder.decode_lines(block)
    except NOT_JSON:
        return None
    return requests if len(requests) == len(ends) else None


def _reading() -> type[Request]:
    """Request as kvstats reads it: the same fields, checked alike.

    `schema` must be there, as everywhere; objects that no metric looks into are not built.
    """
    thing = msgspec.defstruct("Thing", [])  # any object
    unread: dict[str, Any] = {"usage": thing | None}
    kinds = get_type_hints(Request, include_extras=True) | unread
    made = [
        (one.name, kinds[one.name])
        if one.required or one.name == "schema"
        else (one.name, kinds[one.name], one.default)
        for one in msgspec.structs.fields(Request)
    ]
    struct = msgspec.defstruct(
        "Request", made, frozen=True, kw_only=True, forbid_unknown_fields=True, gc=False,
        tag_field="record", tag="request",
    )  # fmt: skip
    return cast("type[Request]", struct)


_decoder: msgspec.json.Decoder[Request] = msgspec.json.Decoder(_reading())
