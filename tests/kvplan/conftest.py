"""Servers to count with: kvsim as it is, and kvsim behind a proxy that has no /tokenize."""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from tests.simulated import Sim, kvsim


@pytest.fixture(scope="package")
def sim() -> Iterator[Sim]:
    with kvsim("--max-model-len", "20000") as engine:
        yield engine


@dataclass(slots=True)
class Proxy:
    """A front end as PD proxies are: it passes on what it knows, and /tokenize is not among it."""

    url: str
    bodies: list[dict[str, Any]] = field(default_factory=list)
    """Bodies that were posted, in order of arrival."""
    hides_usage: bool = False


@pytest.fixture
def proxy(sim: Sim) -> Iterator[Proxy]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._pass_on(None)

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.path == "/tokenize":
                self._answer(404, b'{"detail":"Not Found"}')
                return
            made.bodies.append(json.loads(body))
            self._pass_on(body)

        def _pass_on(self, body: bytes | None) -> None:
            request = urllib.request.Request(
                sim.url + self.path, data=body, headers={"Content-Type": "application/json"}
            )
            try:
                with urllib.request.urlopen(request, timeout=60) as answer:
                    said = answer.read()
                    if made.hides_usage:
                        said = said.replace(b'"usage"', b'"hidden"')
                    self._answer(answer.status, said)
            except urllib.error.HTTPError as error:
                self._answer(error.code, error.read())

        def _answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Nothing on stderr."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made = Proxy(url=f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield made
    server.shutdown()
    thread.join()
    server.server_close()
