"""Inputs that are nearly right: real ones, with a few things done to them.

What is done is drawn as a short list, so that Hypothesis shrinks a failure to the one that matters.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import strategies as st

# JSON has no way to write these as values of Python: they are put in as text, by name.
RAW = {
    "@nan@": "NaN",
    "@inf@": "Infinity",
    "@big@": "9" * 400,
    "@huge@": "9" * 5000,
    "@exp@": "1e400",
    "@zero@": "-0.0",
    "@deep@": "[" * 300 + "]" * 300,
    "@deeper@": '{"a":' * 3000 + "1" + "}" * 3000,
    "@deepest@": "[" * 200_000 + "]" * 200_000,
    "@half@": '"\\ud800"',
    "@nul@": '"\\u0000"',
    "@esc@": '"\\u001b[2J\\u202e\\n"',
}
WEIRD: list[Any] = [
    *(None, True, False, 0, -1, 1, 2, 17, 2**31, 2**53, 2**62, 2**63 - 1, 2**63, 2**64, 10**30),
    *(0.5, -0.5, 1e-300, 1e308, -1e308, 1e18, "", "x", "1", "nan", "é💥", "a" * 3000, "../../x"),
    *("2026-01-31T12:00:00Z", "http://[", "127.0.0.1:99999", "{}", "$(id)"),
    *([], {}, [[]], [None], [1, "a"], {"": 1}, {"a": {"b": []}}),
    *RAW,
]
PIECES: list[bytes] = [
    *(b"\x00", b"\xff", b"\xef\xbb\xbf", b"\r", b"\n", b"\r\n", b"\r\n\r\n", b"\n\n", b" ", b"\t"),
    *(b"{", b"}", b"[", b"]", b'"', b"\\", b",", b":", b"#", b"&a [*a]", b"NaN", b"1e999", b"-"),
    *(b"data:", b"data: [DONE]\n\n", b": ping\n\n", b"event: x\n", b"id: 1\n", b"retry: 1\n"),
    *(b"0\r\n\r\n", b"ffffffff\r\n", b"5;x=y\r\n", b"\xf0\x9f", b"\xed\xa0\x80", b"\xc0\x80"),
    *(b"HTTP/1.1 100 Continue\r\n\r\n", b"Transfer-Encoding: chunked\r\n", b"Set-Cookie: a=b\r\n"),
    *(b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd", b"x" * 5000, b"1" * 5000, b"A: b\r\n" * 3000),
    *(b"[" * 20_000, b'{"a":' * 2000, b"\xe2\x80\xa8", b"\x0b", b"\x85"),
]
# Up to the length of a short input in one unit, so that a shrunk place is a place near its start.
PLACES = st.integers(0, 20_000)
SIZES = st.integers(1, 40)

Bytes = Callable[[bytes], bytes]


def _near(place: int, size: int) -> int:
    return place % size if size else 0


def _flip(data: bytes, at: int, n: int) -> bytes:
    at = _near(at, len(data))
    return data[:at] + bytes(one ^ (n | 1) for one in data[at : at + 1]) + data[at + 1 :]


def _drop(data: bytes, at: int, n: int) -> bytes:
    at = _near(at, len(data))
    return data[:at] + data[at + n :]


def _double(data: bytes, at: int, n: int) -> bytes:
    at = _near(at, len(data))
    return data[:at] + data[at : at + n] * 2 + data[at + n :]


def _put(data: bytes, at: int, n: int) -> bytes:
    at = _near(at, len(data) + 1)
    return data[:at] + PIECES[n % len(PIECES)] + data[at:]


def _cut(data: bytes, at: int, n: int) -> bytes:
    return data[: _near(at, len(data))]


def _lines(data: bytes, at: int, n: int) -> bytes:
    """A line is dropped, doubled, cut or moved."""
    lines = data.splitlines(keepends=True)
    if not lines:
        return data
    at = _near(at, len(lines))
    line = lines[at]
    match n % 4:
        case 0:
            del lines[at]
        case 1:
            lines.insert(at, line)
        case 2:
            lines[at] = line[: len(line) // 2]
        case _:
            lines.insert(n % len(lines), lines.pop(at))
    return b"".join(lines)


def _repeat(data: bytes, at: int, n: int) -> bytes:
    return data * (1 + n % 3)


def _wrap(data: bytes, at: int, n: int) -> bytes:
    """Another file altogether: packed, in another encoding, or nothing."""
    match n % 5:
        case 0:
            return gzip.compress(data)[: -8 if at % 2 else None]
        case 1:
            return data.decode("utf-8", "replace").encode("utf-16")
        case 2:
            return b""
        case 3:
            return data.replace(b"\n", b"\r\n")
        case _:
            return data.replace(b"\n", b" ")


_BYTE_WAYS = [_flip, _drop, _double, _put, _cut, _lines, _put, _flip, _lines, _repeat, _wrap]


def broken(seeds: st.SearchStrategy[bytes], most: int = 4) -> st.SearchStrategy[bytes]:
    """One of the seeds with up to `most` things done to its bytes."""
    steps = st.lists(st.tuples(st.sampled_from(_BYTE_WAYS), PLACES, SIZES), max_size=most)

    def done(data: bytes, ways: list[tuple[Any, int, int]]) -> bytes:
        for way, at, n in ways:
            data = way(data, at, n)
        return data

    return st.builds(done, seeds, steps)


# --- values inside JSON -------------------------------------------------------------------------

Change = tuple[int, int, int]
changes = st.tuples(PLACES, st.integers(0, 9), st.integers(0, len(WEIRD) - 1))


def changed(value: Any, ways: Sequence[Change]) -> Any:
    """The value with some of what is inside it replaced, dropped, renamed, doubled or added."""
    value = json.loads(json.dumps(value))
    for at, way, n in ways:
        spots = list(_spots(value))
        if not spots:
            break
        holder, key = spots[_near(at, len(spots))]
        weird = json.loads(json.dumps(WEIRD[n]))
        if way < 6:
            holder[key] = weird
        elif way == 6:
            del holder[key]
        elif isinstance(holder, list):
            holder.insert(key, holder[key] if way == 7 else weird)
        elif way == 7:
            holder[f"{key}_"] = holder.pop(key)
        elif way == 8:
            holder[str(n)] = weird
        else:
            other = spots[n % len(spots)]
            copy = json.loads(json.dumps(other[0][other[1]]))
            holder[key] = copy
    return value


def _spots(value: Any) -> Any:
    """Every (container, key) inside a value."""
    pairs = (
        list(value.items())
        if isinstance(value, dict)
        else list(enumerate(value))
        if isinstance(value, list)
        else []
    )
    for key, below in pairs:
        yield value, key
        yield from _spots(below)


def text_of(value: Any) -> str:
    """The value as JSON, with what JSON cannot say put in by its name."""
    text = json.dumps(value, ensure_ascii=False)
    for name, raw in RAW.items():
        text = text.replace(f'"{name}"', raw)
    return text


@st.composite
def broken_lines(draw: st.DrawFn, seeds: Sequence[bytes]) -> bytes:
    """JSON lines of which some values are others; then, now and then, its bytes too."""
    lines = draw(st.sampled_from(seeds)).splitlines()
    for place, ways in draw(
        st.lists(st.tuples(PLACES, st.lists(changes, min_size=1, max_size=3)), max_size=3)
    ):
        at = _near(place, len(lines))
        try:
            value = json.loads(lines[at])
        except (ValueError, RecursionError):  # changed before
            continue
        lines[at] = text_of(changed(value, ways)).encode("utf-8", "surrogatepass")
    data = b"\n".join(lines) + b"\n"
    return draw(broken(st.just(data), 2)) if draw(st.integers(0, 3)) == 3 else data


@st.composite
def broken_object(draw: st.DrawFn, seeds: Sequence[Any]) -> bytes:
    """One JSON value, changed; then, now and then, its bytes too."""
    value = changed(draw(st.sampled_from(seeds)), draw(st.lists(changes, max_size=4)))
    data = text_of(value).encode("utf-8", "surrogatepass")
    return draw(broken(st.just(data), 2)) if draw(st.integers(0, 3)) == 3 else data
