"""What fuzzing found, each as the smallest input that showed it, tried anew in every run."""

from __future__ import annotations

from typing import Any

import pytest
from tests.fuzz import test_wire as wire
from tests.fuzz.fuzzing import TARGETS

STREAM = wire.HEADS[0]


def streamed(*events: bytes) -> bytes:
    """An answer of these events."""
    return STREAM + b"".join(map(wire.chunk, events)) + wire.LAST_CHUNK


FOUND: list[tuple[str, str, Any]] = [
    (
        "what stood before broken framing was lost if it came with the same read",
        "any_answer_cut_anywhere",
        (streamed(b'data: {"id":"a","choices":[{"index":0}]}\n\n')[:-5] + b"zz\r\n", [160]),
    ),
    (
        "half a surrogate in an id could not be written, and ended the round",
        "any_answer_cut_anywhere",
        (streamed(b'data: {"id":"\\ud800","choices":[{"index":0}]}\n\n'), []),
    ),
    (
        "a long line of the framing was refused in pieces only",
        "any_answer_cut_anywhere",
        (STREAM + b"1;" + b"x" * 5000 + b"\r\nx\r\n0\r\n\r\n", [4900]),
    ),
]


@pytest.mark.parametrize(("what", "target", "value"), FOUND, ids=[one[0] for one in FOUND])
def test_what_was_found_stays_mended(what: str, target: str, value: Any) -> None:
    TARGETS[target].once(value)
