"""How a process of the family ends, seen from outside: by its parent, through real pipes."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from tests.family import environment

EVERYTHING = "from kvpipe.process import *\nimport sys, os, signal\n"


def run(
    tmp_path: Path,
    body: str,
    *arguments: str,
    stdout: int = subprocess.PIPE,
    stderr: int = subprocess.PIPE,
) -> subprocess.CompletedProcess[str]:
    """A tool whose main is `body`, as a process of its own."""
    program = tmp_path / "tool.py"
    main = "def main(argv):\n" + textwrap.indent(textwrap.dedent(body), "    ")
    program.write_text(f"{EVERYTHING}{main}\nrun_tool('tool', main)\n", encoding="utf-8")
    return subprocess.run(
        [sys.executable, str(program), *arguments],
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        env=environment(),
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("status", [0, 1, 2])
def test_status_is_what_main_returns(tmp_path: Path, status: int) -> None:
    done = run(tmp_path, f"print('data'); return {status}")
    assert (done.returncode, done.stdout, done.stderr) == (status, "data\n", "")


def test_expected_failure_is_one_line_and_its_status(tmp_path: Path) -> None:
    done = run(tmp_path, "raise ToolError('no end record', status=1)")
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "tool: no end record\n")


def test_usage_is_status_2(tmp_path: Path) -> None:
    done = run(tmp_path, "raise UsageError('--round needs a plan')")
    assert (done.returncode, done.stderr) == (2, "tool: --round needs a plan\n")


def test_missing_file_names_the_file(tmp_path: Path) -> None:
    done = run(tmp_path, "print('data'); open('nowhere.jsonl')")
    assert (done.returncode, done.stdout) == (2, "data\n")
    assert done.stderr == "tool: nowhere.jsonl: no such file or directory\n"


@pytest.mark.parametrize("flag", ["-v", "--verbose"])
def test_verbose_shows_where(tmp_path: Path, flag: str) -> None:
    done = run(tmp_path, "raise ToolError('no end record')", flag)
    assert done.returncode == 2
    assert "Traceback" in done.stderr
    assert done.stderr.endswith("\ntool: no end record\n")


def test_a_mistake_of_ours_is_not_hidden(tmp_path: Path) -> None:
    done = run(tmp_path, "return 1 // 0")
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stderr


@pytest.mark.parametrize("body", ["raise KeyboardInterrupt", "raise Stopped(signal.SIGINT)"])
def test_it_dies_of_sigint(tmp_path: Path, body: str) -> None:
    done = run(tmp_path, f"print('data')\n{body}")
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "data\n", "")


def test_it_dies_of_sigterm_when_stopped_by_it(tmp_path: Path) -> None:
    assert run(tmp_path, "raise Stopped(signal.SIGTERM)").returncode == -signal.SIGTERM


def test_an_interrupt_ends_a_shell_loop_around_it(tmp_path: Path) -> None:
    """With a mere `exit 130` bash would go on to the next turn. Ctrl-C reaches both, as here."""
    program = tmp_path / "tool.py"
    program.write_text(
        f"{EVERYTHING}def main(argv):\n    os.killpg(0, signal.SIGINT)\n    signal.pause()\n"
        "run_tool('tool', main)\n",
        encoding="utf-8",
    )
    loop = f'for i in 1 2 3; do echo "$i"; {sys.executable} {program}; done; echo done'
    done = subprocess.run(
        ["bash", "-c", loop],
        capture_output=True,
        env=environment(),
        text=True,
        timeout=60,
        start_new_session=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (-signal.SIGINT, "1\n")


def closed_pipe() -> int:
    reader, writer = os.pipe()
    os.close(reader)
    return writer


@pytest.mark.parametrize(
    "body",
    [
        "print('data'); return 0",  # met when flushed at the end
        "sys.stdout.write('x' * 200_000); return 0",  # met while writing
        "print('help'); sys.exit(0)",  # as argparse ends after --help
    ],
)
def test_a_closed_stdout_is_death_by_sigpipe_without_a_word(tmp_path: Path, body: str) -> None:
    writer = closed_pipe()
    done = run(tmp_path, body, stdout=writer)
    os.close(writer)
    assert (done.returncode, done.stderr) == (-signal.SIGPIPE, "")


@pytest.mark.parametrize("body", ["print('data'); return 0", "print('help'); sys.exit(0)"])
def test_a_full_disk_is_one_line(tmp_path: Path, body: str) -> None:
    with Path("/dev/full").open("w") as full:
        done = run(tmp_path, body, stdout=full.fileno())
    assert (done.returncode, done.stderr) == (2, "tool: no space left on device\n")


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_disk_that_fills_is_said_with_python_unbuffered_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unbuffered: str
) -> None:
    """Python alone writes what fits, drops the rest and ends with 0."""
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    body = """
    import resource
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
    print("x" * 8000)
    return 0
    """
    with (tmp_path / "out").open("wb") as out:
        done = run(tmp_path, body, stdout=out.fileno())
    assert (done.returncode, done.stderr) == (2, "tool: file too large\n")


def test_an_unbuffered_tool_shows_each_line_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONUNBUFFERED", "1")
    done = run(tmp_path, "print('one \u8282'); sys.stdout.buffer.write(b'two'); os._exit(0)")
    assert done.stdout == "one \u8282\n"


@pytest.mark.parametrize(
    "error",
    [
        "MemoryError()",
        'RuntimeError("can\'t start new thread")',
        "ImportError('x.so: failed to map segment from shared object')",
    ],
)
def test_memory_that_ended_is_one_line(tmp_path: Path, error: str) -> None:
    done = run(tmp_path, f"raise {error}")
    assert done.returncode == 2
    assert done.stderr == "tool: out of memory, or no thread to be had: see `ulimit -a`\n"


def test_a_usage_error_quotes_neither_escapes_nor_keys(tmp_path: Path) -> None:
    body = "new_parser('tool', 'It.', '').parse_args(argv)"
    flags = ("--bad\x1b[31m\n", "--api-key", "sk-1", "--Auth-Token=sk-2", "http://u:sk-3@h/x")
    done = run(tmp_path, body, *flags)
    said = "--bad\\x1b[31m\\n --api-key ... --Auth-Token=... http://h/x"
    assert done.returncode == 2
    assert done.stderr.endswith(f"\ntool: error: unrecognized arguments: {said}\n")


def test_a_closed_stderr_loses_no_data(tmp_path: Path) -> None:
    writer = closed_pipe()
    done = run(tmp_path, "complain('a word'); print('data'); return 0", stderr=writer)
    os.close(writer)
    assert (done.returncode, done.stdout) == (0, "data\n")


def test_sigpipe_stays_ignored_while_the_tool_runs(tmp_path: Path) -> None:
    """A peer that hangs up is an error of one request, not the end of a tool full of sockets."""
    body = """
    import socket
    near, far = socket.socketpair()
    far.close()
    try:
        near.send(b"x")
    except BrokenPipeError:
        print("still here")
    return 0
    """
    assert run(tmp_path, body).stdout == "still here\n"


def test_reading_a_terminal_is_refused(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    program = "from kvpipe import jsonl\nwith jsonl.open_lines(None): pass\n"
    done = subprocess.run(
        [sys.executable, "-c", program],
        stdin=theirs,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    os.close(ours)
    os.close(theirs)
    assert "UsageError: nothing to read" in done.stderr
