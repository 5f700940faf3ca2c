"""The real engines: how they are started, a plain client of them, and our tools as processes.

What the tools say about the stack is tested against what the client sees, so that it is urllib and
counts, and shares no code with them.
"""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.family import environment

NODES = Path(__file__).resolve().parents[2] / "stack" / "nodes.py"
BLOCK_TOKENS = 128  # vLLM's block on CPU: every cached count is a multiple of it
PATIENCE_S = 120.0  # for what takes milliseconds on an idle machine
TOOL_S = 300.0  # for one of our tools, which takes seconds on an idle machine
SOURCES = ("local_compute", "local_cache_hit", "external_kv_transfer")


def random_prompt(seed: object, length: int) -> list[int]:
    """Token ids that share no block with any other seed's; ids below 300 are bytes and specials."""
    draw = random.Random(repr(seed))
    return [draw.randrange(300, 4096) for _ in range(length)]


def whole_blocks(tokens: int) -> int:
    """Tokens a full hit can report: the last token is always computed."""
    return (tokens - 1) // BLOCK_TOKENS * BLOCK_TOKENS


def until(condition: Callable[[], bool], what: str) -> None:
    """Poll until true; the only thing here that a slow machine could fail."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"no {what} within {PATIENCE_S:.0f} s"
        time.sleep(0.05)


def call(url: str, body: dict[str, Any] | None = None, method: str | None = None) -> Any:
    """JSON in, JSON (or text) out; HTTPError for anything but 2xx."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(
        url, data=data, method=method, headers={"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
        text = answer.read().decode()
    try:
        return json.loads(text)
    except ValueError:
        return text


def samples(url: str, name: str) -> dict[str, float]:
    """One Prometheus family: label text (as it stands in the page) to value."""
    pattern = re.compile(rf"^{re.escape(name)}(\{{[^}}]*\}})? (\S+)", re.MULTILINE)
    return {labels or "": float(value) for labels, value in pattern.findall(call(url))}


@dataclass(frozen=True, kw_only=True)
class Usage:
    """What one request used, by its own answer."""

    prompt_tokens: int
    cached_tokens: int
    output_tokens: int


def usage_of(answer: dict[str, Any]) -> Usage:
    usage = answer["usage"]
    return Usage(
        prompt_tokens=usage["prompt_tokens"],
        cached_tokens=usage["prompt_tokens_details"]["cached_tokens"],
        output_tokens=usage["completion_tokens"],
    )


@dataclass(frozen=True, kw_only=True)
class Node:
    """One vLLM server."""

    url: str
    model: str

    def complete(self, prompt: list[int], output_tokens: int = 1, **more: Any) -> Usage:
        body = {"model": self.model, "prompt": prompt, "max_tokens": output_tokens}
        return usage_of(call(f"{self.url}/v1/completions", body | {"temperature": 0} | more))

    def chat(self, messages: list[dict[str, str]], **more: Any) -> dict[str, Any]:
        body = {"model": self.model, "messages": messages, "max_tokens": 1, "temperature": 0}
        return call(f"{self.url}/v1/chat/completions", body | more)

    def sources(self) -> dict[str, int]:
        """Prompt tokens so far, by where their KV came from."""
        found = samples(f"{self.url}/metrics", "vllm:prompt_tokens_by_source_total")
        return {
            source: sum(int(v) for labels, v in found.items() if f'source="{source}"' in labels)
            for source in SOURCES
        }

    def busy(self) -> bool:
        waiting = samples(f"{self.url}/metrics", "vllm:num_requests_waiting")
        running = samples(f"{self.url}/metrics", "vllm:num_requests_running")
        return sum(waiting.values()) + sum(running.values()) > 0

    def try_reset(self, query: str = "") -> bool:
        return bool(call(f"{self.url}/reset_prefix_cache{query}", method="POST")["success"])

    def reset(self) -> None:
        """Forget the local cache; saves still under way refuse for a moment."""
        until(self.try_reset, f"successful reset of {self.url}")


@dataclass(frozen=True, kw_only=True)
class Store:
    """The Mooncake master's admin side."""

    url: str

    def keys(self) -> int:
        return int(samples(f"{self.url}/metrics", "master_key_count")[""])

    def remove_all(self, *, force: bool) -> int:
        query = "?force=true" if force else ""
        answer = call(f"{self.url}/api/v1/remove_all{query}", method="POST")
        assert answer["success"] is True
        return int(answer["removed_count"])

    def wait_for_objects(self, count: int) -> None:
        """Saves are asynchronous: the answer is there before its blocks are.

        A key is counted when its save begins, and until that ends even a forced removal leaves
        it; `mem_cache_nums_` (the name ends so) counts the objects whose save has ended.
        """
        saved = f"{self.url}/metrics"
        until(lambda: samples(saved, "mem_cache_nums_")[""] >= count, f"{count} saved objects")


@dataclass(frozen=True, kw_only=True)
class Stack:
    """Two nodes around one store. `node_a`, `node_b` and `mooncake` are URLs."""

    node_a: str
    node_b: str
    mooncake: str
    model: str

    @property
    def a(self) -> Node:
        return Node(url=self.node_a, model=self.model)

    @property
    def b(self) -> Node:
        return Node(url=self.node_b, model=self.model)

    @property
    def store(self) -> Store:
        return Store(url=self.mooncake)

    def empty(self) -> None:
        """Nodes first, then the store, else the next local hit fills it again; seen twice."""
        for node in (self.a, self.b):
            until(lambda node=node: not node.busy(), f"idle {node.url}")  # type: ignore[misc]
            node.reset()
        self.store.remove_all(force=True)
        for _ in range(2):
            assert self.store.keys() == 0
            time.sleep(0.1)


@dataclass(frozen=True, kw_only=True)
class Lmcache:
    """The HTTP side of one `lmcache server`."""

    url: str

    def objects(self) -> int:
        """Chunks in L1."""
        managers = call(f"{self.url}/status")["storage_manager"]["l1_managers"]
        return sum(one["total_object_count"] for one in managers.values())

    def clear(self) -> None:
        assert call(f"{self.url}/cache/clear", {"tier": "l1"})["status"] == "ok"

    def wait_for_objects(self, count: int) -> None:
        until(lambda: self.objects() >= count, f"{count} chunks in L1")


# --- as processes --------------------------------------------------------------------------------


@contextmanager
def stack_up(folder: Path, *arguments: str) -> Iterator[dict[str, Any]]:
    """nodes.py's line about what runs, its logs in the folder; all of it ends with the block."""
    progress = folder / "nodes.stderr"
    with (
        progress.open("w") as stderr,
        subprocess.Popen(
            [sys.executable, str(NODES), "up", *arguments, "--dir", str(folder)],
            stdin=subprocess.PIPE,  # its end is the order to stop, whatever becomes of us
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        ) as process,
    ):
        assert process.stdin is not None and process.stdout is not None
        line = process.stdout.readline()
        assert line, f"the real stack did not start:\n{progress.read_text()}"
        try:
            yield json.loads(line)
        finally:
            process.stdin.close()
            process.wait(timeout=PATIENCE_S)


def tool(*words: str) -> subprocess.CompletedProcess[str]:
    """One of our tools; what it told people is shown if the test fails."""
    done = subprocess.run(
        words, capture_output=True, text=True, timeout=TOOL_S, env=environment(), check=False
    )
    print(done.stderr)
    return done


def kvclear(*flags: str) -> tuple[int, dict[str, Any]]:
    """Status and record."""
    done = tool("kvclear", *flags)
    return done.returncode, json.loads(done.stdout)


def proofs(record: dict[str, Any], tier: str) -> list[dict[str, Any]]:
    return [proof for proof in record["proofs"] if proof["tier"] == tier]


def verdicts(record: dict[str, Any]) -> list[tuple[str, str, bool | None]]:
    """How, of which tier, and what came out."""
    return [(proof["how"], proof["tier"], proof["verified"]) for proof in record["proofs"]]
