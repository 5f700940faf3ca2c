"""The executable: statuses, signals, and that nothing is written before all is known."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.family import environment
from tests.kvstats.streams import MISS_MS, cold, failed, hit

from kvpipe.jsonl import encode

Shell = Callable[..., Any]


@pytest.fixture
def kvstats() -> Iterator[subprocess.Popen[bytes]]:
    """kvstats at the end of a pipe, killed if the test leaves it."""
    with started() as process:
        yield process
        process.kill()


def started() -> subprocess.Popen[bytes]:
    """kvstats with pipes at both ends."""
    return subprocess.Popen(
        [sys.executable, "-m", "kvstats"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    )


def listening(process: subprocess.Popen[bytes], *signals: signal.Signals) -> None:
    """Feed half a stream, then wait until the process minds signals (or has died)."""
    assert process.stdin is not None
    process.stdin.write(cold().lines()[:2000])
    process.stdin.flush()
    status = Path(f"/proc/{process.pid}/status")
    wanted = [1 << (one - 1) for one in signals or (signal.SIGINT, signal.SIGTERM)]
    while process.poll() is None:
        caught = next(x for x in status.read_text().splitlines() if x.startswith("SigCgt"))
        mask = int(caught.split()[1], 16)
        if all(mask & one for one in wanted):
            return


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_waits_for_the_end_of_the_pipe(
    kvstats: subprocess.Popen[bytes], signum: signal.Signals
) -> None:
    listening(kvstats)
    kvstats.send_signal(signum)
    out, _ = kvstats.communicate(cold().lines()[2000:])
    assert json.loads(out)["complete"] is True
    assert kvstats.returncode == -signum


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_the_second_signal_kills(kvstats: subprocess.Popen[bytes]) -> None:
    listening(kvstats)
    kvstats.send_signal(signal.SIGINT)
    while kvstats.poll() is None:  # a signal that arrives with another one is the same signal
        kvstats.send_signal(signal.SIGTERM)
    assert kvstats.returncode in (-signal.SIGTERM, -signal.SIGINT)
    assert kvstats.stdout is not None
    assert kvstats.stdout.read() == b""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_a_signal_that_is_ignored_stays_ignored() -> None:
    """A job in the background of a script ignores SIGINT; it must not begin to die of it."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        process = started()
    finally:
        signal.signal(signal.SIGINT, before)
    with process:
        listening(process, signal.SIGTERM)
        for _ in range(3):
            process.send_signal(signal.SIGINT)
        out, _ = process.communicate(cold().lines()[2000:])
    assert json.loads(out)["complete"] is True
    assert process.returncode == 0


def test_avg_ttft_is_in_seconds(sh: Shell) -> None:
    done = sh("kvstats > r1.json && cat r1.json", stdin=cold(followers=0).lines().decode())
    assert done.status == 0
    assert done.err == ""
    (line,) = done.out.splitlines()
    assert json.loads(line)["avg_ttft"] == pytest.approx(MISS_MS / 1e3)


def test_one_line_a_round_from_several_files(sh: Shell, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(cold().lines())
    (tmp_path / "b").write_bytes(hit().lines())
    done = sh("gzip -k a; kvstats a.gz - < b")
    assert done.status == 0
    assert [json.loads(line)["round_num"] for line in done.out.splitlines()] == [1, 2]


@pytest.mark.parametrize("made", [cold(), hit()], ids=["cold", "hit"])
def test_without_its_end_zero_becomes_one(sh: Shell, made: Any) -> None:
    lines = made.lines().decode().splitlines(keepends=True)
    assert sh("kvstats", stdin="".join(lines)).status == 0
    cut = sh("kvstats", stdin="".join(lines[:-1]))
    assert cut.status == 1
    assert json.loads(cut.out)["complete"] is False
    assert "has no end" in cut.err
    assert len(cut.err.splitlines()) == 1


def test_one_incomplete_round_among_many(sh: Shell) -> None:
    text = cold().lines().decode() + hit().foot(complete=False).lines().decode()
    done = sh("kvstats", stdin=text)
    assert done.status == 1
    assert [json.loads(line)["complete"] for line in done.out.splitlines()] == [True, False]


def test_nothing_succeeded_is_status_1(sh: Shell) -> None:
    done = sh("kvstats", stdin=cold().map(failed).lines().decode())
    assert done.status == 1
    assert json.loads(done.out)["avg_ttft"] is None


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("kvstats --slo ttft", "--slo ttft: NAME=DURATION is expected"),
        ("kvstats --slo ttft=2h", "--slo ttft=2h"),
        ("kvstats --slo speed=2s", "ttft, tpot, e2e, second_token"),
        ("kvstats --slo ttft=1s --slo ttft=2s", "limited twice"),
        ("kvstats --per-request --format table", "leave out --format table"),
        ("kvstats nowhere.jsonl", "nowhere.jsonl: no such file or directory"),
        ("kvstats < /dev/null", "-: no `run` line"),
        ("kvstats --format csv", "invalid choice"),
    ],
)
def test_what_cannot_be_is_one_line_and_status_2(sh: Shell, command: str, words: str) -> None:
    done = sh(command)
    assert done.status == 2
    assert done.out == ""
    assert words in done.err.splitlines()[-1]
    assert "Traceback" not in done.err


def test_a_broken_line_at_the_end_costs_the_whole_summary(sh: Shell) -> None:
    done = sh("kvstats", stdin=cold().lines().decode() + '{"record":"run"}\n')
    assert (done.status, done.out) == (2, "")
    assert done.err.startswith("kvstats: stdin:16: run: ")


def test_request_stats_come_before_the_rounds(sh: Shell) -> None:
    made = cold()
    done = sh("kvstats --per-request", stdin=made.lines().decode())
    lines = [json.loads(line) for line in done.out.splitlines()]
    assert [line["record"] for line in lines] == ["request_stats"] * 13 + ["round_stats"]
    assert lines[0]["meets_slo"] is None
    assert [line["cached_tokens"] for line in lines[:13]] == [
        one.cached_tokens for one in made.requests
    ]
    assert lines[13] == json.loads(sh("kvstats", stdin=made.lines().decode()).out)


def test_a_closed_stdout_is_sigpipe(sh: Shell) -> None:
    done = sh("kvstats --per-request | true", stdin=(cold(uniques=2000).lines()).decode())
    assert done.status in (0, 141)
    assert "Traceback" not in done.err


def test_hostile_names_reach_no_terminal(sh: Shell) -> None:
    made = cold().head(name="\x1b[31mred\x07")
    done = sh("kvstats --format table", stdin=made.lines().decode())
    assert "\x1b" not in done.out
    assert "red" in done.out
    assert encode(made.run).decode().count("\\u001b") == 1
