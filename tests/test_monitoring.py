"""The dashboards against a real Prometheus that scrapes simulated nodes and their store."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.family import ROOT
from tests.monitored import COMPOSE, MISSING, WHY, Prometheus, prometheus, queries, unanswered
from tests.simulated import kvsim

pytestmark = pytest.mark.skipif(MISSING, reason=WHY)


@pytest.fixture(scope="module")
def scraped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Two nodes over a store, scraped while requests come: misses, local hits, hits on B."""
    with (
        kvsim("--role", "store") as store,
        kvsim("--store", store.url) as a,
        kvsim("--store", store.url) as b,
        prometheus(
            tmp_path_factory.mktemp("prometheus"),
            {
                "sim-store": store.url.removeprefix("http://"),
                "sim-a": a.url.removeprefix("http://"),
                "sim-b": b.url.removeprefix("http://"),
            },
        ) as running,
        ThreadPoolExecutor() as pool,
    ):
        prompts = [f"{number} " * 400 for number in range(12)]
        for node in (a, a, b):
            list(pool.map(node.complete, prompts))
        yield running


@pytest.mark.parametrize("name", sorted(queries()))
def test_every_query_of_a_dashboard_returns_data(scraped: Prometheus, name: str) -> None:
    assert unanswered(scraped, queries()[name]) == []


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
