"""kvsim as processes of their own: what tests of whole pipelines send their load to."""

from __future__ import annotations

import contextlib
import json
import subprocess
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tests.family import environment


@dataclass(frozen=True, slots=True)
class Sim:
    """A running kvsim."""

    url: str
    process: subprocess.Popen[str]

    def fault(self, name: str, arg: str | None = None) -> None:
        """Switch a fault on."""
        self.post("/kvsim/fault", {"name": name, "arg": arg})

    def post(self, path: str, body: dict[str, Any] | None = None) -> str:
        request = urllib.request.Request(
            self.url + path,
            data=json.dumps(body or {}).encode(),
            headers={"Content-Type": "application/json"},
            method="POST",
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return str(answer.read().decode())

    def delete(self, path: str) -> None:
        request = urllib.request.Request(self.url + path, method="DELETE")
        with urllib.request.urlopen(request, timeout=30):
            pass

    def get(self, path: str) -> str:
        with urllib.request.urlopen(self.url + path, timeout=30) as answer:
            return str(answer.read().decode())

    def complete(self, prompt: str, **body: Any) -> dict[str, Any]:
        """One completion, not streamed."""
        asked = {"model": "sim", "prompt": prompt, "max_tokens": 1, **body}
        answer: dict[str, Any] = json.loads(self.post("/v1/completions", asked))
        return answer


@contextlib.contextmanager
def kvsim(*flags: str) -> Iterator[Sim]:
    """`with kvsim("--role", "store") as store:`; the process is gone afterwards."""
    process = subprocess.Popen(
        ["kvsim", "--port", "0", *flags],
        stdout=subprocess.PIPE,
        env=environment(),
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, f"kvsim {' '.join(flags)} did not start"
        yield Sim(url=json.loads(line)["url"], process=process)
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()


FAST = ("--prefill-tps", "60000", "--step-ms", "2", "--overhead-ms", "2", "--save-delay-ms", "20")
"""A quick engine: a prompt of 1,200 tokens takes about 25 ms cold."""


@contextlib.contextmanager
def cluster(*flags: str) -> Iterator[tuple[Sim, Sim, Sim]]:
    """(store, node A, node B) of one simulated Mooncake store."""
    with contextlib.ExitStack() as stack:
        store = stack.enter_context(kvsim("--role", "store"))
        nodes = [stack.enter_context(kvsim("--store", store.url, *FAST, *flags)) for _ in range(2)]
        yield store, nodes[0], nodes[1]
