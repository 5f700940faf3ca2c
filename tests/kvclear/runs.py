"""kvclear through its executable against kvsim processes, several arrangements at once.

A clear takes seconds, most of them waiting between two looks, so the runs overlap: the first test
that asks starts them all, and each test waits for its own.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.family import environment
from tests.kvclear.ranks import one_server_of
from tests.simulated import FAST, Sim, cluster, kvsim

RESTART = Path(__file__).with_name("restart.py")
FOREIGN_KEY = "other-model@tp_rank:0@group:0@0123"


@dataclass(frozen=True, kw_only=True)
class Run:
    """How a kvclear ended, and what the test saw beside it."""

    status: int
    record: dict[str, Any] | None
    err: str
    seen: dict[str, Any]

    def steps(self, what: str) -> list[dict[str, Any]]:
        assert self.record is not None, self.err
        return [step for step in self.record["steps"] if step["what"] == what]

    def proofs(self, tier: str) -> list[dict[str, Any]]:
        assert self.record is not None, self.err
        return [proof for proof in self.record["proofs"] if proof["tier"] == tier]

    @property
    def verified(self) -> bool | None:
        assert self.record is not None, self.err
        return self.record["verified"]

    @property
    def reason(self) -> str:
        assert self.record is not None, self.err
        return str(self.record["reason"])


def kvclear(*flags: str, **seen: Any) -> Run:
    """Run it; stdout must be one record or nothing."""
    done = subprocess.run(
        ["kvclear", *flags],
        capture_output=True,
        text=True,
        timeout=180,
        env=environment(),
        check=False,
    )
    lines = done.stdout.splitlines()
    assert len(lines) <= 1, done.stdout
    record = json.loads(lines[0]) if lines else None
    return Run(status=done.returncode, record=record, err=done.stderr, seen=seen)


def keys_of(store: Sim) -> list[str]:
    return store.get("/get_all_keys").split()


def requests_of(node: Sim) -> int:
    page = node.get("/metrics")
    values = [line for line in page.splitlines() if line.startswith("vllm:request_success_total{")]
    return sum(int(float(line.rpartition(" ")[2])) for line in values)


def with_more(run: Run, **seen: Any) -> Run:
    return Run(status=run.status, record=run.record, err=run.err, seen=run.seen | seen)


def healthy_pair() -> Run:
    with cluster() as (store, a, b):
        a.complete("somebody's scenario " * 200)
        run = kvclear("--vllm", a.url, "--engine", f"vllm={b.url}/v1", "--mooncake", store.url)
        return with_more(run, requests=(requests_of(a), requests_of(b)), urls=(a.url, b.url))


def store_ignores() -> Run:
    with cluster() as (store, a, b):
        store.fault("store_reset_ignored")
        return kvclear("--vllm", a.url, "--vllm", b.url, "--mooncake", store.url)


def lying_node_beside_a_store() -> Run:
    """The order trap's cause: a node that keeps its blocks while the store is emptied."""
    with cluster() as (store, a, b):
        b.fault("reset_lies")
        return kvclear("--vllm", a.url, "--vllm", b.url, "--mooncake", store.url)


def store_left_out() -> Run:
    with cluster() as (_, a, _b):
        return kvclear("--vllm", a.url)


def local_only() -> Run:
    with cluster() as (store, a, _):
        run = kvclear("--vllm", a.url, "--mooncake", store.url, "--local-only")
        return with_more(run, keys=len(keys_of(store)))


def foreign_keys() -> Run:
    with cluster() as (store, a, _):
        store.post("/kvsim/put", {"keys": [FOREIGN_KEY], "size": 1})
        refused = kvclear("--vllm", a.url, "--mooncake", store.url)
        kept = keys_of(store)
        run = kvclear("--vllm", a.url, "--mooncake", store.url, "--global")
        return with_more(run, refused=refused, kept=kept, left=keys_of(store))


def never_saved() -> Run:
    with cluster("--fault", "save_never") as (store, a, _):
        return kvclear("--vllm", a.url, "--mooncake", store.url)


def dry_run() -> Run:
    with cluster() as (store, a, _):
        a.complete("something worth keeping " * 100)
        deadline = time.monotonic() + 60
        while not keys_of(store) and time.monotonic() < deadline:
            time.sleep(0.05)
        before = requests_of(a), len(keys_of(store))
        run = kvclear("--vllm", a.url, "--mooncake", store.url, "--dry-run", "--command", "false")
        return with_more(run, before=before, after=(requests_of(a), len(keys_of(store))))


def store_alone() -> Run:
    with kvsim("--role", "store") as store:
        store.post("/kvsim/mount", {"segment": "127.0.0.1:1", "size": 1 << 20})
        store.post("/kvsim/put", {"keys": [FOREIGN_KEY], "size": 1})
        refused = kvclear("--mooncake", store.url)
        kept = keys_of(store)
        run = kvclear("--mooncake", store.url, "--model", "other-model")
        return with_more(run, refused=refused, kept=kept, left=keys_of(store))


def on_one_node(*flags: str) -> Callable[[], Run]:
    def run() -> Run:
        with kvsim(*FAST, *flags) as node:
            return kvclear("--vllm", node.url)

    return run


def behind_a_key() -> Run:
    with kvsim(*FAST, "--api-key", "s3cret") as node, tempfile.TemporaryDirectory() as folder:
        key = Path(folder) / "key"
        key.write_text("s3cret\n")
        without = kvclear("--vllm", node.url)
        return kvclear("--vllm", node.url, "--api-key-file", str(key), without=without)


def restarted_by_command() -> Run:
    """No reset route, but a command that restarts the node."""
    with contextlib.ExitStack() as stack:
        node = stack.enter_context(kvsim(*FAST, "--no-dev-mode"))
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        pidfile = Path(folder) / "pid"
        port = node.url.rpartition(":")[2]
        parts = [sys.executable, str(RESTART), str(node.process.pid), port, str(pidfile), *FAST]
        try:
            return kvclear("--vllm", node.url, "--command", shlex.join(parts))
        finally:
            if pidfile.exists():
                os.kill(int(pidfile.read_text()), signal.SIGTERM)


def through_a_router() -> Run:
    with kvsim(*FAST) as a, kvsim(*FAST) as b, round_robin([a.url, b.url]) as url:
        run = kvclear("--vllm", url)
        return with_more(run, requests=requests_of(a) + requests_of(b))


@contextlib.contextmanager
def round_robin(urls: list[str]) -> Iterator[str]:
    """A load balancer of the plainest kind: each connection goes to the next server."""
    ports = itertools.cycle(int(url.rpartition(":")[2]) for url in urls)
    listener = socket.create_server(("127.0.0.1", 0))

    def pump(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    def connect(client: socket.socket) -> None:
        with client, socket.create_connection(("127.0.0.1", next(ports))) as server:
            back = threading.Thread(target=pump, args=(server, client))
            back.start()
            pump(client, server)
            back.join()

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                threading.Thread(target=connect, args=(client,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.close()


def through_the_nodes(*faults: str) -> Callable[[], Run]:
    """The store is not named: it is cleared by `reset_external`, which needs --global."""

    def run() -> Run:
        with cluster() as (store, a, b):
            for fault in faults:
                store.fault(fault)
            run = kvclear("--vllm", a.url, "--vllm", b.url, "--global")
            return with_more(run, left=keys_of(store))

    return run


def on_two_ranks(**how: Any) -> Callable[[], Run]:
    def run() -> Run:
        with (
            kvsim(*FAST) as a,
            kvsim(*FAST) as b,
            one_server_of([a.url, b.url], **how) as url,
        ):
            return kvclear("--vllm", url, url=url)

    return run


RUNS: dict[str, Callable[[], Run]] = {
    "through the nodes": through_the_nodes(),
    "through the nodes, ignored": through_the_nodes("store_reset_ignored"),
    "two ranks": on_two_ranks(),
    "one rank not reset": on_two_ranks(resets=[0]),
    "ranks not chosen": on_two_ranks(honours_header=False),
    "healthy pair": healthy_pair,
    "store ignores": store_ignores,
    "lying node beside a store": lying_node_beside_a_store,
    "store left out": store_left_out,
    "local only": local_only,
    "foreign keys": foreign_keys,
    "never saved": never_saved,
    "dry run": dry_run,
    "store alone": store_alone,
    "reset lies": on_one_node("--fault", "reset_lies"),
    "persistent": on_one_node("--fault", "persistent"),
    "busy": on_one_node("--fault", "reset_busy=2"),
    "old version": on_one_node("--vllm-version", "0.22.0"),
    "null details": on_one_node("--no-prompt-tokens-details"),
    "decoder": on_one_node("--fault", "fake_hits"),
    "no dev mode": on_one_node("--no-dev-mode"),
    "large blocks": on_one_node("--block-tokens", "1024", "--max-model-len", "16384"),
    "behind a key": behind_a_key,
    "restarted by command": restarted_by_command,
    "through a router": through_a_router,
}
