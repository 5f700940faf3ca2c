"""A plain client of the real engines: urllib, counts, nothing of the project's own tools.

What the tools say about the stack is tested against what is seen here, so that this must not
share code with them.
"""

from __future__ import annotations

import json
import random
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

BLOCK_TOKENS = 128  # vLLM's block on CPU: every cached count is a multiple of it
PATIENCE_S = 120.0  # for what takes milliseconds on an idle machine
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
