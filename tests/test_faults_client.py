"""Faults of our own processes (tests/faults.py): signals, outputs that end, limits that are met.

The rule that each signal is held to: no request that ended more than a second before is lost.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.conftest import Done
from tests.fakeserver import FakeServer, Hang
from tests.family import ROOT, environment
from tests.faults import row_named
from tests.faulty import TWO, Faulty, Records, kvload, records, workload

Shell = Callable[..., Done]
GOOD = 20
VALID = ROOT / "schemas" / "examples" / "valid"

# --- signals -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Signalled:
    """What was left of a kvload that got a signal a good second after its last whole answer."""

    status: int
    err: str
    answered: int
    told: Records
    ends: Records
    children: list[int]


SIGNALS = {
    "sigint": ("", "SIGINT"),
    "sigterm": ("", "SIGTERM"),
    "sighup": ("", "SIGHUP"),
    "sigkill": ("", "SIGKILL"),
    "sigkill-parent": ("--concurrency 2 --workers 2", "SIGKILL"),
    "sigkill-worker": ("--concurrency 2 --workers 2", "worker"),
}


def signalled(name: str, folder: Path) -> Signalled:
    """Twenty answers, then those that stall; more than a second later the signal comes."""
    flags, sent = SIGNALS[name]
    faulty = Faulty([*TWO, Hang()])
    folder.mkdir()
    work = workload(folder, *(f"good {number}" for number in range(GOOD)), "bad one", "bad two")
    out = folder / "out.jsonl"
    with FakeServer(faulty) as server, out.open("wb") as stream:
        process = subprocess.Popen(
            [*kvload(server.url, work).split(), *flags.split()],
            stdout=stream,
            stderr=subprocess.PIPE,
            env=environment(),
            text=True,
        )
        try:
            assert faulty.met.wait(60), "no request has stalled"
            until(lambda: faulty.good_seen == GOOD)
            time.sleep(1.2)
            workers = children(process.pid)
            if sent == "worker":
                os.kill(workers[1], signal.SIGKILL)
            else:
                process.send_signal(signal.Signals[sent])
            _, err = process.communicate(timeout=60)
        finally:
            process.kill()
    text = out.read_text()
    return Signalled(
        status=process.returncode if process.returncode >= 0 else 128 - process.returncode,
        err=err,
        answered=faulty.good_seen,
        told=records(text, "request"),
        ends=records(text, "end"),
        children=workers,
    )


@pytest.fixture(scope="module")
def each_signal(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Signalled]:
    """All at once: nearly all of their time is waiting."""
    folder = tmp_path_factory.mktemp("signals")
    with ThreadPoolExecutor(len(SIGNALS)) as pool:
        found = {name: pool.submit(signalled, name, folder / name) for name in SIGNALS}
    return {name: one.result() for name, one in found.items()}


@pytest.mark.parametrize("name", SIGNALS)
def test_a_signal_loses_no_request(name: str, each_signal: dict[str, Signalled]) -> None:
    row, left = row_named(name), each_signal[name]
    assert left.status == row.returned and left.answered == GOOD
    assert row.said in left.err and "Traceback" not in left.err
    ok = [one["index"] for one in left.told if one["status"] == "ok"]
    assert sorted(ok) == [*range(GOOD)], "a request that ended more than a second before is lost"
    others = [one["status"] for one in left.told if one["status"] != "ok"]
    if "`end`, `complete` false" not in row.recorded:
        assert not left.ends and not others
        return
    (end,) = left.ends
    assert (end["complete"], end["ok"], end["failed"]) == (False, GOOD, len(others))
    assert end["reason"] and others and {*others} <= {"cancelled", "truncated"}


def test_no_worker_outlives_its_parent(each_signal: dict[str, Signalled]) -> None:
    pids = [pid for left in each_signal.values() for pid in left.children]
    assert len(pids) == 4
    until(lambda: not any(map(running, pids)))


def children(pid: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def until(true: Callable[[], bool], patience_s: float = 60) -> None:
    deadline = time.monotonic() + patience_s
    while not true():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.01)


def test_a_client_that_is_stopped_and_goes_on(sh: Shell, tmp_path: Path) -> None:
    """Sixty requests in a second and a half, and for a second of it the client does not run."""
    row = row_named("sigstop")
    faulty = Faulty([])
    work = workload(tmp_path, *(f"good {number}" for number in range(60)))
    with FakeServer(faulty) as server, (tmp_path / "out.jsonl").open("wb") as stream:
        line = f"{kvload(server.url, work)} --rate 40 --arrival constant"
        process = subprocess.Popen(line.split(), stdout=stream, env=environment())
        until(lambda: faulty.good_seen >= 2)
        process.send_signal(signal.SIGSTOP)
        time.sleep(1)
        process.send_signal(signal.SIGCONT)
        assert process.wait(60) == row.returned == 0
    told = records((tmp_path / "out.jsonl").read_text(), "request")
    assert [one["status"] for one in told] == ["ok"] * 60
    late = [one["sent_ns"] - one["scheduled_ns"] for one in told]
    assert sum(wait > 0.1e9 for wait in late) > 15, "each says how late it was"
    (stats,) = records(sh("kvstats out.jsonl").out, "round_stats")
    assert row.said == "" and stats["complete"]
    assert "client_limited" in [finding["code"] for finding in stats["findings"]]


# --- outputs that end ----------------------------------------------------------------------------

WRITES = {
    "kvplan": "kvplan --scenario cold_start --requests 200 --context-tokens 640",
    "kvstats": f"kvstats {VALID}/stream.jsonl",
    "kvreport": f"kvreport {VALID}/round_stats.jsonl",
    "kvmatrix": f"kvmatrix -q {ROOT}/configs/matrix_concurrency_sweep.yaml",
}


def complaint(tool: str, text: str) -> str:
    """The one line of a tool that could not go on."""
    assert "Traceback" not in text
    line = text.splitlines()[-1]
    assert re.fullmatch(rf"{tool}: [^A-Z].*[^.]", line), text
    return line


@pytest.mark.parametrize("tool", WRITES)
def test_a_reader_that_has_gone(tool: str, sh: Shell) -> None:
    row = row_named("closed-stdout")
    gone = "exec 3> >(:); wait $!"  # a pipe whose reader has ended
    done = sh(f"{gone}; {WRITES[tool]} >&3")
    assert (done.status, done.out) == (row.returned, "")
    assert "BrokenPipe" not in done.err and "Traceback" not in done.err


def test_a_reader_that_goes_in_the_round(tmp_path: Path) -> None:
    """`kvload | head -n 6`: what was read is whole, and nothing more is sent."""
    row = row_named("reader-goes")
    faulty = Faulty([])
    work = workload(tmp_path, *(f"good {number}" for number in range(2000)))
    with FakeServer(faulty) as server:
        process = subprocess.Popen(
            kvload(server.url, work).split(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(),
            text=True,
        )
        assert process.stdout is not None and process.stderr is not None
        lines = [process.stdout.readline() for _ in range(6)]
        process.stdout.close()
        err = process.stderr.read()
        assert process.wait(60) == 128 - row.returned
        process.stderr.close()
    assert [json.loads(line)["record"] for line in lines] == ["run", *["request"] * 5]
    assert "Traceback" not in err and faulty.good_seen < 2000


@pytest.mark.parametrize("tool", WRITES)
def test_a_disk_that_is_full(tool: str, sh: Shell) -> None:
    row = row_named("full-disk")
    done = sh(f"{WRITES[tool]} > /dev/full")
    assert (done.status, done.out) == (row.returned, "")
    assert row.said in complaint(tool, done.err)


@pytest.mark.parametrize(
    ("tool", "unbuffered"), [("kvplan", ""), ("kvstats", "1"), ("kvreport", ""), ("kvreport", "1")]
)
def test_an_output_that_fills_its_disk(tool: str, unbuffered: str, sh: Shell) -> None:
    """Where Python does not buffer it writes once, drops the rest, and would end with 0."""
    row = row_named("output-fills")
    done = sh(f"export PYTHONUNBUFFERED={unbuffered}; ulimit -f 4; {WRITES[tool]} > out")
    assert done.status == row.returned
    assert row.said in complaint(tool, done.err)


def test_a_report_that_fills_its_disk(sh: Shell, tmp_path: Path) -> None:
    row = row_named("report-fills")
    done = sh(f"ulimit -f 8; kvreport {VALID}/round_stats.jsonl -o out")
    assert done.status == row.returned
    assert row.said in complaint("kvreport", done.err)
    named = [Path(line).name for line in done.err.splitlines()[:-1]]
    assert named == ["report.txt", "report.md"], "what is named is whole"


@pytest.mark.parametrize("unbuffered", ["", "1"], ids=["", "unbuffered"])
def test_a_disk_that_fills(unbuffered: str, sh: Shell, tmp_path: Path) -> None:
    row = row_named("disk-fills")
    work = workload(tmp_path, *(f"good {number}" for number in range(40)))
    with FakeServer(Faulty([])) as server:
        line = f"{kvload(server.url, work)} > out.jsonl"
        done = sh(f"export PYTHONUNBUFFERED={unbuffered}; ulimit -f 16; {line}")
    assert done.status == row.returned
    assert row.said in complaint("kvload", done.err)
    whole = (tmp_path / "out.jsonl").read_text().rpartition("\n")[0]
    told = [one["index"] for one in records(whole, "request")]
    assert told == [*range(len(told))] and 0 < len(told) < 40
    assert not records(whole, "end")
    after = sh("kvstats out.jsonl")
    assert after.status == 1 and "has no end" in after.err
    (stats,) = records(after.out, "round_stats")
    assert not stats["complete"]


# --- limits --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["descriptors", "descriptors-workers"])
def test_more_streams_than_files(name: str, sh: Shell, tmp_path: Path) -> None:
    row = row_named(name)
    faulty = Faulty([])
    workers = "--workers 2" if name == "descriptors-workers" else ""
    with FakeServer(faulty) as server:
        line = kvload(server.url, workload(tmp_path, *["good"] * 500))
        done = sh(f"ulimit -n 128; {line} --concurrency 500 {workers}")
    assert (done.status, done.out) == (row.returned, "")
    assert row.said in complaint("kvload", done.err) and not faulty.good_seen


def test_more_connections_than_files_of_a_simulator() -> None:
    """Thirty connections to a server that may have a few: the others wait, and are served then."""
    row = row_named("descriptors-kvsim")
    with subprocess.Popen(
        ["bash", "-c", "ulimit -n 24; exec kvsim --port 0 --flat --ttft-ms 1 --itl-ms 0.1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
        text=True,
    ) as engine:
        assert engine.stdout is not None
        port = json.loads(engine.stdout.readline())["port"]
        try:
            with contextlib.ExitStack() as stack:
                held = [
                    stack.enter_context(socket.create_connection(("127.0.0.1", port), 60))
                    for _ in range(30)
                ]
                answers = [asked(one) for one in held[:3]]
                time.sleep(0.3)  # it meets the limit again and again meanwhile
                for one in held[3:-1]:
                    one.close()
                answers.append(asked(held[-1]))
        finally:
            engine.send_signal(signal.SIGTERM)
            _, err = engine.communicate(timeout=60)
    assert all(answer.startswith(b"HTTP/1.1 200 ") for answer in answers)
    assert 128 - engine.returncode == row.returned
    assert row.said in complaint("kvsim", err) and len(err.splitlines()) == 1


def asked(connection: socket.socket) -> bytes:
    connection.sendall(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n")
    return connection.recv(4096)


MEMORY = {
    "memory-plan": ("kvload", 300, kvload("http://127.0.0.1:9", Path("-"))),
    "memory-stats": ("kvstats", 450, "kvstats"),
    "memory-report": ("kvreport", 600, "kvreport"),
}


@pytest.mark.parametrize("name", MEMORY)
def test_a_line_for_which_there_is_no_memory(name: str, sh: Shell) -> None:
    row, (tool, limit_mb, line) = row_named(name), MEMORY[name]
    few = "export OPENBLAS_NUM_THREADS=1"  # it wants memory for each processor of the machine
    done = sh(f"{few}; head -c {limit_mb}000000 /dev/zero | (ulimit -v {limit_mb}000; {line})")
    assert (done.status, done.out) == (row.returned, "")
    assert row.said in complaint(tool, done.err) and len(done.err.splitlines()) == 1
