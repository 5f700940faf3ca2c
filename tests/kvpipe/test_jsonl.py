"""Lines at the door: what is read, and the words for what is refused."""

from __future__ import annotations

import gzip
import io
import subprocess
import sys
from pathlib import Path

import pytest

from kvpipe import jsonl
from kvpipe.process import ToolError
from kvpipe.records import Block, End, Finding, Planned

END = End(run_id="r", complete=True, planned=1, sent=1, ok=1, failed=0, wall_s=1.5)


def test_a_record_is_one_line_with_its_envelope_first() -> None:
    line = jsonl.encode(END)
    assert line.startswith(b'{"record":"end","schema":1,')
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")


def test_text_of_any_kind_stays_on_its_line_and_comes_back() -> None:
    text = "新 \u2028\n\r\0 \U0001f310 \\n"
    planned = Planned(index=0, stratum="unique", prompt=text, max_tokens=1)
    line = jsonl.encode(planned)
    assert line.count(b"\n") == 1
    assert jsonl.decode_line(line, "here") == planned


def test_absent_is_written_as_null() -> None:
    assert b'"reason":null' in jsonl.encode(END)


def test_a_link_of_a_prompt_is_a_pair() -> None:
    block = Block(id="context-0", tokens=2660)
    planned = Planned(index=0, stratum="leader", prompt="x", max_tokens=1, blocks=[block])
    assert b'"blocks":[["context-0",2660]]' in jsonl.encode(planned)


def test_writing_flushes_each_line() -> None:
    class Stream(io.BytesIO):
        flushed = 0

        def flush(self) -> None:
            self.flushed += 1

    stream = Stream()
    jsonl.write_record(END, stream)
    jsonl.write_record(END, stream)
    assert stream.flushed == 2
    assert list(jsonl.read_records(stream.getvalue().splitlines(), "s")) == [END, END]


def test_blank_lines_are_nothing_and_are_counted() -> None:
    stream = [b"\n", jsonl.encode(END), b"  \n", b"{}\n"]
    records = jsonl.read_records(stream, "run.jsonl")
    assert next(records) == END
    with pytest.raises(ToolError, match=r"^run\.jsonl:4: not a record"):
        next(records)


def test_no_lines_are_no_records() -> None:
    assert list(jsonl.read_records([], "empty")) == []


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"hello", "not a JSON line"),
        (b'{"record":"end","schema":1,"run_id":"r"', "cut short"),
        (b"[1]", "not a record: an object with a `record` key is expected"),
        (b'{"scenario":"x"}', "not a record"),
        (b'{"record":7}', "not a record"),
        (b'{"record":"ending","schema":1}', "`ending` is no record"),
        (b'{"record":"end"}', "'schema'"),
        (b'{"record":"end","schema":2}', "version 2 is not 1"),
        (b'{"record":"end","schema":1}', "end: 'run_id' is a required property"),
        (jsonl.encode(END).replace(b"1.5", b'"1.5"'), "end: 'wall_s': '1.5' is not of type 'numb"),
        (jsonl.encode(END).replace(b"1.5", b"-1.5"), "end: 'wall_s': -1.5 is less than"),
        (jsonl.encode(END).replace(b"wall_s", b"wall_z"), "wall_"),
        (jsonl.encode(END).replace(b"1.5", b"NaN"), "not a JSON line"),
        (b"\xff\xfe", "not a JSON line"),
    ],
)
def test_a_refused_line_says_where_and_what(line: bytes, words: str) -> None:
    with pytest.raises(ToolError) as caught:
        jsonl.decode_line(line, "run.jsonl:812")
    message = str(caught.value)
    assert message.startswith("run.jsonl:812: ")
    assert words in message
    assert "\n" not in message
    assert caught.value.status == 2


@pytest.mark.parametrize(
    "line",
    [
        b'  {"record" : "end" , "schema" : 1 ,',
        b'{"schema":1,"record":"end",',
        b'{"complete":true,"schema":1,"record":"end",',
    ],
)
def test_spaces_and_order_of_keys_do_not_matter(line: bytes) -> None:
    """`jq -S` sorts the keys, `json.dumps` puts spaces."""
    rest = jsonl.encode(END).removeprefix(b'{"record":"end","schema":1,')
    if b"complete" in line:
        rest = rest.replace(b'"complete":true,', b"")
    assert jsonl.decode_line(line + rest, "here") == END


def test_a_version_inside_is_not_the_versions_of_the_line() -> None:
    """A nested record's `schema` must not make up for a line that has none."""
    line = b'{"record":"end","findings":[{"code":"errors","severity":"info","message":"m",'
    line += b'"evidence":{"schema":1}}],"run_id":"r","complete":true,"planned":1,"sent":1,'
    line += b'"ok":1,"failed":0,"wall_s":1}'
    with pytest.raises(ToolError, match="'schema' is a required property"):
        jsonl.decode_line(line, "here")


def test_plain_and_gzipped_files_are_read_alike(tmp_path: Path) -> None:
    plain, packed = tmp_path / "run.jsonl", tmp_path / "run.of.any.name"
    plain.write_bytes(jsonl.encode(END))
    packed.write_bytes(gzip.compress(jsonl.encode(END)))
    for path in (plain, packed):
        with jsonl.open_lines(str(path)) as (name, stream):
            assert name == str(path)
            assert list(jsonl.read_records(stream, name)) == [END]


def test_a_gzipped_file_that_is_cut_short_or_broken_is_named(tmp_path: Path) -> None:
    packed = bytearray(gzip.compress(jsonl.encode(END) * 30))
    path = tmp_path / "run.jsonl.gz"
    flipped = bytes([*packed[:-6], packed[-6] ^ 1, *packed[-5:]])
    for data, words in (
        (packed[:-9], "the compressed data is cut short"),
        (packed[:10] + b"\xff" * 40, "broken compressed data: error"),
        (flipped, "broken compressed data: CRC check failed"),
    ):
        path.write_bytes(data)
        with (
            pytest.raises(ToolError, match=words) as caught,
            jsonl.open_lines(str(path)) as (_, stream),
        ):
            stream.read()
        assert str(caught.value).startswith(f"{path}: ")


def test_standard_input_may_be_gzipped_too() -> None:
    program = "from kvpipe.jsonl import *\nwith open_lines('-') as (name, stream):"
    program += "\n    for record in read_records(stream, name): write_record(record)"
    for data in (jsonl.encode(END) * 3, gzip.compress(jsonl.encode(END) * 3), b""):
        done = subprocess.run([sys.executable, "-c", program], input=data, capture_output=True)
        assert (done.returncode, done.stderr) == (0, b"")
        assert done.stdout == (jsonl.encode(END) * 3 if data else b"")


def test_an_empty_file_has_no_lines(tmp_path: Path) -> None:
    path = tmp_path / "empty"
    path.touch()
    with jsonl.open_lines(str(path)) as (name, stream):
        assert list(jsonl.read_records(stream, name)) == []


def test_a_part_of_a_record_is_read_by_its_type() -> None:
    with pytest.raises(ToolError, match=r"^r1\.json: invalid enum value 'strange'.*code"):
        jsonl.decode_as(Finding, b'{"code":"strange","severity":"info","message":"m"}', "r1.json")
