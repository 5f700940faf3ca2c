"""The command line: what it prints, and what it refuses."""

from __future__ import annotations

import subprocess
import sys

import pytest
from tests.kvsim.conftest import FAST, running

from kvsim.faults import FAULTS


def kvsim(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "kvsim", *arguments], capture_output=True, text=True, timeout=60
    )


def test_help_lists_every_fault_with_what_it_does() -> None:
    done = kvsim("--help")
    assert (done.returncode, done.stderr) == (0, "")
    for name, fault in FAULTS.items():
        assert f"  {name}" in done.stdout
        assert fault.what in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--fault", "nonsense"), "--fault 'nonsense': no such fault; known: "),
        (("--fault", "store_reset_ignored"), "no such fault"),
        (("--role", "store", "--fault", "slow"), "known: store_reset_ignored"),
        (("--block-tokens", "0"), "--block-tokens: must be above 0"),
        (("--capacity-blocks", "1"), "--capacity-blocks: must be at least 2"),
        (("--capacity-blocks", "4", "--max-model-len", "100"), "do not fit into 4 blocks"),
        (("--vllm-version", "new"), "--vllm-version: expected numbers and dots"),
        (("--role", "store", "--store", "http://x"), "--store: a store has no store"),
        (("--lease-ms", "-1"), "--lease-ms: must not be negative"),
        (("--store", "http://127.0.0.1:9"), "http://127.0.0.1:9: "),
        (("--truth", "/no/such/folder/truth"), "no such file or directory"),
    ],
)
def test_what_cannot_be_is_one_line_and_status_2(arguments: tuple[str, ...], message: str) -> None:
    done = kvsim(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert message in done.stderr
    assert done.stderr.startswith("kvsim: ")
    assert done.stderr.count("\n") == 1


def test_a_port_that_is_taken_is_named() -> None:
    with running(*FAST) as sim:
        done = kvsim("--port", str(sim.port))
        assert (done.returncode, done.stdout) == (2, "")
        assert f"127.0.0.1:{sim.port}: address already in use" in done.stderr
