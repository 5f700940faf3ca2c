"""stack/nodes.py: what it starts is gone afterwards, however it ends."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from stack.ports import Claims
from tests.real.engine import call, until

STACK = Path(__file__).resolve().parents[2] / "stack"
needs_stack = [pytest.mark.real, pytest.mark.usefixtures("installed_stack")]


def processes_in(folder: Path, word: str = "") -> list[int]:
    """The living processes that work in the folder and have the word in their command line."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            if (entry / "cwd").readlink() == folder:
                command = (entry / "cmdline").read_bytes()
                found += [int(entry.name)] * (word.encode() in command)
        except OSError:  # gone, or a zombie
            continue
    return found


@contextmanager
def nodes_py(folder: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """nodes.py with everything it starts working in the folder, and its stderr there."""
    with (
        (folder / "stderr").open("w") as stderr,
        subprocess.Popen(
            [sys.executable, str(STACK / "nodes.py"), *arguments],
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        ) as process,
    ):
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def starting(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """`up` with one node, caught while vLLM is starting."""
    with nodes_py(folder, "up", "--nodes", "1", "--dir", str(folder)) as process:
        until(lambda: bool(processes_in(folder, "vllm")), "vLLM process")
        yield process


class TestEndings:
    pytestmark = needs_stack

    @pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
    def test_a_signal_stops_everything_and_is_what_it_dies_of(
        self, tmp_path: Path, signum: signal.Signals
    ) -> None:
        with starting(tmp_path) as process:
            process.send_signal(signum)
            assert process.wait(timeout=60) == -signum
        assert not processes_in(tmp_path)

    def test_the_end_of_standard_input_stops_everything(self, tmp_path: Path) -> None:
        with starting(tmp_path) as process:
            assert process.stdin is not None
            process.stdin.close()
            assert process.wait(timeout=60) == 0
        assert not processes_in(tmp_path)

    def test_a_node_that_dies_while_starting_is_told_with_its_log(self, tmp_path: Path) -> None:
        with starting(tmp_path) as process:
            for node in processes_in(tmp_path, "vllm"):
                os.kill(node, signal.SIGKILL)
            assert process.wait(timeout=60) == 2
            assert process.stdout is not None and process.stdout.read() == ""
        said = (tmp_path / "stderr").read_text()
        assert "nodes.py: during start, node-a died of SIGKILL: no error in its log;" in said
        assert str(tmp_path / "node-a.log") in said
        assert not processes_in(tmp_path)

    def test_run_names_the_stack_and_even_kill_9_leaves_nothing(self, tmp_path: Path) -> None:
        command = 'echo "$KV_NODE_A $KV_MOONCAKE $KV_MODEL"; read; kill -9 $PPID; sleep 600'
        arguments = ("run", "--nodes", "1", "--", "bash", "-c", command)
        with nodes_py(tmp_path, *arguments) as process:
            assert process.stdin is not None and process.stdout is not None
            node, mooncake, model = process.stdout.readline().split()
            assert call(f"{node}/v1/models")["data"][0]["id"] == model
            assert call(f"{mooncake}/health")
            print("now", file=process.stdin, flush=True)
            assert process.wait(timeout=60) == -signal.SIGKILL
        until(lambda: not processes_in(tmp_path), "end of every process")


def test_the_guard_ends_children_of_children_and_the_deaf(tmp_path: Path) -> None:
    deaf = "trap '' TERM; sleep 600 & echo ready; wait"
    with subprocess.Popen(
        ["bash", "-c", deaf], cwd=tmp_path, stdout=subprocess.PIPE, process_group=0, text=True
    ) as parent:
        assert parent.stdout is not None and parent.stdout.readline() == "ready\n"
        assert len(processes_in(tmp_path)) == 2
        guard = [sys.executable, str(STACK / "guard.py"), "0.5"]
        subprocess.run(guard, input=f"{parent.pid}\n", text=True, timeout=60, check=True)
        assert not processes_in(tmp_path)


def test_a_taken_port_gives_way_to_the_next_and_claims_exclude_each_other() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        taken = listener.getsockname()[1]
        first, second = Claims(), Claims()
        ports = [first.take(taken), second.take(taken), first.take(taken)]
    assert taken not in ports
    assert len(set(ports)) == 3


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["run"], "ends with -- COMMAND"),
        (["up", "--", "true"], "ends with -- COMMAND"),
        (["up", "--nodes", "0"], "between 1 and 26"),
    ],
)
def test_a_wrong_command_line_is_status_2(arguments: list[str], problem: str) -> None:
    run = subprocess.run(
        [sys.executable, str(STACK / "nodes.py"), *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 2
    assert problem in run.stderr
    assert run.stdout == ""


def test_without_an_installation_check_says_what_to_do(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, str(STACK / "nodes.py"), "check"],
        env=os.environ | {"KV_REAL_VENV": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 2
    assert "run stack/install.sh" in run.stderr
