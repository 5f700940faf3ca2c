"""What every tool of the family does alike, seen from a shell: one table for all of them.

A tool that is new in pyproject.toml is under the first half at once; it gets rows in the tables of
the second half, and a test fails until it has.
"""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import IO, Any

import pytest
from tests.family import ROOT, SCRIPTS, TOOLS, environment
from tests.simulated import kvsim

VALID = ROOT / "schemas" / "examples" / "valid"
HEAVY = ("aiohttp", "jsonschema", "matplotlib", "numpy", "scipy", "tabulate", "yaml")
VERSION = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.M)

# A port at which nobody listens: the connection is refused at once.
NOWHERE = "http://127.0.0.1:9"

# A command line that writes to stdout, without a server or with ours.
WORKS: dict[str, str] = {
    "kvclear": "--dry-run --vllm {url}",
    "kvdoctor": "--url {url} -q",
    "kvload": "--url {url} --scenario cold_start --requests 2 --context-tokens 64 --sentinels 0 "
    "--output-tokens 2 --round 1 --warmup 0 -q",
    "kvmatrix": f"{ROOT}/configs/matrix_concurrency_sweep.yaml -q",
    "kvplan": "--scenario cold_start --requests 2 --context-tokens 64",
    "kvreport": f"{VALID}/round_stats.jsonl",
    "kvsim": "--port 0",
    "kvstats": f"{VALID}/stream.jsonl",
}
# Command lines that cannot be carried out: status 2, one line, nothing on stdout.
FAILS: dict[str, list[str]] = {
    "kvclear": ["", "--vllm not-a-url", "--isolate"],
    "kvdoctor": [
        "",
        "--url not-a-url",
        f"--url {NOWHERE}",
        "--url {url} --model no-such-model",
        "--url {url} --engine oven=http://127.0.0.1:9",
    ],
    "kvload": [
        "",
        f"--url {NOWHERE} --scenario cold_start --requests 1 --context-tokens 64",
        "--url {url} --scenario no_such_scenario",
        "--url {url} --workload nowhere.jsonl",
        "--url {url} --config nowhere.yaml",
        "--url {url} --scenario cold_start --round 1 --salt auto",
        "--url {url} --model no-such-model --scenario cold_start",
    ],
    "kvmatrix": [
        "",
        "nowhere.yaml",
        f"{ROOT}/configs/test_config_simple.yaml",
        f"{ROOT}/configs/matrix_full.yaml",
        f"{ROOT}/configs/matrix_concurrency_sweep.yaml --only nobody",
        f"{ROOT}/configs/matrix_concurrency_sweep.yaml --summary --only nobody",
        f"{ROOT}/configs/matrix_concurrency_sweep.yaml --check --summary",
    ],
    "kvplan": ["", "--scenario no_such_scenario", "--scenario cold_start --requests none"],
    "kvreport": ["nowhere.json", "--format pdf nowhere.json", f"{VALID}/finding.json"],
    "kvsim": ["--port none", "--role cook", "--fault no-such-fault"],
    "kvstats": ["nowhere.jsonl", "--slo ttft=soon", f"{VALID}/finding.json"],
}
# Command lines that read standard input.
READS: dict[str, list[str]] = {
    "kvload": ["--url {url} --workload -"],
    "kvreport": ["", "-"],
    "kvstats": ["", "-"],
}


def rows(table: dict[str, list[str]]) -> list[tuple[str, str]]:
    return [(tool, line) for tool in TOOLS for line in table.get(tool, [])]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A simulated engine that answers at once."""
    with kvsim("--flat", "--ttft-ms", "1", "--itl-ms", "0.1") as engine:
        yield engine.url


def started(command: str, stdin: int = subprocess.DEVNULL) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command.split(),
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
        text=True,
    )


def is_complaint(tool: str, text: str) -> bool:
    """`prog: message`: the last line; usage may stand before it. Lower case, no full stop."""
    line = text.splitlines()[-1] if text else ""
    return re.fullmatch(rf"{tool}: [^A-Z].*[^.]", line) is not None and "Traceback" not in text


def test_every_tool_has_its_rows() -> None:
    assert TOOLS
    assert set(WORKS) == set(FAILS) == set(TOOLS)


# --- help and version ----------------------------------------------------------------------------


@pytest.mark.parametrize("flag", ["-h", "--help"])
@pytest.mark.parametrize("tool", TOOLS)
def test_help(tool: str, flag: str, sh: Callable[..., Any]) -> None:
    done = sh(f"{tool} {flag}")
    assert (done.status, done.err) == (0, "")
    assert done.out.startswith(f"usage: {tool} ")
    assert "exit status:\n  0 " in done.out
    examples = done.out.partition("\nexamples:\n")[2]
    assert len(re.findall(rf"^ .*\b{tool}\b", examples, re.M)) >= 2
    wide = [line for line in done.out.splitlines() if len(line) > 80]
    assert not wide


@pytest.mark.parametrize("tool", TOOLS)
def test_help_does_not_depend_on_the_terminal(tool: str, sh: Callable[..., Any]) -> None:
    assert sh(f"COLUMNS=200 {tool} --help").out == sh(f"COLUMNS=40 {tool} --help").out


@pytest.mark.parametrize("tool", TOOLS)
def test_help_imports_nothing_heavy(tool: str) -> None:
    module, _, function = SCRIPTS[tool].partition(":")
    program = f"import sys; sys.argv = ['{tool}', '--help']; from {module} import {function}"
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", f"{program}; {function}()"],
        capture_output=True,
        env=environment(),
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "kvpipe.process" in imported, "the list of imports was not understood"
    heavy = sorted(imported & set(HEAVY))
    assert not heavy


@pytest.mark.parametrize("tool", TOOLS)
def test_version(tool: str, sh: Callable[..., Any]) -> None:
    done = sh(f"{tool} --version")
    assert VERSION is not None
    assert (done.status, done.out, done.err) == (0, f"{tool} {VERSION[1]} (schema 1)\n", "")


@pytest.mark.parametrize("tool", TOOLS)
def test_a_module_can_be_run_as_the_tool(tool: str, sh: Callable[..., Any]) -> None:
    module = SCRIPTS[tool].partition(".")[0]
    assert sh(f"python -m {module} --version").out == sh(f"{tool} --version").out


# --- what cannot be ------------------------------------------------------------------------------


@pytest.mark.parametrize("tool", TOOLS)
def test_an_unknown_flag_is_a_usage_error(tool: str, sh: Callable[..., Any]) -> None:
    done = sh(f"{tool} --no-such-flag < /dev/null")
    assert (done.status, done.out) == (2, "")
    assert is_complaint(tool, done.err)


@pytest.mark.parametrize("tool", TOOLS)
def test_a_flag_is_not_guessed_from_its_beginning(tool: str, sh: Callable[..., Any]) -> None:
    """A later flag would change what an abbreviation means in somebody's script."""
    assert sh(f"{tool} --versio < /dev/null").status == 2


@pytest.mark.parametrize(("tool", "arguments"), rows(FAILS))
def test_what_cannot_be_done_is_one_line_and_status_2(
    tool: str, arguments: str, sh: Callable[..., Any], url: str
) -> None:
    done = sh(f"{tool} {arguments.format(url=url)} < /dev/null")
    assert (done.status, done.out) == (2, "")
    assert is_complaint(tool, done.err)


# --- standard input ------------------------------------------------------------------------------


@pytest.mark.parametrize(("tool", "arguments"), rows(READS))
def test_empty_input_is_no_success(
    tool: str, arguments: str, sh: Callable[..., Any], url: str
) -> None:
    done = sh(f"{tool} {arguments.format(url=url)} < /dev/null")
    assert (done.status, done.out) == (2, "")
    assert is_complaint(tool, done.err)


@pytest.mark.parametrize(("tool", "arguments"), rows(READS))
def test_a_terminal_is_not_read_in_silence(tool: str, arguments: str, url: str) -> None:
    ours, theirs = pty.openpty()
    try:
        done = subprocess.run(
            [tool, *arguments.format(url=url).split()],
            stdin=theirs,
            capture_output=True,
            env=environment(),
            text=True,
            timeout=60,
            check=False,
        )
    finally:
        os.close(ours)
        os.close(theirs)
    assert (done.returncode, done.stdout) == (2, "")
    assert is_complaint(tool, done.stderr)


# --- standard output -----------------------------------------------------------------------------


@pytest.mark.parametrize("tool", TOOLS)
def test_a_reader_that_has_gone_is_death_by_sigpipe(
    tool: str, sh: Callable[..., Any], url: str
) -> None:
    """141, without a word: `kvplan ... | head -1` is no error."""
    gone = "exec 3> >(:); wait $!"  # a pipe whose reader has ended
    done = sh(f"{gone}; {tool} {WORKS[tool].format(url=url)} >&3 < /dev/null")
    assert (done.status, done.out) == (128 + signal.SIGPIPE, "")
    assert "Traceback" not in done.err
    assert "BrokenPipe" not in done.err


@pytest.mark.parametrize("tool", TOOLS)
def test_a_full_disk_is_said(tool: str, sh: Callable[..., Any], url: str) -> None:
    done = sh(f"{tool} {WORKS[tool].format(url=url)} > /dev/full < /dev/null")
    assert done.status == 2
    assert is_complaint(tool, done.err)
    assert "no space left on device" in done.err


@pytest.mark.parametrize("tool", ["kvclear", "kvdoctor", "kvload", "kvplan", "kvstats"])
def test_standard_output_is_records_alone(tool: str, sh: Callable[..., Any], url: str) -> None:
    done = sh(f"{tool} {WORKS[tool].format(url=url)} < /dev/null")
    assert done.status in (0, 1)
    lines = done.out.splitlines()
    assert lines
    assert all(list(json.loads(line))[:2] == ["record", "schema"] for line in lines)


# --- signals -------------------------------------------------------------------------------------


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_server_dies_of_the_signal(signum: int) -> None:
    with started("kvsim --port 0") as engine:
        assert engine.stdout is not None
        assert engine.stdout.readline()
        engine.send_signal(signum)
        _, err = engine.communicate(timeout=60)
    assert (engine.returncode, err) == (-signum, "")


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_kvload_writes_its_end_and_dies_of_the_signal(signum: int, url: str) -> None:
    """Stopped in the middle: every request is told, and the stream says that it is not complete."""
    plan = "--scenario cold_start --requests 50 --context-tokens 64 --rate 5 --arrival constant"
    with started(f"kvload --url {url} {plan} --round 1 --warmup 0 -q") as load:
        assert load.stdout is not None
        head = [load.stdout.readline() for _ in range(2)]
        load.send_signal(signum)
        out, err = load.communicate(timeout=60)
    assert load.returncode == -signum
    assert "Traceback" not in err
    records = [json.loads(line) for line in [*head, *out.splitlines()]]
    assert [records[0]["record"], records[1]["record"]] == ["run", "request"]
    end = records[-1]
    assert (end["record"], end["complete"]) == ("end", False)
    assert signal.Signals(signum).name in end["reason"]
    told = [record for record in records if record["record"] == "request"]
    assert len(told) < end["planned"]
    assert end["ok"] + end["failed"] == len(told)


def drained(pipe: IO[str]) -> None:
    """Wait until the reader has taken all that was written: from then on it is in its loop."""
    import fcntl
    import struct
    import termios
    import time

    for _ in range(6000):
        waiting = struct.unpack("i", fcntl.ioctl(pipe, termios.FIONREAD, b"\0" * 4))[0]
        if not waiting:
            return
        time.sleep(0.01)
    raise AssertionError("nobody reads the pipe")


def test_kvstats_leaves_the_end_of_the_data_to_the_producer() -> None:
    """Ctrl-C reaches both ends of a pipeline: kvstats must wait for what kvload still writes.

    Then it dies of the signal, as the pipeline's last: a loop around it stops.
    """
    head, tail = stream_in_two()
    with started("kvstats", stdin=subprocess.PIPE) as stats:
        assert stats.stdin is not None
        stats.stdin.write(head)
        stats.stdin.flush()
        drained(stats.stdin)
        stats.send_signal(signal.SIGINT)
        out, err = stats.communicate(tail, timeout=60)
    assert (stats.returncode, err) == (-signal.SIGINT, "")
    assert [json.loads(line)["round_num"] for line in out.splitlines()] == [1, 2]


def test_a_second_interrupt_ends_kvstats() -> None:
    head, _ = stream_in_two()
    with started("kvstats", stdin=subprocess.PIPE) as stats:
        assert stats.stdin is not None
        stats.stdin.write(head)
        stats.stdin.flush()
        drained(stats.stdin)
        stats.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            stats.wait(0.3)
        stats.send_signal(signal.SIGINT)
        assert stats.wait(60) == -signal.SIGINT
        assert stats.stdout is not None
        assert stats.stdout.read() == ""


def stream_in_two() -> tuple[str, str]:
    lines = (VALID / "stream.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    return "".join(lines[:3]), "".join(lines[3:])
