"""Examinations of simulated engines, in the test's own process and with little patience."""

from __future__ import annotations

import asyncio
import functools
import itertools
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from urllib.parse import urlsplit

import pytest
from tests.simulated import FAST, Sim, kvsim

from kvdoctor.diagnose import diagnose
from kvdoctor.examine import examine
from kvdoctor.order import Order, Patience, engines_of
from kvengine import saltprobe
from kvengine.rest import come_to_rest
from kvpipe.records import Diagnosis

HASTE = Patience(idle_s=0.7, saved_s=1.0, looks_s=0.2, rest_s=4.0)
"""Simulated engines save within milliseconds; what is not there after a second never comes."""
OURS = {"client_throttled", "open_files_low", "ports_few", "clock_slow"}
"""About the machine that the tests run on, which may be any."""


def diagnoses(
    *urls: str, store: str | None = None, engine: str | None = None, reset: bool = False
) -> list[Diagnosis]:
    """What kvdoctor finds there."""
    named = {"mooncake": store, "vllm": engine}
    engines = engines_of([f"{kind}={url}" for kind, url in named.items() if url])
    order = Order(urls=urls, engines=engines, reset=reset, patience=HASTE)
    return diagnose(asyncio.run(examine(order, lambda _: None)))


def bad(found: list[Diagnosis]) -> set[str]:
    """Codes that spoil a measurement, whatever this machine is like."""
    return {one.code for one in found if one.severity != "info"} - OURS


def one(found: list[Diagnosis], code: str) -> Diagnosis:
    """The only finding of a code."""
    (only,) = [finding for finding in found if finding.code == code]
    return only


@contextmanager
def fault(sim: Sim, text: str) -> Iterator[None]:
    """`NAME` or `NAME=ARG` for the length of a block."""
    name, _, argument = text.partition("=")
    sim.fault(name, argument or None)
    try:
        yield
    finally:
        sim.delete(f"/kvsim/fault?name={name}")


@contextmanager
def balancer(*urls: str, hides: Sequence[str] = ()) -> Iterator[str]:
    """The URL of a balancer: each connection goes to the next of these servers.

    What begins with one of `hides` is 404, as with a gateway that passes the API alone.
    """
    targets = [(urlsplit(url).hostname or "", urlsplit(url).port or 0) for url in urls]
    listener = socket.create_server(("127.0.0.1", 0))
    hidden = tuple(hides)

    def relay(source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            return

    def carry(client: socket.socket, target: tuple[str, int]) -> None:
        with client, socket.create_connection(target) as server:
            head = client.recv(65536)
            if head.split(b" ", 2)[1:2] and head.split(b" ", 2)[1].decode().startswith(hidden):
                client.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
                return
            server.sendall(head)
            back = threading.Thread(target=relay, args=(server, client))
            back.start()
            relay(client, server)
            back.join()

    def serve() -> None:
        for turn in itertools.count():
            try:
                client, _ = listener.accept()
            except OSError:
                return
            worker = threading.Thread(target=carry, args=(client, targets[turn % len(targets)]))
            worker.start()
            workers.append(worker)

    workers: list[threading.Thread] = []
    accepting = threading.Thread(target=serve)
    accepting.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        for thread in (accepting, *workers):
            thread.join(20)
        listener.close()


@pytest.fixture(autouse=True)
def quick_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """The salts' probe waits for real engines' saves, a second a look."""
    quick = functools.partial(come_to_rest, looks_s=HASTE.looks_s)
    monkeypatch.setattr(saltprobe, "come_to_rest", quick)


@pytest.fixture(scope="session")
def node() -> Iterator[Sim]:
    """A healthy node by itself; tests leave it as they found it."""
    with kvsim(*FAST) as sim:
        yield sim


@pytest.fixture(scope="session")
def store() -> Iterator[Sim]:
    with kvsim("--role", "store") as sim:
        yield sim


@pytest.fixture(scope="session")
def first(store: Sim) -> Iterator[Sim]:
    """A healthy node before that store."""
    with kvsim(*FAST, "--store", store.url) as sim:
        yield sim
