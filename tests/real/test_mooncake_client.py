"""Mooncake's real Python client, for masters without remove_all, against a real master.

It runs in the environment of the stack: the project's own has no such client.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.real

ROOT = Path(__file__).resolve().parents[2]
KEYS = 5

OWNER = f"""
import sys
from mooncake.store import MooncakeDistributedStore
store = MooncakeDistributedStore()
assert store.setup("127.0.0.1", "P2PHANDSHAKE", 64 << 20, 16 << 20, "tcp", "", sys.argv[1]) == 0
assert all(store.put(f"key-{{number}}", b"x" * 1000) == 0 for number in range({KEYS}))
assert len(store.get("key-2")) == 1000  # a lease, which an unforced removal would respect
print("ready", flush=True)
sys.stdin.readline()
"""


def real(name: str) -> str:
    environment = os.environ.get("KV_REAL_VENV") or ".venv-real"
    return str(ROOT / environment / "bin" / name)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def keys(admin: int) -> list[str]:
    with urllib.request.urlopen(f"http://127.0.0.1:{admin}/get_all_keys", timeout=10) as answer:
        return sorted(answer.read().decode().split())


@pytest.fixture
def master(installed_stack: None) -> Iterator[tuple[str, int]]:
    """RPC address and admin port of a real master that holds a few objects."""
    rpc, admin = free_port(), free_port()
    flags = [f"--rpc_port={rpc}", f"--metrics_port={admin}", "--default_kv_lease_ttl=600000"]
    flags += ["--rpc_address=127.0.0.1", "--metrics_host=127.0.0.1"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with contextlib.ExitStack() as stack:
        process = stack.enter_context(subprocess.Popen([real("mooncake_master"), *flags], **quiet))
        stack.callback(process.terminate)
        for _ in range(300):
            with contextlib.suppress(OSError):
                keys(admin)
                break
            time.sleep(0.1)
        owner = stack.enter_context(
            subprocess.Popen(
                [real("python"), "-c", OWNER, f"127.0.0.1:{rpc}"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
        )
        stack.callback(owner.kill)
        assert owner.stdout is not None
        assert any(line == "ready\n" for line in owner.stdout), "the library prints beside it"
        yield f"127.0.0.1:{rpc}", admin


def client(address: str, key: str) -> dict[str, object]:
    done = subprocess.run(
        [real("python"), "-m", "kvengine.mooncake_client", address, key],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(ROOT / "tools")},
        check=True,
    )
    value: dict[str, object] = json.loads(done.stdout.strip().rpartition("\n")[2])
    return value


def test_the_real_client_removes_what_is_leased_and_only_from_the_store_that_was_meant(
    master: tuple[str, int],
) -> None:
    address, admin = master
    assert len(keys(admin)) == KEYS
    assert "is another store" in str(client(address, "a key that it does not have"))
    assert len(keys(admin)) == KEYS, "left alone"
    assert client(address, keys(admin)[0]) == {"removed": KEYS}
    assert keys(admin) == []
