"""Faults of TLS (tests/faults.py), through the real kvload: before a round, and within a stream."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.conftest import Done
from tests.fakeserver import Close, Received, Reply, Reset
from tests.faults import TLS_ANSWERED, TLS_REFUSED, Answered, Refused, row_named
from tests.faulty import SOON, TWO, Faulty, answered_as, kvload, records, workload
from tests.tlsserver import Certificate, Raw, TlsServer, Unwrap, certificate

Shell = Callable[..., Done]
GARBAGE = b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n"


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return certificate(tmp_path_factory.mktemp("tls"))


@pytest.mark.parametrize("row", TLS_REFUSED, ids=lambda row: row.name)
def test_tls_that_is_refused(row: Refused, sh: Shell, tmp_path: Path, good: Certificate) -> None:
    shown, trusted = good, True
    match row.name:
        case "tls-unsigned":
            trusted = False
        case "tls-expired":
            shown = certificate(tmp_path, expired=True)
        case "tls-wrong-host":
            shown = certificate(tmp_path, "127.0.0.2")
    faulty = Faulty([])
    with TlsServer(faulty, None if row.name == "tls-plain" else shown.context()) as server:
        server.greetings = [GARBAGE] * 99 if row.name == "tls-plain" else []
        own = f"SSL_CERT_FILE={shown.file} " if trusted else ""
        done = sh(own + kvload(server.url, workload(tmp_path, "good")))
    assert (done.status, done.out) == (2, "")
    assert row.said in done.err and len(done.err.splitlines()) == 1
    assert not faulty.asked


REPLIES = {
    "tls-reset": [*TWO, SOON, Reset()],
    "tls-garbage": [*TWO, SOON, Raw(GARBAGE), SOON],
    "tls-cut": [*TWO, SOON, Close()],
    "tls-closed": [*TWO, SOON, Unwrap()],
}


@pytest.mark.parametrize("row", TLS_ANSWERED, ids=lambda row: row.name)
def test_tls_that_breaks(row: Answered, sh: Shell, tmp_path: Path, good: Certificate) -> None:
    faulty = Faulty(REPLIES[row.name])
    work = workload(tmp_path, "good one", "bad two", "good three")
    with TlsServer(faulty, good.context()) as server:
        done = sh(f"SSL_CERT_FILE={good.file} {kvload(server.url, work)}")
    answered_as(row, done, faulty)


def test_tls_that_ends_in_the_round(sh: Shell, tmp_path: Path, good: Certificate) -> None:
    row = row_named("tls-gone")
    faulty = Faulty([Reset()])

    def answer(request: Received) -> Reply:
        reply = faulty(request)
        if faulty.met.is_set():
            server.greetings = [GARBAGE] * 99
        return reply

    work = workload(tmp_path, "good one", "bad two", "good three")
    with TlsServer(answer, good.context()) as server:
        done = sh(f"SSL_CERT_FILE={good.file} {kvload(server.url, work)}")
    told = records(done.out, "request")
    assert [one["status"] for one in told] == ["ok", "connect_error", "connect_error"]
    assert done.status == row.returned and faulty.bad_seen == 1
    assert row.said in told[1]["error"] and row.said in done.err
    assert records(done.out, "end")[0]["failed"] == 2
