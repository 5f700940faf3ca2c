"""Server-sent events out of stamped reads: which data came, and with which read it was whole.

An event is whole with the last byte of the empty line behind it, wherever the network cut the
stream. Lines may end in LF, CRLF or CR; comments and other fields than `data` are dropped.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

# Two line ends in a row. A CR that an LF follows is never a line end of its own.
_BLANK = re.compile(rb"(?:\r\n|\n|\r(?!\n))(?:\r\n|\n|\r)")
_LINE_END = re.compile(rb"\r\n|\n|\r")
_BOM = b"\xef\xbb\xbf"


def split_events(reads: Sequence[bytes], *, whole: bool) -> list[tuple[int, bytes]]:
    """(index of the read that completed it, data) of each event that carries data.

    Several data lines are joined by LF. With `whole` the stream ended as it should, and an event
    without its empty line counts too; else such a rest was cut off, and is left out.
    """
    body = b"".join(reads)
    at = len(_BOM) if body.startswith(_BOM) else 0
    ends = _ends(reads)
    found: list[tuple[int, bytes]] = []
    plain = b"\r" not in body
    read = 0
    while True:
        if plain:
            stop = body.find(b"\n\n", at)
            after = stop + 2
        else:
            blank = _BLANK.search(body, at)
            stop, after = blank.span() if blank else (-1, 1)
        if stop < 0:
            break
        while ends[read] < after:
            read += 1
        data = body[at + 6 : stop] if body.startswith(b"data: ", at) else None
        if data is None or b"\n" in data or not plain:
            data = _data_of(body[at:stop])
        if data is not None:
            found.append((read, data))
        at = after
    if whole and (rest := _data_of(body[at:])) is not None:
        found.append((len(reads) - 1, rest))
    return found


def _ends(reads: Sequence[bytes]) -> list[int]:
    ends: list[int] = []
    total = 0
    for data in reads:
        total += len(data)
        ends.append(total)
    return ends


def _data_of(event: bytes) -> bytes | None:
    """The joined `data` fields of one event; null if it has none."""
    lines = []
    for line in _LINE_END.split(event):
        name, _, value = line.partition(b":")
        if name == b"data":
            lines.append(value.removeprefix(b" "))
    return b"\n".join(lines) if lines else None
