"""The dashboards against a real Prometheus that scrapes real vLLM and a real Mooncake master."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from tests.monitored import MISSING, WHY, Prometheus, prometheus, queries, unanswered
from tests.real.engine import Node, Stack, random_prompt

pytestmark = pytest.mark.skipif(MISSING, reason=WHY)
ABSENT = {
    "vllm:nixl_": "NIXL, which has tests of its own",
    "vllm:mooncake_xfer": "Mooncake from engine to engine, which does not run without a GPU",
    "lmcache:": "LMCache in the engine's process, which does not run without a GPU",
}
"""Series of engines that are not in this stack: their panels were tested on kvsim alone."""


@pytest.fixture(scope="module")
def scraped(real_stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Scraped while prompts come: misses on A, hits on A, loads on B, again and again."""
    nodes = (real_stack.a, real_stack.b)
    targets = {"mooncake-master": real_stack.mooncake}
    targets |= {"vllm-node-a": nodes[0].url, "vllm-node-b": nodes[1].url}
    addresses = {name: url.removeprefix("http://") for name, url in targets.items()}
    stop = threading.Event()
    load = threading.Thread(target=_load, args=(nodes, stop))
    with prometheus(tmp_path_factory.mktemp("prometheus"), addresses) as running:
        load.start()
        try:
            yield running
        finally:
            stop.set()
            load.join()


def _load(nodes: tuple[Node, Node], stop: threading.Event) -> None:
    number = 0
    while not stop.is_set():
        prompt = random_prompt(f"monitored {number}", 600)
        for node in (nodes[0], nodes[0], nodes[1]):
            node.complete(prompt, output_tokens=4)
        number += 1


@pytest.mark.parametrize("name", sorted(queries()))
def test_every_query_of_a_dashboard_returns_data(scraped: Prometheus, name: str) -> None:
    here = [query for query in queries()[name] if not any(series in query for series in ABSENT)]
    assert here
    assert unanswered(scraped, here, timeout_s=90) == []
