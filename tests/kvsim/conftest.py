"""Starts real kvsim processes, and talks to them with the plainest client there is."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection, IncompleteRead
from typing import Any
from urllib.parse import urlsplit

import pytest

from kvsim.words import WORDS

START_S = 60
"""How long a busy machine may take to start a process."""


@dataclass
class Reply:
    """An answer as it came."""

    status: int
    headers: dict[str, str]
    body: bytes
    whole: bool = True
    """False: the connection ended in the middle of the body."""

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def events(self) -> list[Any]:
        """Payloads of a stream, in order; ``[DONE]`` stays text."""
        lines = self.body.decode().replace("\r\n", "\n").split("\n")
        data = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
        return [text if text == "[DONE]" else json.loads(text) for text in data]

    @property
    def usage(self) -> Any:
        """Usage of a stream or of a whole answer; None where there is none."""
        if not self.headers.get("content-type", "").startswith("text/event-stream"):
            return self.json.get("usage")
        told = [e["usage"] for e in self.events if isinstance(e, dict) and e.get("usage")]
        return told[-1] if told else None

    @property
    def cached(self) -> int:
        return self.usage["prompt_tokens_details"]["cached_tokens"]


@dataclass
class Sim:
    """One kvsim process."""

    process: subprocess.Popen[str]
    url: str
    port: int
    ready: dict[str, Any] = field(default_factory=dict)

    def call(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> Reply:
        """A request on a connection of its own."""
        connection = HTTPConnection(urlsplit(self.url).netloc, timeout=START_S)
        sent = dict(headers or {})
        data = body
        if body is not None and not isinstance(body, bytes):
            data = json.dumps(body).encode()
            sent.setdefault("content-type", "application/json")
        try:
            connection.request(method, path, data, sent)
            answer = connection.getresponse()
            found = {key.lower(): value for key, value in answer.getheaders()}
            try:
                return Reply(answer.status, found, answer.read())
            except IncompleteRead as cut:
                return Reply(answer.status, found, cut.partial, whole=False)
        finally:
            connection.close()

    def chat(self, text: str, **more: Any) -> Reply:
        """A streamed chat request of few tokens, with usage."""
        body = {
            "messages": [{"role": "user", "content": text}], "max_tokens": 4, "temperature": 0,
            "ignore_eos": True, "stream": True, "stream_options": {"include_usage": True},
        }  # fmt: skip
        headers = more.pop("headers", None)
        body |= more
        if not body["stream"]:
            del body["stream_options"]
        return self.call("POST", "/v1/chat/completions", body, headers)

    def metric(self, name: str, **labels: str) -> float:
        """One number of /metrics; the sum over series that have these labels."""
        total, seen = 0.0, False
        for line in self.call("GET", "/metrics").body.decode().splitlines():
            series, _, value = line.rpartition(" ")
            found, _, inside = series.partition("{")
            wanted = [f'{key}="{text}"' for key, text in labels.items()]
            if found == name and all(part in inside for part in wanted):
                total, seen = total + float(value), True
        assert seen, f"no metric {name} {labels}"
        return total

    def fault(self, name: str, arg: object = None) -> None:
        body = {"name": name} if arg is None else {"name": name, "arg": str(arg)}
        assert self.call("POST", "/kvsim/fault", body).status == 200

    def truth(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.call("GET", "/kvsim/truth").body.splitlines()]

    def reset(self, query: str = "") -> None:
        """Resets the prefix cache, again and again while a save still holds blocks."""
        until = time.monotonic() + START_S
        while not self.call("POST", "/reset_prefix_cache" + query).json["success"]:
            assert time.monotonic() < until, "never idle"
            time.sleep(0.02)

    def wait_for(self, name: str, value: float, **labels: str) -> None:
        """Waits until a metric has a value; fails after a generous while."""
        until = time.monotonic() + START_S
        while (seen := self.metric(name, **labels)) != value:
            assert time.monotonic() < until, f"{name} is {seen}, never {value}"
            time.sleep(0.02)


def start(*arguments: str) -> Sim:
    process = subprocess.Popen(
        [sys.executable, "-m", "kvsim", *arguments], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    ready = json.loads(process.stdout.readline() or "null")
    assert ready, f"kvsim {' '.join(arguments)} did not start"
    return Sim(process, ready["url"], ready["port"], ready)


def stop(sim: Sim) -> None:
    with sim.process as process:
        process.terminate()
        try:
            process.wait(START_S)
        except subprocess.TimeoutExpired:
            process.kill()
            raise


@contextmanager
def running(*arguments: str) -> Iterator[Sim]:
    """A kvsim for the length of a block."""
    sim = start(*arguments)
    try:
        yield sim
    finally:
        stop(sim)


@pytest.fixture
def kvsim() -> Iterator[Callable[..., Sim]]:
    """``kvsim("--role", "store")`` starts one; all are stopped after the test."""
    with ExitStack() as stack:
        yield lambda *arguments: stack.enter_context(running(*arguments))


FAST = ("--overhead-ms", "0", "--step-ms", "1", "--prefill-tps", "1000000")
"""Times that no test has to wait for."""


@pytest.fixture(scope="module")
def node() -> Iterator[Sim]:
    """One fast node for the tests of a module that leave it as they found it."""
    with running(*FAST, "--model", "tiny", "--block-tokens", "16") as sim:
        yield sim


def words(count: int, start: int = 0) -> str:
    """A text of exactly ``count`` tokens; another ``start``, another beginning."""
    return " ".join(WORDS[(start + at) % len(WORDS)] for at in range(count))
