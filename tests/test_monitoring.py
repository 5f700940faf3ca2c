"""The dashboards against a real Prometheus that scrapes simulated nodes and their store."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
from tests.family import ROOT
from tests.monitored import COMPOSE, MISSING, WHY, Prometheus, prometheus, queries, unanswered
from tests.simulated import kvsim

pytestmark = pytest.mark.skipif(MISSING, reason=WHY)


REAL_ONLY = "lmcache:"
"""What kvsim does not have: tests/real/test_monitoring.py asks LMCache's own code."""


@pytest.fixture(scope="module")
def scraped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Two nodes over a store and a pair behind a proxy, scraped after misses, hits and loads."""
    with (
        kvsim("--role", "store") as store,
        kvsim("--store", store.url) as a,
        kvsim("--store", store.url) as b,
        kvsim("--role", "prefill") as prefiller,
        kvsim("--role", "decode") as decoder,
        kvsim("--role", "proxy", "--prefiller", prefiller.url, "--decoder", decoder.url) as proxy,
        prometheus(
            tmp_path_factory.mktemp("prometheus"),
            {
                name: node.url.removeprefix("http://")
                for name, node in {
                    "sim-store": store,
                    "sim-a": a,
                    "sim-b": b,
                    "vllm-prefiller": prefiller,
                    "vllm-decoder": decoder,
                }.items()
            },
        ) as running,
        ThreadPoolExecutor() as pool,
    ):
        prompts = [f"{number} " * 400 for number in range(12)]
        for node in (a, a, b, proxy):
            list(pool.map(partial(node.complete, max_tokens=4), prompts))
        yield running


@pytest.mark.parametrize("name", sorted(queries()))
def test_every_query_of_a_dashboard_returns_data(scraped: Prometheus, name: str) -> None:
    here = [query for query in queries()[name] if REAL_ONLY not in query]
    assert len(here) >= len(queries()[name]) - 5
    assert unanswered(scraped, here) == []


def test_a_series_that_nobody_has_is_told(scraped: Prometheus) -> None:
    assert unanswered(scraped, ["rate(vllm:no_such_series_total[1m])"], timeout_s=1) != []


def test_the_shipped_scrape_config_is_sound() -> None:
    subprocess.run(["promtool", "check", "config", COMPOSE / "prometheus.yml"], check=True)


def test_the_dashboards_are_those_of_their_source() -> None:
    subprocess.run([sys.executable, ROOT / "compose" / "dashboards.py", "--check"], check=True)


def test_the_documents_series_are_on_their_dashboard() -> None:
    text = " ".join(queries()["grafana-dashboard-cache-test.json"])
    for series in (
        "master_key_count",
        "master_allocated_bytes",
        "rate(master_put_start_requests_total[1m])",
        "rate(master_get_replica_list_requests_total[1m])",
    ):
        assert series in text
