"""What fuzzing found, each as the smallest input that showed it, tried anew in every run."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from tests.conftest import Done
from tests.fuzz import test_configs, test_imports, test_kvsim_bodies, test_servers
from tests.fuzz import test_records as records
from tests.fuzz import test_wire as wire
from tests.fuzz.fuzzing import TARGETS

STREAM = wire.HEADS[0]
BODY = b'{"prompt":"a",%b}'


def streamed(*events: bytes) -> bytes:
    """An answer of these events."""
    return STREAM + b"".join(map(wire.chunk, events)) + wire.LAST_CHUNK


DEEP = b"[" * 5000 + b"]" * 5000
HUGE = b"9" * 400
COUNTED = re.sub(rb'"prompt_tokens":\d+', b'"prompt_tokens":' + HUGE, records.STREAM, count=1)
OLD_STATS = b'{"scenario":"a","round_num":1,"avg_ttft":%b}' % HUGE
APART = records.STATS[0].replace(b'"repeat":1', b'"repeat":2', 1)
LONG_TRACE = (
    b'{"timestamp":0,"input_length":5,"output_length":9223372036854775807,"hash_ids":[1]}\n'
)
BROKEN = streamed(b'data: {"id":"a","choices":[{"index":0}]}\n\n')[:-5] + b"zz\r\n"
ERROR = b'data: {"error":{"x":%b1%b}}\n\n'
EDGE = range(1000, 700, -4)
"""Where the edge is depends on who calls: the deepest error that can be read is the one told."""

FOUND: list[tuple[str, str, Any]] = [
    (
        "what stood before broken framing was lost if it came with the same read",
        "any_answer_cut_anywhere",
        (BROKEN, [len(BROKEN) - 4]),
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
    (
        "an error nested to the edge of the stack could be read and not be told",
        "any_answer_cut_anywhere",
        (streamed(*(ERROR % (b'{"a":' * deep, b"}" * deep) for deep in EDGE)), []),
    ),
    ("a key that is no UTF-8 was a traceback", "any_stream", b'{"\xffrecord":"run"}\n'),
    ("nesting beyond the stack was a traceback", "any_stream", b'{"record":' + DEEP + b"}\n"),
    ("nesting beyond the stack, audited", "any_audit", b'{"record":' + DEEP + b"}\n"),
    ("a count too large for a float was a traceback", "any_stream", COUNTED),
    ("a figure too large for a float, in an old file", "any_stats", OLD_STATS),
    ("a record's name was taken for a file's", "any_plan", b'{"record":"%b"}\n' % (b"a" * 3000)),
    ("a length beyond 64 bits was a traceback", "any_trace_analysed", LONG_TRACE),
    (
        "a time too large for a float, in another tool's file",
        "any_vllm_bench",
        re.sub(rb'"ttfts": \[[0-9.]+', b'"ttfts": [' + HUGE, test_imports.BENCH[0], count=1),
    ),
    ("kvreport: cold and hit of different repeats were a traceback", "any_stats", APART),
    ("a token id beyond 32 bits, in a workload", "any_plan", b'{"prompt":[9007199254740992]}\n'),
    ("a token id beyond 32 bits, in a log", "any_own_file", b'{"prompt":[9007199254740992]}\n'),
    ("a key file that is no text was a traceback", "any_secret_file", b"\xff\n"),
    (
        "a charset that is no text encoding was a traceback",
        "any_control_plane",
        ("200 OK", "text/plain; charset=hex", "", "identity", b"{}"),
    ),
    (
        "a redirect to what is no URL was a traceback",
        "any_control_plane",
        ("302 Found", "text/plain", "http://[", "identity", b""),
    ),
    ("kvsim: nested too deep was a 500", "any_body", (b'{"model":' + DEEP + b"}", True)),
    ("kvsim: digits without end were a 500", "any_body", (b'{"n":' + b"9" * 5000 + b"}", True)),
    ("kvsim: a number beyond floats", "any_body", (BODY % (b'"top_p":' + HUGE), False)),
    ("kvsim: half a character", "any_body", (BODY % b'"model":"\\ud800"', False)),
    (
        "kvsim: options that are no object",
        "any_body",
        (BODY % b'"stream":true,"stream_options":1', False),
    ),
    ("kvsim: no room for an answer", "any_body", (BODY % b'"max_completion_tokens":0', False)),
]


def test_bytes_that_are_no_http_leave_no_traceback_in_kvsim(sh: Callable[..., Done]) -> None:
    """Schemathesis' first probe: a NUL in a header."""
    done = sh(
        "coproc kvsim --port 0\n"
        "read -r ready <&${COPROC[0]}\n"
        "port=${ready##*'\"port\":'}; port=${port%\\}}\n"
        "exec 3<>/dev/tcp/127.0.0.1/$port\n"
        "printf 'GET / HTTP/1.1\\r\\nA: \\0\\r\\n\\r\\n' >&3; head -1 <&3; exec 3>&-\n"
        "kill $COPROC_PID; wait $COPROC_PID || true\n"
    )
    assert done.out.startswith("HTTP/1.") and " 400 " in done.out
    assert done.err == ""


OF = (test_configs, test_imports, test_kvsim_bodies, test_servers, records, wire)
"""Where the targets are: imported, they are known."""


@pytest.mark.parametrize(("what", "target", "value"), FOUND, ids=[one[0] for one in FOUND])
def test_what_was_found_stays_mended(what: str, target: str, value: Any) -> None:
    TARGETS[target].once(value)
