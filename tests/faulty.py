"""Servers that are faulty, and kvload before them: what the tests of faults are made of."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

from tests.conftest import Done
from tests.fakeserver import (
    LAST_CHUNK,
    Close,
    Hang,
    Pause,
    Received,
    Reply,
    Reset,
    Step,
    chunk,
    chunked_answer,
    head,
    sized_answer,
)
from tests.faults import Answered

Records = list[dict[str, Any]]

# --- what a server may answer --------------------------------------------------------------------


def event(value: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def choice(delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
    return {"id": "x", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}


def token(text: str) -> bytes:
    return event(choice({"content": text}))


USAGE = {"prompt_tokens": 5, "completion_tokens": 4, "total_tokens": 9}
DONE = b"data: [DONE]\n\n"
GOOD = b"".join(
    (
        *(token(text) for text in "abcd"),
        event(choice({}, "stop")),
        event({"choices": [], "usage": USAGE}),
        DONE,
    )
)
OPEN = head("200 OK", "transfer-encoding: chunked")
TWO = [OPEN, chunk(token("a")), chunk(token("b"))]
SOON = Pause(0.05)  # so that what was written before a reset is read before it
DEAD = event({"error": {"message": "EngineCore encountered an issue", "code": 500}})
MEGABYTE = b"x" * 1_000_000


def giant(megabytes: int) -> list[Step]:
    """One chunk without a line end."""
    return [OPEN, b"%x\r\n" % (megabytes * 10**6), *[MEGABYTE] * megabytes, b"\r\n", LAST_CHUNK]


def refusal(status: str, body: bytes, *lines: str) -> Reply:
    return sized_answer(body, status, *lines)


REPLIES: dict[str, Reply] = {
    "reset-once": [Reset()],
    "reset-twice": [Reset()],
    "close-before": [Close()],
    "reset-in-head": [b"HTTP/1.1 200 OK\r\ncont", SOON, Reset()],
    "reset-after-head": [OPEN, SOON, Reset()],
    "reset-in-stream": [*TWO, SOON, Reset()],
    "stalled-headers": [Hang()],
    "stalled-in-head": [b"HTTP/1.1 200 OK\r\n", Hang()],
    "stalled-stream": [*TWO, Hang()],
    "slow-drip": [OPEN, *[s for byte in chunk(GOOD) for s in (bytes([byte]), Pause(0.02))]],
    "endless-stream": [OPEN, *[s for _ in range(3000) for s in (chunk(token("a")), Pause(0.01))]],
    "bytewise": [OPEN, *[bytes([byte]) for byte in chunk(GOOD)], LAST_CHUNK],
    "truncated": [*TWO, Close()],
    "truncated-in-chunk": [*TWO, b"64\r\ndata: {", Close()],
    "no-done": [*TWO, LAST_CHUNK],
    "not-http": [b"SSH-2.0-OpenSSH_9.6\r\n"],
    "switched-protocols": [b"HTTP/1.1 101 Switching Protocols\r\n\r\n"],
    "giant-head": [b"HTTP/1.1 200 OK\r\nx-a: " + b"a" * 100_000 + b"\r\n\r\n"],
    "bad-length": [head("200 OK", "content-length: many")],
    "bad-chunk-size": [OPEN, b"zz\r\n"],
    "bad-json": [*TWO, chunk(b"data: {nonsense\n\n"), LAST_CHUNK],
    "html": sized_answer(b"<html>Welcome</html>", content_type="text/html"),
    "content-type": [
        head("200 OK", "transfer-encoding: chunked", content_type="text/plain"),
        *[chunk(GOOD), LAST_CHUNK],
    ],
    "compressed": [
        head("200 OK", "transfer-encoding: chunked", "content-encoding: gzip"),
        *[chunk(b"\x1f\x8b123"), LAST_CHUNK],
    ],
    "empty": sized_answer(b""),
    "no-content": [b"HTTP/1.1 204 No Content\r\n\r\n"],
    "bad-request": refusal("400 Bad Request", b'{"error":{"message":"prompt too long"}}'),
    "not-found": refusal("404 Not Found", b""),
    "too-many": refusal("429 Too Many Requests", b'{"error":"slow down"}', "retry-after: 1"),
    "server-error": refusal("500 Internal Server Error", b""),
    "unavailable": refusal("503 Service Unavailable", b"<html><h1>no server</h1></html>"),
    "redirect": refusal("302 Found", b"", "location: http://me:hidden@127.0.0.1:1/x"),
    "engine-death": [*TWO, chunk(DEAD), chunk(DONE), LAST_CHUNK],
    "engine-death-cut": [*TWO, chunk(DEAD), Close()],
    "engine-death-first": [OPEN, chunk(DEAD), chunk(DONE), LAST_CHUNK],
    "garbage": [*TWO, chunk(bytes(range(128, 256)) * 4), LAST_CHUNK],
    "garbage-event": [*TWO, chunk(b"data: \xff\xfe\x00\x1b[2J\n\n"), LAST_CHUNK],
    "short-body": [head("500 Internal Server Error", "content-length: 99") + b"oven", Close()],
    "redirect-307": refusal("307 Temporary Redirect", b"", "location: http://127.0.0.1:1/x"),
    "given-up": [*TWO, chunk(event(choice({}, "abort"))), chunk(DONE), LAST_CHUNK],
    "giant-chunk": giant(100),
}


class Faulty:
    """Answers `bad` to prompts with that word.

    `bad_seen` and `good_seen` count them, and `asked` whatever came, questions too.
    """

    def __init__(self, bad: Reply, *, once: bool = False) -> None:
        self.bad = bad
        self.once = once
        self.bad_seen = 0
        self.good_seen = 0
        self.asked = 0
        self.met = threading.Event()

    def __call__(self, request: Received) -> Reply:
        self.asked += 1
        if request.line.startswith("GET"):
            if "/v1/models" in request.line:
                return sized_answer(b'{"object":"list","data":[{"id":"m","object":"model"}]}')
            return sized_answer(b'{"detail":"Not Found"}', "404 Not Found")
        if b"bad" not in request.body:
            self.good_seen += b"good" in request.body  # others are questions before the round
            return chunked_answer(GOOD)
        self.bad_seen += 1
        self.met.set()
        return chunked_answer(GOOD) if self.once and self.bad_seen > 1 else self.bad


def workload(folder: Path, *prompts: str) -> Path:
    path = folder / "work.jsonl"
    lines = (json.dumps({"prompt": text, "max_tokens": 4}) + "\n" for text in prompts)
    path.write_text("".join(lines), encoding="utf-8")
    return path


def kvload(url: str, work: Path, timeout_s: float = 60) -> str:
    return (
        f"kvload --url {url} --workload {work} --round 1 --warmup 0 --pause 0 --timeout {timeout_s}"
    )


def records(text: str, kind: str) -> Records:
    found = [json.loads(line) for line in text.split("\n") if line]
    return [record for record in found if record["record"] == kind]


def answered_as(row: Answered, done: Done, faulty: Faulty) -> None:
    """The second of three requests was recorded, told and returned as the row says."""
    told = records(done.out, "request")
    assert [one["index"] for one in told] == [0, 1, 2]
    before, bad, after = told
    assert (bad["status"], bad["http_status"]) == (row.status, row.http), bad["error"]
    stamps = len(bad["chunk_ns"] or [])
    assert stamps >= row.tokens if row.or_more else stamps == row.tokens
    assert bad["retries"] == row.retries and faulty.bad_seen == 1 + row.retries
    assert (bad["error"] is None) == (row.status == "ok")
    assert row.said in (bad["error"] or "") and row.said in done.err
    assert "hidden" not in done.out + done.err and "Traceback" not in done.err
    (end,) = records(done.out, "end")
    failed = int(row.status != "ok")
    assert (end["complete"], end["ok"], end["failed"]) == (True, 3 - failed, failed)
    assert done.status == row.row().returned == failed
    assert (before["status"], after["status"]) == ("ok", "ok")
