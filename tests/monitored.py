"""A real Prometheus for tests: with the shipped scrape jobs, pointed at this machine's ports."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from tests.family import ROOT

COMPOSE = ROOT / "compose"
MISSING = shutil.which("prometheus") is None or shutil.which("promtool") is None
WHY = "no Prometheus here (apt-get install prometheus)"


@dataclass(frozen=True, slots=True)
class Prometheus:
    """A running Prometheus."""

    url: str

    def ask(self, expression: str) -> list[dict[str, Any]]:
        """The instant vector that answers; empty when it has no data."""
        query = urllib.parse.urlencode({"query": expression})
        with urllib.request.urlopen(f"{self.url}/api/v1/query?{query}", timeout=30) as answer:
            found = json.load(answer)
        assert found["status"] == "success", found
        result: list[dict[str, Any]] = found["data"]["result"]
        return result

    def up(self) -> dict[str, float]:
        """Which services are scraped: 1 for those that answered."""
        return {one["metric"]["service"]: float(one["value"][1]) for one in self.ask("up")}


def scrape_config(targets: Mapping[str, str]) -> dict[str, Any]:
    """compose/prometheus.yml with the services' names resolved as a compose network would.

    `targets`: service to HOST:PORT. A service that is not among them has no target, as there.
    """
    config: dict[str, Any] = yaml.safe_load((COMPOSE / "prometheus.yml").read_text("utf-8"))
    config["global"] = {"scrape_interval": "1s", "scrape_timeout": "1s"}
    for job in config["scrape_configs"]:
        names = [name for sd in job.pop("dns_sd_configs") for name in sd["names"]]
        del job["relabel_configs"]
        job["static_configs"] = [
            {"targets": [targets[name]], "labels": {"service": name}}
            for name in names
            if name in targets
        ]
    return config


@contextlib.contextmanager
def prometheus(folder: Path, targets: Mapping[str, str]) -> Iterator[Prometheus]:
    """`with prometheus(tmp_path, {"sim-a": "127.0.0.1:8011"}) as asked:`; it has scraped all."""
    path = folder / "prometheus.yml"
    path.write_text(yaml.safe_dump(scrape_config(targets)), encoding="utf-8")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={path}",
                f"--storage.tsdb.path={folder / 'tsdb'}",
                f"--web.listen-address={address}",
            ],
            stdout=log,
            stderr=log,
        )
    try:
        running = Prometheus(f"http://{address}")
        _wait(running, set(targets), folder / "prometheus.log")
        yield running
    finally:
        process.terminate()
        process.wait(30)


def _wait(running: Prometheus, services: set[str], log: Path) -> None:
    deadline = time.monotonic() + 60
    up: dict[str, float] = {}
    while time.monotonic() < deadline:
        with contextlib.suppress(urllib.error.URLError, ConnectionError):
            up = running.up()
            if {name for name, value in up.items() if value == 1} == services:
                return
        time.sleep(0.5)
    raise AssertionError(f"scraped are {up}, not {services}\n{log.read_text()[-2000:]}")


def queries() -> dict[str, list[str]]:
    """Every query of the shipped dashboards, by file."""
    return {
        path.name: [
            target["expr"]
            for panel in json.loads(path.read_text("utf-8"))["panels"]
            for target in panel["targets"]
        ]
        for path in sorted(COMPOSE.glob("grafana-dashboard-*.json"))
    }


def unanswered(running: Prometheus, wanted: list[str], *, timeout_s: float = 30) -> list[str]:
    """Those of `wanted` that have no number (NaN is none) within `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    left = list(wanted)
    while left and time.monotonic() < deadline:
        left = [
            query
            for query in left
            if not any(one["value"][1] != "NaN" for one in running.ask(query))
        ]
        time.sleep(0.5)
    return left
