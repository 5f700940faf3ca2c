"""JSON lines at the door: a line becomes a typed record or one clear complaint.

Reading is by msgspec, which is as strict as the schemas; jsonschema is only asked for the words
when a line is refused. A complaint begins with the place (`run.jsonl:812: `), as compilers do,
because editors and people jump to it.
"""

from __future__ import annotations

import gzip
import json
import re
import sys
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import IO, Any, BinaryIO, TypeVar, cast

import msgspec

from kvpipe.process import ToolError, UsageError, lower_first
from kvpipe.records import SCHEMA_VERSION, AnyRecord

T = TypeVar("T")

NOT_JSON = (msgspec.DecodeError, ValueError, RecursionError)
"""What decoders raise for what is no JSON that can be read: msgspec looks at the UTF-8 of keys with
an error of Python's own, and what is nested too deep ends in Python's stack."""

_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[AnyRecord] = msgspec.json.Decoder(AnyRecord)

# A version that is not told is not version 1. The typed decoder would fill it in: so it is looked
# for where every writer puts it, and only a line of another order costs a second decoding.
_WRITTEN = b'{"record":"request","schema":'
_envelope = re.compile(rb'\s*\{\s*"record"\s*:\s*"\w+"\s*,\s*"schema"\s*:')


def encode(record: object) -> bytes:
    """The record as one line, newline included."""
    return _encoder.encode(record) + b"\n"


def write_record(record: object, out: BinaryIO | None = None) -> None:
    """Write one line and flush it, so that `tee` and `head` see it live."""
    stream = out or sys.stdout.buffer
    stream.write(encode(record))
    stream.flush()


@contextmanager
def open_lines(path: str | None) -> Iterator[tuple[str, IO[bytes]]]:
    """Open `path` for reading, `-` and None being stdin, gzip by its magic; yields (name, stream).

    Raises UsageError when stdin would be read from a terminal: a tool must not sit there silently;
    ToolError where compressed data is cut short or broken, and the reader has no word of its own.
    """
    if path is None or path == "-":
        if sys.stdin.isatty():
            raise UsageError("nothing to read: pipe records in, or name a file (see --help)")
        with _unpacked(cast("BufferedReader", sys.stdin.buffer), "stdin") as stream:
            yield "stdin", stream
        return
    with Path(path).open("rb") as raw, _unpacked(raw, path) as stream:
        yield path, stream


@contextmanager
def _unpacked(raw: BufferedReader, name: str) -> Iterator[IO[bytes]]:
    """The stream, through gzip if it begins as gzip does."""
    if raw.peek(2)[:2] != b"\x1f\x8b":
        yield raw
        return
    try:
        yield cast("IO[bytes]", gzip.GzipFile(fileobj=raw))
    except EOFError as error:
        raise ToolError(f"{name}: the compressed data is cut short") from error
    except (zlib.error, gzip.BadGzipFile) as error:
        raise ToolError(f"{name}: broken compressed data: {lower_first(str(error))}") from error


def json_object(text: object) -> dict[str, Any]:
    """The JSON object in what a server said; empty for anything else."""
    try:
        value = json.loads(text) if isinstance(text, str) else None
    except NOT_JSON:
        return {}
    return value if isinstance(value, dict) else {}


def decode_line(line: bytes, place: str) -> AnyRecord:
    """The record of one line; ToolError with the place and the key if it is none."""
    try:
        record = _decoder.decode(line)
    except NOT_JSON as error:
        raise ToolError(f"{place}: {explain(line, str(error))}") from error
    if line.startswith(_WRITTEN):  # nearly every line there is
        return record
    if not _envelope.match(line) and "schema" not in msgspec.json.decode(line):
        raise ToolError(f"{place}: {explain(line, 'no `schema`')}")
    return record


def read_records(stream: Iterable[bytes], name: str) -> Iterator[AnyRecord]:
    """Every record of a stream, blank lines skipped; ToolError at the first bad line."""
    for number, line in enumerate(stream, 1):
        if line.strip():
            yield decode_line(line, f"{name}:{number}")


def explain(line: bytes, reason: str) -> str:
    """What is wrong with a refused line, naming record and key where jsonschema can tell."""
    try:
        value: Any = msgspec.json.decode(line)
    except NOT_JSON as error:
        return f"not a JSON line: {str(error).lower()} (is the file cut short, or another format?)"
    if not isinstance(value, dict) or not isinstance(value.get("record"), str):
        return "not a record: an object with a `record` key is expected"
    kind = value["record"]
    if value.get("schema", SCHEMA_VERSION) != SCHEMA_VERSION:
        found = value["schema"]
        return (
            f"{kind}: 'schema': version {found} is not {SCHEMA_VERSION}, which this version reads"
        )
    from kvschemas import first_problem  # costs an import that good input never pays

    return f"{kind}: {first_problem(kind, value) or reason}"


def decode_as(kind: type[T], data: bytes, place: str) -> T:
    """`data` as one `kind`; ToolError with the place and the reason if it is not."""
    try:
        return msgspec.json.decode(data, type=kind)
    except NOT_JSON as error:
        raise ToolError(f"{place}: {lower_first(str(error))}") from error
