"""Server-sent events: where one ends, and what data it carries.

An event is whole with the last byte of the empty line behind it, wherever the network cut the
stream. Lines may end in LF, CRLF or CR; comments and other fields than `data` are dropped.
"""

from __future__ import annotations

from collections.abc import Sequence

_BOM = b"\xef\xbb\xbf"


def with_line_feeds(reads: Sequence[bytes]) -> Sequence[bytes]:
    """The same reads with every line ended by LF alone, so that it stays in the read it ended in.

    A CR at the end of a read is a line end of its own only if no LF begins the next one.
    """
    if not any(b"\r" in data for data in reads):
        return reads
    unified: list[bytes] = []
    following = b""
    for data in reversed(reads):
        kept = data[:-1] if data.endswith(b"\r") and following.startswith(b"\n") else data
        unified.append(kept.replace(b"\r\n", b"\n").replace(b"\r", b"\n"))
        following = data or following
    unified.reverse()
    return unified


def take_events(text: bytes) -> tuple[list[bytes], bytes]:
    """The whole events in `text`, whose lines end in LF, each with its empty line; and the rest."""
    events: list[bytes] = []
    at = 0
    while (end := text.find(b"\n\n", at) + 2) > 1:
        events.append(text[at:end])
        at = end
    return events, text[at:]


def data_of(event: bytes) -> bytes | None:
    """The `data` fields of one event, joined by LF; null if it has none."""
    if event.startswith(b"data: ") and event.find(b"\n") == len(event) - 2:
        return event[6:-2]
    lines = []
    for line in event.split(b"\n"):
        name, _, value = line.partition(b":")
        if name.removeprefix(_BOM) == b"data":
            lines.append(value.removeprefix(b" "))
    return b"\n".join(lines) if lines else None
