"""The table of faults (tests/faults.py), row by row, through the real executables."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.conftest import Done
from tests.fakeserver import FakeServer, Hang, Received, Reply, Reset, sized_answer
from tests.family import ROOT, environment
from tests.faults import (
    ANSWERED,
    PIPED,
    REFUSED,
    ROWS,
    TLS_ANSWERED,
    TLS_REFUSED,
    Answered,
    Refused,
    Row,
    row_named,
)
from tests.faulty import REPLIES, Faulty, answered_as, giant, kvload, records, workload

Shell = Callable[..., Done]

# --- the table itself ----------------------------------------------------------------------------


def test_every_row_has_a_name_of_its_own() -> None:
    names = [row.name for row in ROWS]
    assert len(names) == len(set(names)) >= 100
    assert {row.name for row in ANSWERED} == set(REPLIES)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_every_row_is_driven_by_the_test_that_it_names(row: Row) -> None:
    path, _, name = row.where.partition("::")
    text = (ROOT / path).read_text("utf-8")
    assert re.search(rf"^(?:async )?def {name}\(", text, re.M)
    listed = {one.name for one in (*ANSWERED, *TLS_ANSWERED, *TLS_REFUSED, *REFUSED, *PIPED)}
    assert row.name in listed or f'"{row.name}"' in text


# --- servers -------------------------------------------------------------------------------------


def driven(row: Answered, folder: Path) -> tuple[Faulty, Done]:
    """kvload sends three requests, and the second one's answer is the fault."""
    faulty = Faulty(REPLIES[row.name], once=row.name == "reset-once")
    folder.mkdir(exist_ok=True)
    work = workload(folder, "good one", "bad two", "good three")
    with FakeServer(faulty) as server:
        line = kvload(server.url, work, 2 if row.status == "timeout" else 60)
        done = subprocess.run(
            line.split(), capture_output=True, env=environment(), text=True, timeout=120
        )
    return faulty, Done(status=done.returncode, out=done.stdout, err=done.stderr)


@pytest.fixture(scope="module")
def stalled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Faulty, Done]]:
    """Those that wait for --timeout, all at once."""
    folder = tmp_path_factory.mktemp("stalled")
    rows = [row for row in ANSWERED if row.status == "timeout"]
    with ThreadPoolExecutor(len(rows)) as pool:
        found = {row.name: pool.submit(driven, row, folder / row.name) for row in rows}
    return {name: one.result() for name, one in found.items()}


@pytest.mark.parametrize("row", ANSWERED, ids=lambda row: row.name)
def test_an_answer_that_is_a_fault(
    row: Answered, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if row.status == "timeout":
        faulty, done = request.getfixturevalue("stalled")[row.name]
    else:
        faulty, done = driven(row, tmp_path)
    answered_as(row, done, faulty)


def test_a_server_that_goes_away(sh: Shell, tmp_path: Path) -> None:
    row = row_named("gone")
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


@pytest.mark.parametrize("row", REFUSED, ids=lambda row: row.name)
def test_a_server_that_is_refused(row: Refused, sh: Shell, tmp_path: Path) -> None:
    faulty = Faulty([])

    def answer(request: Received) -> Reply:
        if row.name == "silent-before":
            return [Hang()]
        if row.name == "dead-before" and request.line.startswith("GET /health"):
            return sized_answer(b"", "503 Service Unavailable")
        return faulty(request)

    with FakeServer(answer) as server:
        if row.name == "refused":
            server._server.close()
        done = sh(kvload(server.url, workload(tmp_path, "good"), timeout_s=2))
    assert (done.status, done.out) == (2, "")
    assert row.said in done.err and len(done.err.splitlines()) == 1
    assert not faulty.good_seen


# --- clients -------------------------------------------------------------------------------------


def test_memory_that_ends(sh: Shell, tmp_path: Path) -> None:
    row = row_named("memory")
    with FakeServer(Faulty(giant(200))) as server:
        work = workload(tmp_path, "good one", "bad two")
        done = sh(f"ulimit -v 300000; {kvload(server.url, work)}")
    told = [one["status"] for one in records(done.out, "request")]
    assert told == ["ok", "truncated"]
    assert done.status == row.returned
    assert row.said in done.err and "Traceback" not in done.err
    assert records(done.out, "end")[0]["complete"] is True
