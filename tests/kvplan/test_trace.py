"""Reading traces: two forms, and complaints that name file, line and key."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from kvpipe.jsonl import open_lines
from kvpipe.process import ToolError
from kvplan.trace import MOONCAKE, QWEN, Selection, TraceForm, TraceLine, read_trace


def lines(*rows: dict[str, Any]) -> list[bytes]:
    return [json.dumps(row).encode() + b"\n" for row in rows]


def mooncake(timestamp: float, length: int, *ids: int, output: int = 5) -> dict[str, Any]:
    return {
        "timestamp": timestamp,
        "input_length": length,
        "output_length": output,
        "hash_ids": list(ids),
    }


def complaint(rows: Iterable[bytes], **flags: Any) -> str:
    with pytest.raises(ToolError) as caught:
        list(read_trace(rows, "t.jsonl", **flags))
    return str(caught.value)


def test_mooncakes_form_is_milliseconds_and_blocks_of_512() -> None:
    trace = read_trace(lines(mooncake(3000, 513, 0, 1), mooncake(6500, 512, 0)), "t")
    assert trace.form == MOONCAKE
    assert list(trace) == [
        TraceLine(at_s=0.0, input_tokens=513, output_tokens=5, hash_ids=(0, 1), line=1),
        TraceLine(at_s=3.5, input_tokens=512, output_tokens=5, hash_ids=(0,), line=2),
    ]


def test_qwens_form_is_found_by_its_keys() -> None:
    row = mooncake(61.25, 33, 7, 8, 9) | {"chat_id": 5, "parent_chat_id": -1, "type": "text"}
    trace = read_trace(lines(row | {"turn": 2}), "t")
    assert trace.form == QWEN
    (line,) = trace
    assert (line.chat_id, line.turn, line.at_s) == (5, 2, 0.0)


def test_what_is_given_beats_what_was_found() -> None:
    rows = lines(mooncake(2, 33, 7, 8, 9), mooncake(3, 16, 7))
    trace = read_trace(rows, "t", block_tokens=16, time_unit="s")
    assert trace.form == TraceForm(name="mooncake", block_tokens=16, time_unit="s")
    assert [line.at_s for line in trace] == [0.0, 1.0]


def test_ids_beyond_32_bits_stay_apart() -> None:
    (line,) = read_trace(lines(mooncake(0, 1024, 2**63, 2**63 + 2**32)), "t")
    assert line.hash_ids == (2**63, 2**63 + 2**32)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (mooncake(0, 513, 1), "t.jsonl:2: hash_ids: 1 ids, where an input_length of 513 is 2"),
        (mooncake(0, 512, 1, 2), "t.jsonl:2: hash_ids: 2 ids"),
        (mooncake(-1, 512, 1), "t.jsonl:2: expected `float` >= 0.0 - at `$.timestamp`"),
        (mooncake(0, 0), "t.jsonl:2: expected `int` >= 1 - at `$.input_length`"),
        ({"timestamp": 0}, "t.jsonl:2: object missing required field `input_length`"),
        (mooncake(0, 1) | {"hash_ids": ["a"]}, "t.jsonl:2: expected `int`, got `str` - at"),
    ],
)
def test_a_broken_line_is_named_with_its_key(row: dict[str, Any], said: str) -> None:
    assert said in complaint(lines(mooncake(0, 5, 0), row))


def test_time_may_not_run_backwards() -> None:
    said = complaint(lines(mooncake(7, 1, 0), mooncake(6, 1, 0)))
    assert said.startswith("t.jsonl:2: timestamp: 6 after 7: sort the lines by it, as jq -cs")


def test_another_block_size_is_suggested_only_where_none_was_given() -> None:
    row = lines(mooncake(0, 20, 1, 2))
    assert "--trace-block-tokens" in complaint(row)
    assert "--trace-block-tokens" not in complaint(row, block_tokens=64)


def test_an_empty_trace_and_a_cut_archive_are_told() -> None:
    assert "t.jsonl: empty" in complaint([b"\n"])
    packed = gzip.compress(b"".join(lines(*(mooncake(i, 1, i) for i in range(1000)))))
    said = complaint(gzip.GzipFile(fileobj=BytesIO(packed[:-200])))
    assert "broken gzip" in said and said.startswith("t.jsonl:")


def test_packed_files_are_read(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl.gz"
    path.write_bytes(gzip.compress(b"".join(lines(mooncake(0, 5, 3)))))
    with open_lines(str(path)) as (name, stream):
        assert [line.hash_ids for line in read_trace(stream, name)] == [(3,)]


def test_a_selection_stops_reading_at_its_end() -> None:
    def endless() -> Iterable[bytes]:
        for second in range(10):
            yield from lines(mooncake(second * 1000, 1, second))
        raise AssertionError("read beyond the window")

    window = Selection(window=(2, 4)).of(read_trace(endless(), "t"))
    assert [line.hash_ids for line in window] == [(2,), (3,)]
    limited = Selection(window=(2, 9), limit=2).of(read_trace(endless(), "t"))
    assert [line.at_s for line in limited] == [2.0, 3.0]
