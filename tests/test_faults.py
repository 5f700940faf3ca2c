"""The table of faults (tests/faults.py), row by row, through the real executables."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socketserver
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import Done
from tests.fakeserver import (
    LAST_CHUNK,
    Close,
    FakeServer,
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
from tests.family import ROOT, environment
from tests.faults import ANSWERED, ELSEWHERE, PIPED, ROWS, Answered, Piped, Row

Shell = Callable[..., Done]
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
    "given-up": [*TWO, chunk(event(choice({}, "abort"))), chunk(DONE), LAST_CHUNK],
    "giant-chunk": giant(100),
}


class Faulty:
    """Answers `bad` to prompts with that word; `bad_seen` and `good_seen` count them."""

    def __init__(self, bad: Reply, *, once: bool = False) -> None:
        self.bad = bad
        self.once = once
        self.bad_seen = 0
        self.good_seen = 0
        self.met = threading.Event()

    def __call__(self, request: Received) -> Reply:
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
    found = [json.loads(line) for line in text.splitlines()]
    return [record for record in found if record["record"] == kind]


# --- the table itself ----------------------------------------------------------------------------


def test_every_row_has_a_name_of_its_own_and_a_test() -> None:
    names = [row.name for row in ROWS]
    assert len(names) == len(set(names)) >= 60
    assert {row.name for row in ANSWERED} == set(REPLIES)


@pytest.mark.parametrize("where", sorted({row.where for row in ROWS}))
def test_the_test_of_a_row_exists(where: str) -> None:
    path, _, name = where.partition("::")
    assert re.search(rf"^(?:async )?def {name}\(", (ROOT / path).read_text("utf-8"), re.M)


# --- servers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", ANSWERED, ids=lambda row: row.name)
def test_an_answer_that_is_a_fault(row: Answered, sh: Shell, tmp_path: Path) -> None:
    faulty = Faulty(REPLIES[row.name], once=row.name == "reset-once")
    work = workload(tmp_path, "good one", "bad two", "good three")
    patience = 2 if row.status == "timeout" else 60
    with FakeServer(faulty) as server:
        done = sh(kvload(server.url, work, patience))
    told = records(done.out, "request")
    assert [one["index"] for one in told] == [0, 1, 2]
    before, bad, after = told
    assert (bad["status"], bad["http_status"]) == (row.status, row.http)
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


def elsewhere(name: str) -> Row:
    (row,) = (row for row in ELSEWHERE if row.name == name)
    return row


def test_a_server_that_goes_away(sh: Shell, tmp_path: Path) -> None:
    row = elsewhere("gone")
    faulty = Faulty([Reset()])

    def gone(request: Received) -> Reply:
        if b"bad" in request.body:
            server._server.close()
        return faulty(request)

    with FakeServer(gone) as server:
        done = sh(kvload(server.url, workload(tmp_path, "good one", "bad two", "good three")))
    statuses = [one["status"] for one in records(done.out, "request")]
    assert statuses == ["ok", "connect_error", "connect_error"]
    assert done.status == row.returned and row.said in done.err
    assert records(done.out, "end")[0]["failed"] == 2


def refused(line: str, row: Row, sh: Shell) -> None:
    done = sh(line)
    assert (done.status, done.out) == (row.returned, "")
    assert row.said in done.err and len(done.err.splitlines()) == 1


def test_a_certificate_that_nobody_signed(sh: Shell, tmp_path: Path) -> None:
    with FakeServer(Faulty([]), tls=certified(tmp_path)) as server:
        refused(kvload(server.url, workload(tmp_path, "good")), elsewhere("tls-unsigned"), sh)
    assert not server.received


class Plain(socketserver.BaseRequestHandler):
    """What a server without TLS answers to a greeting that is no HTTP."""

    def handle(self) -> None:
        self.request.recv(4096)
        self.request.sendall(b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n")


def test_tls_to_a_server_without(sh: Shell, tmp_path: Path) -> None:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Plain) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,)).start()
        url = f"https://127.0.0.1:{server.server_address[1]}"
        try:
            refused(kvload(url, workload(tmp_path, "good")), elsewhere("tls-plain"), sh)
        finally:
            server.shutdown()


def certified(folder: Path) -> ssl.SSLContext:
    """A server's context with a certificate that nobody but itself has signed."""
    if shutil.which("openssl") is None:
        pytest.skip("needs the openssl command")
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    asked = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=127.0.0.1"]
    named = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate]
    subprocess.run(["openssl", *asked, *named], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context


# --- clients -------------------------------------------------------------------------------------


def started(line: str, out: Path) -> subprocess.Popen[str]:
    with out.open("wb") as stream:
        return subprocess.Popen(
            line.split(), stdout=stream, stderr=subprocess.PIPE, env=environment(), text=True
        )


@pytest.mark.parametrize("name", ["sigint", "sigterm", "sigkill"])
def test_a_signal_loses_no_request(name: str, tmp_path: Path) -> None:
    """Twenty answers, then one that stalls; a second and a half later the signal comes."""
    row = elsewhere(name)
    faulty = Faulty([*TWO, Hang()])
    work = workload(tmp_path, *(f"good {number}" for number in range(20)), "bad one")
    out = tmp_path / "out.jsonl"
    with FakeServer(faulty) as server:
        process = started(kvload(server.url, work), out)
        assert faulty.met.wait(60), "the stalled request was never sent"
        time.sleep(1.5)  # every answer ended more than a second ago
        process.send_signal(signal.Signals[name.upper()])
        _, err = process.communicate(timeout=60)
    assert process.returncode == 128 - row.returned
    assert faulty.good_seen == 20 and "Traceback" not in err
    told = records(out.read_text(), "request")
    ok = [one["index"] for one in told if one["status"] == "ok"]
    assert ok == list(range(20)), "a request that ended more than a second before is lost"
    ends = records(out.read_text(), "end")
    if name == "sigkill":
        assert not ends and len(told) == 20
    else:
        assert [one["status"] for one in told[20:]] == ["cancelled"]
        assert [(end["complete"], end["ok"]) for end in ends] == [(False, 20)]


def test_a_disk_that_fills(sh: Shell, tmp_path: Path) -> None:
    row = elsewhere("disk-fills")
    work = workload(tmp_path, *(f"good {number}" for number in range(40)))
    with FakeServer(Faulty([])) as server:
        done = sh(f"ulimit -f 16; {kvload(server.url, work)} > out.jsonl")
    assert done.status == row.returned
    assert row.said in done.err and "Traceback" not in done.err
    assert re.fullmatch(r"kvload: [^A-Z].*[^.]", done.err.splitlines()[-1])
    whole = (tmp_path / "out.jsonl").read_text().rpartition("\n")[0]
    told = len(records(whole, "request"))
    assert 0 < told < 40 and not records(whole, "end")
    after = sh("kvstats out.jsonl")
    assert after.status == 1 and "has no end" in after.err
    (stats,) = records(after.out, "round_stats")
    assert not stats["complete"]


def test_memory_that_ends(sh: Shell, tmp_path: Path) -> None:
    row = elsewhere("memory")
    with FakeServer(Faulty(giant(200))) as server:
        work = workload(tmp_path, "good one", "bad two")
        done = sh(f"ulimit -v 300000; {kvload(server.url, work)}")
    told = [one["status"] for one in records(done.out, "request")]
    assert told == ["ok", "truncated"]
    assert done.status == row.returned
    assert row.said in done.err and "Traceback" not in done.err
    assert records(done.out, "end")[0]["complete"] is True


# --- pipelines -----------------------------------------------------------------------------------


def test_a_stage_that_dies(tmp_path: Path) -> None:
    row = elsewhere("stage-dies")
    faulty = Faulty([Hang()])
    with FakeServer(faulty) as server:
        line = kvload(server.url, workload(tmp_path, "good one", "good two", "bad three"))
        read, write = os.pipe()
        load = subprocess.Popen(
            line.split(), stdout=write, stderr=subprocess.DEVNULL, env=environment()
        )
        os.close(write)
        stats = subprocess.Popen(
            ["kvstats"],
            stdin=read,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(),
            text=True,
        )
        os.close(read)
        assert faulty.met.wait(60)
        time.sleep(1)
        load.kill()
        load.wait(60)
        out, err = stats.communicate(timeout=60)
    assert stats.returncode == row.returned and row.said in err
    (told,) = records(out, "round_stats")
    assert told["complete"] is False
    assert "incomplete" in [finding["code"] for finding in told["findings"]]


@pytest.mark.parametrize("row", PIPED, ids=lambda row: row.name)
def test_a_pipeline_that_is_a_fault(row: Piped, sh: Shell) -> None:
    done = sh(row.command, cwd=ROOT)
    assert done.status == row.returned
    assert row.said in done.err and "Traceback" not in done.err
    stats = records(done.out, "round_stats")
    assert tuple(one["complete"] for one in stats) == row.whole
    for one in stats:
        incomplete = "incomplete" in codes(one["findings"])
        assert incomplete != one["complete"]


def codes(findings: Sequence[dict[str, Any]]) -> list[str]:
    return [finding["code"] for finding in findings]
