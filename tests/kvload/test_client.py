"""The client against a server that does what it is told, faults included."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Generator
from pathlib import Path
from typing import Any

import pytest
from tests.fakeserver import (
    LAST_CHUNK,
    Close,
    FakeServer,
    Hang,
    Pause,
    Received,
    Reply,
    Reset,
    Wait,
    chunk,
    chunked_answer,
    head,
    sized_answer,
)

from kvload import client as client_module
from kvload.answer import parse_answer
from kvload.client import Client, Exchange, Target
from kvpipe.process import UsageError

EVENT = b'data: {"id":"a","choices":[{"index":0,"delta":{"content":"x"},"finish_reason":null}]}\n\n'
STREAM = EVENT * 3 + b"data: [DONE]\n\n"
OK = chunked_answer(STREAM)
CHUNKED = head("200 OK", "transfer-encoding: chunked")


@contextlib.asynccontextmanager
async def client_of(server: FakeServer, **options: Any) -> AsyncIterator[Client]:
    ours = Client(Target.parse(server.url), **({"timeout_s": 60.0} | options))
    try:
        yield ours
    finally:
        await ours.close()
        await asyncio.sleep(0.01)


def body_of(exchange: Exchange) -> bytes:
    return b"".join(data for _, data in exchange.reads)


def as_told(exchange: Exchange) -> tuple[object, ...]:
    return exchange.error_kind, exchange.connection, exchange.retries


async def test_a_stream_comes_back_with_its_stamps_in_order():
    with FakeServer(chunked_answer(STREAM, pause_s=0.01)) as server:
        async with client_of(server) as ours:
            before = time.perf_counter_ns()
            exchange = await ours.send(b"{}", "id-1")
            after = time.perf_counter_ns()
    assert (exchange.status, exchange.error_kind, exchange.error) == (200, None, None)
    assert body_of(exchange) == STREAM
    stamps = [
        before,
        exchange.sent_ns,
        exchange.body_sent_ns,
        exchange.first_byte_ns,
        exchange.headers_ns,
        *(stamp for stamp, _ in exchange.reads),
        exchange.end_ns,
    ]
    assert None not in stamps
    # kernel stamps are on the wall clock's rate: allow for its adjustment
    assert all(a <= b + 100_000 for a, b in itertools.pairwise(stamps))
    assert exchange.end_ns <= after
    assert len(exchange.reads) > 3
    if exchange.stamp_source == "kernel":
        assert exchange.user_lag_ns is not None and exchange.user_lag_ns >= 0


async def test_the_request_is_what_was_asked_for():
    with FakeServer(OK) as server:
        target = Target.parse(
            f"{server.url}/v1/", "completions", {"X-Extra": "1", "accept": "*/*"}, "secret"
        )
        ours = Client(target, timeout_s=60)
        await ours.send(b'{"a":1}', "id-1")
        await ours.close()
    (request,) = server.received
    assert request.line == "POST /v1/completions HTTP/1.1"
    assert request.body == b'{"a":1}'
    assert request.headers == {
        "host": f"127.0.0.1:{server.port}",
        "user-agent": "kvload",
        "content-type": "application/json",
        "accept": "*/*",
        "accept-encoding": "identity",
        "authorization": "Bearer secret",
        "x-extra": "1",
        "content-length": "7",
        "x-request-id": "id-1",
    }
    assert "secret" not in repr(target)


async def test_connections_are_opened_before_and_reused():
    with FakeServer(OK) as server:
        async with client_of(server) as ours:
            assert await ours.open(3) == 3
            assert ours.opened == 3
            exchanges = [await ours.send(b"", f"{n}") for n in range(5)]
            together = await asyncio.gather(*(ours.send(b"", f"t{n}") for n in range(4)))
            assert ours.opened == 4
    assert {e.connection for e in exchanges} == {"reused"}
    assert sorted(str(e.connection) for e in together) == ["new", "reused", "reused", "reused"]
    assert all(e.error_kind is None and body_of(e) == STREAM for e in (*exchanges, *together))


async def test_a_connection_idle_for_too_long_is_not_used():
    with FakeServer(OK) as server:
        async with client_of(server) as ours:
            await ours.open(1)
            ours._idle[0].idle_since -= client_module.MAX_IDLE_S
            exchange = await ours.send(b"", "1")
    assert as_told(exchange) == (None, "new", 0)
    assert [request.connection for request in server.received] == [2]


async def test_refresh_replaces_what_was_idle_or_closed():
    with FakeServer(OK) as server:
        async with client_of(server) as ours:
            await ours.open(3)
            ours._idle[0].idle_since -= 2
            ours._idle[1].close()
            assert await ours.refresh() == 2
            assert len(ours._idle) == 3 and all(c.usable for c in ours._idle)
            assert await ours.refresh() == 0
            assert ours.opened == 5


async def test_refresh_leaves_alone_what_a_request_took_meanwhile():
    with FakeServer([CHUNKED + chunk(EVENT), Pause(0.2), LAST_CHUNK]) as server:
        async with client_of(server) as ours:
            await ours.open(1)
            ours._idle[0].idle_since -= 2
            refreshing = asyncio.create_task(ours.refresh())
            exchange, replaced = await asyncio.gather(ours.send(b"", "1"), refreshing)
    assert as_told(exchange) == (None, "reused", 0)
    assert replaced == 1


async def test_idle_connections_are_kept_fresh():
    with FakeServer(OK) as server:
        async with client_of(server) as ours:
            await ours.open(2)
            for connection in ours._idle:
                connection.idle_since -= client_module.MAX_IDLE_S - 0.5
            keeper = asyncio.create_task(ours.keep_fresh(every_s=0.01))
            async with asyncio.timeout(30):
                while ours.opened < 4:
                    await asyncio.sleep(0.01)
            keeper.cancel()
            assert as_told(await ours.send(b"", "1")) == (None, "reused", 0)


async def test_a_connection_that_the_server_closed_meanwhile_is_not_used():
    with FakeServer([[*OK, Close()]]) as server:
        async with client_of(server) as ours:
            first = await ours.send(b"", "1")
            async with asyncio.timeout(30):
                while ours._idle and ours._idle[0].usable:
                    await asyncio.sleep(0.005)
            second = await ours.send(b"", "2")
    assert as_told(first) == as_told(second) == (None, "new", 0)


async def test_a_connection_that_speaks_unasked_is_not_used():
    with FakeServer([[*OK, b"HTTP/1.1 408 Request Timeout\r\n\r\n"]]) as server:
        async with client_of(server) as ours:
            await ours.send(b"", "1")
            async with asyncio.timeout(30):
                while ours._idle and ours._idle[0].usable:
                    await asyncio.sleep(0.005)
            second = await ours.send(b"", "2")
    assert as_told(second) == (None, "new", 0)
    assert body_of(second) == STREAM


@pytest.mark.parametrize("fault", [Reset(), Close()])
async def test_a_reset_before_the_answer_is_retried_once_on_a_new_connection(fault: Reset | Close):
    with FakeServer([[Pause(0.05), fault], OK]) as server:
        async with client_of(server) as ours:
            await ours.open(1)
            before = time.perf_counter_ns()
            exchange = await ours.send(b"body", "1")
    assert as_told(exchange) == (None, "new", 1)
    assert exchange.attempts == 2
    assert body_of(exchange) == STREAM
    assert [request.body for request in server.received] == [b"body", b"body"]
    assert exchange.sent_ns is not None and exchange.sent_ns - before >= 50_000_000
    assert exchange.error is None


@pytest.mark.parametrize("fault", [Reset(), Close()])
async def test_a_second_reset_is_an_error(fault: Reset | Close):
    with FakeServer([fault]) as server:
        async with client_of(server) as ours:
            await ours.open(1)
            exchange = await ours.send(b"", "1")
    assert as_told(exchange) == ("connect_error", "new", 1)
    assert len(server.received) == 2
    assert exchange.error is not None and "before the answer" in exchange.error
    assert exchange.sent_ns is not None and exchange.first_byte_ns is None


async def test_a_reset_of_a_new_connection_is_not_retried():
    with FakeServer([[Reset()], OK]) as server:
        async with client_of(server) as ours:
            exchange = await ours.send(b"", "1")
    assert as_told(exchange) == ("connect_error", "new", 0)
    assert len(server.received) == 1


@pytest.mark.parametrize("fault", [Reset(), Close()])
@pytest.mark.parametrize(
    "start",
    [
        CHUNKED + chunk(EVENT) + b"5\r\nda",
        CHUNKED + chunk(EVENT),
        head("200 OK", "content-length: 100") + EVENT,
    ],
)
async def test_an_answer_cut_short_is_truncated_and_not_retried(start: bytes, fault: Reset | Close):
    with FakeServer([[start, Pause(0.1), fault], OK]) as server:
        async with client_of(server) as ours:
            await ours.open(1)
            exchange = await ours.send(b"", "1")
            following = await ours.send(b"", "2")
    assert as_told(exchange) == ("truncated", "reused", 0)
    assert exchange.error is not None and "in the middle of the answer's body" in exchange.error
    assert body_of(exchange).startswith(EVENT[:80])
    assert exchange.end_ns >= exchange.reads[-1][0]
    assert as_told(following) == (None, "new", 0)


async def test_an_answer_without_a_length_ends_with_the_connection():
    with FakeServer([[head() + EVENT, Pause(0.02), b"data: [DONE]\n\n", Close()]]) as server:
        async with client_of(server) as ours:
            exchange = await ours.send(b"", "1")
            again = await ours.send(b"", "2")
    assert as_told(exchange) == as_told(again) == (None, "new", 0)
    assert body_of(exchange) == EVENT + b"data: [DONE]\n\n"


@pytest.mark.parametrize(
    "junk",
    [b"\x16\x03\x01\x02\x00", b"SSH-2.0-x\r\n", CHUNKED + b"zz\r\n", CHUNKED + b"2\r\nabcd\r\n"],
)
async def test_garbage_is_an_error_and_ends_the_connection(junk: bytes):
    with FakeServer([[junk, Hang()], OK]) as server:
        async with client_of(server) as ours:
            exchange = await ours.send(b"", "1")
            following = await ours.send(b"", "2")
    assert as_told(exchange) == ("stream_error", "new", 0)
    assert exchange.first_byte_ns is not None
    assert (exchange.headers_ns is None) == (not junk.startswith(b"HTTP"))
    assert as_told(following) == (None, "new", 0)


async def test_a_head_cut_short_is_an_error():
    with FakeServer([[b"HTTP/1.1 200 OK\r\nconte", Close()]]) as server:
        async with client_of(server) as ours:
            exchange = await ours.send(b"", "1")
    assert as_told(exchange) == ("stream_error", "new", 0)
    assert exchange.error == "connection closed in the middle of the answer's head"


async def test_an_answer_too_large_is_given_up():
    with FakeServer([CHUNKED, chunk(b"x" * 3000), chunk(b"x" * 3000), Hang()]) as server:
        async with client_of(server, max_answer_bytes=5000) as ours:
            exchange = await ours.send(b"", "1")
    assert exchange.error_kind == "stream_error"
    assert exchange.error == "the answer exceeds 5000 bytes"


@pytest.mark.parametrize("start", [b"", CHUNKED, CHUNKED + chunk(EVENT)])
async def test_the_time_limit_is_total(start: bytes):
    with FakeServer([start, Hang()] if start else [Hang()]) as server:
        async with client_of(server, timeout_s=0.3) as ours:
            await ours.open(1)
            before = time.perf_counter_ns()
            exchange = await ours.send(b"", "1")
    assert as_told(exchange) == ("timeout", "reused", 0)
    assert exchange.error == "no complete answer within 0.3 s"
    assert exchange.end_ns - before >= 290_000_000
    assert exchange.sent_ns is not None
    assert (exchange.first_byte_ns is None) == (not start)


async def test_the_time_limit_of_one_request_is_not_that_of_the_next(
    monkeypatch: pytest.MonkeyPatch,
):
    loop = asyncio.get_running_loop()
    timers: list[asyncio.TimerHandle] = []
    call_at = loop.call_at

    def noted(*args: Any, **kwargs: Any) -> asyncio.TimerHandle:
        timers.append(call_at(*args, **kwargs))
        return timers[-1]

    with FakeServer(OK) as server:
        async with client_of(server) as ours:
            await ours.open(1)
            monkeypatch.setattr(loop, "call_at", noted)
            await ours.send(b"", "1")
            monkeypatch.undo()
    assert [timer.cancelled() for timer in timers] == [True]


async def test_a_cancelled_request_still_has_its_exchange():
    with FakeServer([CHUNKED, chunk(EVENT), Hang()]) as server:
        async with client_of(server) as ours:
            task = asyncio.create_task(ours.send(b"", "1"))
            async with asyncio.timeout(30):
                while not server.received:
                    await asyncio.sleep(0.005)
            await asyncio.sleep(0.05)
            task.cancel()
            exchange = await task
            assert task.cancelling() == 1
    assert as_told(exchange) == ("cancelled", "new", 0)
    assert exchange.sent_ns is not None
    assert body_of(exchange) in (b"", EVENT)


async def test_a_request_cancelled_before_it_began_has_its_exchange_too():
    with FakeServer(OK) as server:
        async with client_of(server) as ours:
            ours._connect = _never  # type: ignore[method-assign]
            task = asyncio.create_task(ours.send(b"", "1"))
            await asyncio.sleep(0)
            task.cancel()
            exchange = await task
    assert as_told(exchange) == ("cancelled", None, 0)
    assert exchange.sent_ns is None and exchange.end_ns > 0 and exchange.reads == []


async def _never() -> Any:
    await asyncio.sleep(3600)


async def test_closing_the_client_ends_what_is_in_flight():
    with FakeServer([CHUNKED, Hang()]) as server:
        async with client_of(server) as ours:
            task = asyncio.create_task(ours.send(b"", "1"))
            async with asyncio.timeout(30):
                while not server.received:
                    await asyncio.sleep(0.005)
            await ours.close()
            exchange = await task
    assert (exchange.error_kind, exchange.error) == ("cancelled", "the client was closed")


async def test_an_error_status_leaves_the_connection_usable():
    refusal = sized_answer(b'{"error":{"message":"too long"}}', "400 Bad Request")
    with FakeServer([refusal, OK]) as server:
        async with client_of(server) as ours:
            first = await ours.send(b"", "1")
            second = await ours.send(b"", "2")
    answer = parse_answer(first)
    assert (answer.status, answer.error) == ("http_error", "HTTP 400 Bad Request: too long")
    assert first.error_kind is None and first.status == 400
    assert as_told(second) == (None, "reused", 0)


async def test_redirects_are_not_followed():
    with FakeServer(OK) as other:
        moved = head("307 Temporary Redirect", f"location: {other.url}/", "content-length: 0")
        with FakeServer([moved]) as server:
            ours = Client(Target.parse(server.url, api_key="secret"), timeout_s=60)
            exchange = await ours.send(b"", "1")
            await ours.close()
    answer = parse_answer(exchange)
    assert answer.status == "http_error"
    assert answer.error == (
        f"HTTP 307 Temporary Redirect: redirected to {other.url}/; give the final URL"
    )
    assert other.connections == 0 and len(server.received) == 1


async def test_interim_answers_do_not_count_as_the_first_byte():
    interim = b"HTTP/1.1 100 Continue\r\n\r\n"
    with FakeServer([interim, Pause(0.1), *OK]) as server:
        async with client_of(server) as ours:
            exchange = await ours.send(b"", "1")
    assert exchange.error_kind is None and body_of(exchange) == STREAM
    assert exchange.first_byte_ns is not None and exchange.sent_ns is not None
    assert exchange.first_byte_ns - exchange.sent_ns >= 90_000_000
    assert exchange.first_byte_ns >= exchange.reads[0][0] + 90_000_000


async def test_a_large_body_is_sent_when_its_last_byte_is_taken():
    gate = threading.Event()
    body = b"x" * 8_000_000
    server = FakeServer(OK, before_body=[Wait(gate)], receive_buffer=8192)
    with server:
        async with client_of(server) as ours:
            await ours.open(1)
            task = asyncio.create_task(ours.send(body, "1"))
            await asyncio.sleep(0.1)
            opened = time.perf_counter_ns()
            gate.set()
            exchange = await task
    assert exchange.error_kind is None
    assert server.received[0].body == body
    assert exchange.sent_ns is not None and exchange.body_sent_ns is not None
    assert exchange.sent_ns < opened < exchange.body_sent_ns <= exchange.end_ns


EARLY = sized_answer(b'{"error":"no"}', "413 Content Too Large")


async def check_early(server: FakeServer, target: Target) -> None:
    """An answer before the body was read: what is left of it cannot be another request."""
    ours = Client(target, timeout_s=60)
    await ours.open(1)
    connection = ours._idle[0]
    # more than the kernel takes for a reader that does not read
    exchange = await ours.send(b"x" * 32_000_000, "1")
    assert exchange.status == 413
    assert exchange.sent_ns is not None and exchange.body_sent_ns is None
    assert not connection.usable and not ours._idle
    await ours.close()
    assert server.received == []


async def test_an_answer_before_the_body_was_read_ends_the_connection():
    with FakeServer(OK, before_body=[*EARLY, Hang()], receive_buffer=8192) as server:
        await check_early(server, Target.parse(server.url))


async def test_nobody_listens():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    ours = Client(Target.parse(f"http://127.0.0.1:{port}"), timeout_s=60)
    assert await ours.open(2) == 0
    exchange = await ours.send(b"", "1")
    await ours.close()
    assert as_told(exchange) == ("connect_error", None, 0)
    assert exchange.error == f"cannot connect to 127.0.0.1:{port}: connection refused"
    assert exchange.sent_ns is None and exchange.end_ns > 0


async def test_an_unknown_host(monkeypatch: pytest.MonkeyPatch):
    async def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", unknown)
    ours = Client(Target.parse("http://nowhere.invalid"), timeout_s=60)
    exchange = await ours.send(b"", "1")
    assert exchange.error_kind == "connect_error"
    assert exchange.error == "cannot connect to nowhere.invalid:80: name or service not known"


@pytest.mark.parametrize(
    ("limit_s", "timeout_s", "kind"), [(0.05, 60.0, "connect_error"), (60.0, 0.05, "timeout")]
)
async def test_a_connection_that_never_comes_about(
    monkeypatch: pytest.MonkeyPatch, limit_s: float, timeout_s: float, kind: str
):
    monkeypatch.setattr(client_module, "CONNECT_TIMEOUT_S", limit_s)
    ours = Client(Target.parse("http://127.0.0.1:9"), timeout_s=timeout_s)
    ours._connect = _never  # type: ignore[method-assign]
    async with asyncio.timeout(30):
        exchange = await ours.send(b"", "1")
    assert exchange.error_kind == kind
    assert exchange.error is not None and "no connection within 0.05 s" in exchange.error


async def test_localhost_may_be_another_family():
    """It often means ::1 first, where an engine bound to 127.0.0.1 does not listen."""
    with FakeServer(OK) as server:
        ours = Client(Target.parse(f"http://localhost:{server.port}"), timeout_s=60)
        ours._addresses = [
            (socket.AF_INET6, ("::1", server.port, 0, 0)),
            (socket.AF_INET, ("127.0.0.1", server.port)),
        ]
        assert await ours.open(1) == 1
        assert as_told(await ours.send(b"", "1")) == (None, "reused", 0)
        assert ours._addresses[0][0] == socket.AF_INET
        await ours.close()


async def test_the_waiting_task_is_woken_once():
    class Counting:
        def __init__(self, work: Any) -> None:
            self.work = work
            self.wakes = 0

        def __await__(self) -> Generator[Any, Any, Exchange]:
            inner = self.work.__await__()
            while True:
                try:
                    waited_for = next(inner)
                except StopIteration as done:
                    return done.value
                self.wakes += 1
                yield waited_for

    many = chunked_answer(EVENT * 40 + b"data: [DONE]\n\n", pause_s=0.001)
    with FakeServer(many) as server:
        async with client_of(server) as ours:
            await ours.open(1)
            counting = Counting(ours.send(b"", "1"))
            exchange = await counting
    assert len(exchange.reads) > 10
    assert counting.wakes == 1


async def test_many_at_once():
    def reply(request: Received) -> Reply:
        n = int(request.body)
        return [CHUNKED, *(chunk(b"%d," % n) for _ in range(5)), LAST_CHUNK]

    with FakeServer(reply) as server:
        async with client_of(server) as ours:
            assert await ours.open(50) == 50
            exchanges = await asyncio.gather(*(ours.send(b"%d" % n, f"{n}") for n in range(200)))
    assert [body_of(e) for e in exchanges] == [b"%d," % n * 5 for n in range(200)]
    assert sum(e.connection == "reused" for e in exchanges) == 50
    assert {request.headers["x-request-id"] for request in server.received} == set(
        map(str, range(200))
    )


async def test_a_loop_that_bypasses_our_socket_gets_stamps_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
):
    class Bypassed(client_module.StampedSocket):
        """What uvloop makes of it: it uses the file descriptor and none of the methods."""

        recv = socket.socket.recv
        send = socket.socket.send

    monkeypatch.setattr(client_module, "StampedSocket", Bypassed)
    with FakeServer(OK) as server:
        async with client_of(server) as ours:
            before = time.perf_counter_ns()
            exchange = await ours.send(b"", "1")
    assert exchange.error_kind is None
    assert (exchange.stamp_source, exchange.user_lag_ns) == ("user", None)
    assert exchange.sent_ns is not None and exchange.body_sent_ns is not None
    assert before <= exchange.sent_ns <= exchange.body_sent_ns <= exchange.reads[0][0]


async def test_kernel_stamps_can_be_declined():
    with FakeServer(OK) as server:
        async with client_of(server, kernel_stamps=False) as ours:
            exchange = await ours.send(b"", "1")
    assert exchange.stamp_source == "user"
    assert exchange.sent_ns is not None and exchange.sent_ns <= exchange.reads[0][0]


async def test_one_unstamped_read_makes_all_stamps_the_users():
    with FakeServer(OK) as server:
        async with client_of(server) as ours:
            exchange = await ours.send(b"", "1")
    exchange = _with_raw(exchange, [(5, 10, b"a"), (0, 20, b"b")])
    assert exchange.reads == [(10, b"a"), (20, b"b")]


def _with_raw(exchange: Exchange, raw: list[tuple[int, int, bytes]]) -> Exchange:
    other = Exchange()
    other.raw = raw
    other.status = exchange.status
    return other


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key and a certificate for 127.0.0.1 that nobody has signed but itself."""
    if shutil.which("openssl") is None:
        pytest.skip("needs the openssl command")
    place = tmp_path_factory.mktemp("tls") / "both.pem"
    asked = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    named = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    files = ["-keyout", str(place.with_suffix(".key")), "-out", str(place)]
    subprocess.run(
        ["openssl", *asked, *named, *files],
        check=True,
        capture_output=True,
    )
    place.write_text(place.read_text() + place.with_suffix(".key").read_text())
    return place


def serving(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


async def test_over_tls_the_stamps_are_the_users(certificate: Path):
    trusting = ssl.create_default_context(cafile=str(certificate))
    with FakeServer(OK, tls=serving(certificate)) as server:
        ours = Client(Target.parse(server.url, tls=trusting), timeout_s=60)
        await ours.open(1)
        body = b"x" * 500_000
        exchanges = [await ours.send(body, f"{n}") for n in range(3)]
        await ours.close()
        await asyncio.sleep(0.02)
    for exchange in exchanges:
        assert as_told(exchange) == (None, "reused", 0)
        assert body_of(exchange) == STREAM
        assert exchange.stamp_source == "user"
        assert exchange.sent_ns is not None and exchange.body_sent_ns is not None
        assert exchange.sent_ns < exchange.body_sent_ns < exchange.end_ns
    assert {request.body for request in server.received} == {body}


async def test_over_tls_an_early_answer_ends_the_connection_too(certificate: Path):
    trusting = ssl.create_default_context(cafile=str(certificate))
    early = [*EARLY, Pause(0.3), Close()]
    with FakeServer(OK, tls=serving(certificate), before_body=early, receive_buffer=8192) as server:
        await check_early(server, Target.parse(server.url, tls=trusting))


async def test_a_certificate_that_nobody_signed_is_not_accepted(certificate: Path):
    with FakeServer(OK, tls=serving(certificate)) as server:
        ours = Client(Target.parse(server.url, api_key="secret"), timeout_s=60)
        exchange = await ours.send(b"", "1")
        await ours.close()
    assert exchange.error_kind == "connect_error"
    assert exchange.error is not None and "certificate not accepted" in exchange.error
    assert server.received == []


async def test_tls_to_a_server_without():
    async def answer_plainly(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer_plainly, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    ours = Client(Target.parse(f"https://127.0.0.1:{port}"), timeout_s=60)
    exchange = await ours.send(b"", "1")
    await ours.close()
    server.close()
    assert exchange.error_kind == "connect_error"
    assert exchange.error is not None
    assert exchange.error.startswith(f"cannot connect to 127.0.0.1:{port}: tls: ")


@pytest.mark.parametrize(
    ("url", "line", "host", "port"),
    [
        ("http://h", "POST /v1/chat/completions HTTP/1.1", "h", 80),
        ("http://h:8000/v1", "POST /v1/chat/completions HTTP/1.1", "h:8000", 8000),
        ("https://h/api/v1/", "POST /api/v1/chat/completions HTTP/1.1", "h", 443),
        ("http://[::1]:80", "POST /v1/chat/completions HTTP/1.1", "[::1]:80", 80),
        (
            "http://bücher.example",
            "POST /v1/chat/completions HTTP/1.1",
            "xn--bcher-kva.example",
            80,
        ),
    ],
)
def test_a_url_taken_apart(url: str, line: str, host: str, port: int):
    target = Target.parse(url)
    lines = target.head.decode().split("\r\n")
    assert lines[:2] == [line, f"Host: {host}"]
    assert target.port == port
    assert (target.tls is not None) == url.startswith("https")


def test_credentials_of_a_url_are_sent_and_never_shown():
    target = Target.parse("http://user:p%40ss@h:1")
    assert b"Authorization: Basic dXNlcjpwQHNz\r\n" in target.head
    assert "p%40ss" not in repr(target) and "p@ss" not in repr(target)
    assert b"Bearer key" in Target.parse("http://user:pass@h", api_key="key").head
    own = Target.parse("http://u:p@h", headers={"authorization": "Mine x"}, api_key="key").head
    assert own.lower().count(b"authorization") == 1 and b"Mine x" in own


@pytest.mark.parametrize(
    ("url", "headers"),
    [
        ("ftp://h", {}),
        ("h:8000", {}),
        ("http://", {}),
        ("http://h:port", {}),
        ("http://h", {"Content-Length": "1"}),
        ("http://h", {"X": "a\r\nY: b"}),
        ("http://h/a b", {}),
    ],
)
def test_what_cannot_be_a_target_is_one_line(url: str, headers: dict[str, str]):
    with pytest.raises(UsageError) as refused:
        Target.parse(url, headers=headers)
    assert "\n" not in str(refused.value)


def test_a_request_id_stays_in_its_header():
    with pytest.raises(ValueError, match="printable"):
        Target.parse("http://h").request(b"", "a\r\nX: b")
