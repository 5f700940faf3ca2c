"""The dashboards against a real Prometheus that scrapes real vLLM and a real Mooncake master."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.family import ROOT
from tests.monitored import MISSING, WHY, Prometheus, prometheus, queries, unanswered
from tests.real.engine import Node, Stack, random_prompt

pytestmark = pytest.mark.skipif(MISSING, reason=WHY)
ABSENT = ("vllm:nixl_", "lmcache:")
"""Series of engines that are not in this stack: kvsim alone answers for NIXL's panels
(tests/test_monitoring.py), LMCache's own metrics code for its."""
LMCACHE = ROOT / ".venv-lmcache" / "bin" / "python"


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


def test_lmcaches_panels_ask_for_what_lmcache_exports(
    installed_lmcache: None, tmp_path: Path
) -> None:
    """Names and labels as LMCache's own code makes them; the figures are made up."""
    wanted = [query for found in queries().values() for query in found if "lmcache:" in query]
    assert len(wanted) >= 5
    (tmp_path / "shared").mkdir()
    exporter = subprocess.Popen(
        [LMCACHE, Path(__file__).with_name("lmcache_exporter.py")],
        env=os.environ | {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path / "shared")},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        address = f"127.0.0.1:{_port(exporter)}"
        with prometheus(tmp_path, {"vllm-server": address}) as running:
            assert unanswered(running, wanted, timeout_s=90) == []
    finally:
        exporter.kill()
        exporter.communicate()


def _port(exporter: subprocess.Popen[str]) -> int:
    """LMCache logs to stdout too: the port is the first line that is a number."""
    assert exporter.stdout is not None
    for line in exporter.stdout:
        if line.strip().isdigit():
            return int(line)
    raise AssertionError("the exporter ended without a port")
