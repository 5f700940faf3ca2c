"""What is shipped in configs/ runs: shrunk, on simulated engines, addresses written in."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.family import ROOT
from tests.kvmatrix.matrices import QUICK, REPORTS, Site
from tests.simulated import Sim, kvsim

from kvmatrix.matrix import read_matrix

FULL = bool(os.environ.get("KV_DRILL_FULL"))
FILES = {path: path.read_text(encoding="utf-8") for path in (ROOT / "configs").glob("*.yaml")}
MATRICES = sorted(
    path for path, text in FILES.items() if re.search(r"^(test_scenarios|grid):", text, re.M)
)
RUNS = sorted(path for path, text in FILES.items() if re.search(r"^rounds: ", text, re.M))
QUICK_SEARCH = {"from_rps": 20, "to_rps": 40, "precision": "100%", "requests": 100}
SHRUNK: dict[str, Any] = {"requests": 3, "context_tokens": 200, "contexts": 1, "output_tokens": 2}


@pytest.fixture(scope="module")
def nodes() -> Iterator[tuple[Sim, Sim, Sim]]:
    """(store, A, B): a store behind two engines."""
    with (
        kvsim("--role", "store") as store,
        kvsim("--store", store.url, *QUICK) as a,
        kvsim("--store", store.url, *QUICK) as b,
    ):
        yield store, a, b


def shrink(path: Path, site: Site, nodes: tuple[Sim, Sim, Sim]) -> Path:
    """A run config with the simulated addresses, few requests and short prompts."""
    store, a, b = nodes
    value = yaml.safe_load(path.read_text(encoding="utf-8"))
    if "endpoints_per_round" in value:
        value["endpoints_per_round"] = {1: a.url, 2: b.url}
    else:
        value["proxy"] = {"url": a.url}
    if "admin_url" in value.get("mooncake", {}):
        value["mooncake"]["admin_url"] = store.url
    value.get("mooncake", {}).pop("metadata_server_url", None)
    model = value.get("models", {}).get(value.get("active_model")) or value["model"]
    model["name"] = "sim"
    value.pop("metrics_urls", None)
    value["scenarios"] = {name: dict(SHRUNK) for name in value["scenarios"]}
    value["pause_between_rounds"] = 0
    made = site.folder / path.name
    made.write_text(yaml.safe_dump(value, allow_unicode=True), encoding="utf-8")
    return made


@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.name)
def test_a_run_config_runs(path: Path, site: Site, nodes: tuple[Sim, Sim, Sim]) -> None:
    made = shrink(path, site, nodes)
    flags = "--warmup 0 --requests 2 --sentinels 0 -q"
    status, said = site.run(f"kvload --config {made.name} {flags} | kvstats")
    assert status == 0, said
    rounds = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    assert {"cold", "hit"} <= {one["run"]["arm"] for one in rounds}
    assert all(one["successful_requests"] == 2 for one in rounds)
    tiers = {one["run"]["tier"] for one in rounds}
    wanted = "remote" if "cross" in path.name else "store" if "store" in path.name else "local"
    assert tiers == {wanted}


def shrink_grid(path: Path, nodes: tuple[Sim, Sim, Sim]) -> dict[str, Any]:
    """A matrix with a grid whose cells are short and go to the simulated addresses."""
    _, a, b = nodes
    text = path.read_text(encoding="utf-8")
    for machine, node in (("{a}", a), ("{b}", b), ("localhost", a)):
        text = text.replace(f"http://{machine}:8000", node.url)
    value: dict[str, Any] = yaml.safe_load(re.sub(r"YOUR_\w+", "unused", text))
    grid = value["grid"]
    for name in ("lengths", "reuse"):  # the two ends of an axis stand for all of it
        if name in grid:
            ends = [*grid[name]][:: len(grid[name]) - 1]
            grid[name] = {end: grid[name][end] for end in ends}
    for length in grid.get("lengths", {}).values():
        length["context_tokens"] = 200
    grid["base"] |= SHRUNK | {"pause_between_rounds": 0}
    for model in grid.get("models", {}).values():
        model["model"]["name"] = "sim"
    return value


@pytest.mark.parametrize(
    "path",
    MATRICES
    if FULL
    else [
        ROOT / "configs" / f"{name}.yaml"
        for name in ("multi_scenario_config_simple", "matrix_reuse_dose_response")
    ],
    ids=lambda path: path.name,
)
def test_a_matrix_runs(path: Path, site: Site, nodes: tuple[Sim, Sim, Sim]) -> None:
    value = yaml.safe_load(path.read_text(encoding="utf-8"))
    if "grid" in value:
        value = shrink_grid(path, nodes)
    for entry in value.get("test_scenarios", []):
        shrink(ROOT / "configs" / entry["config_file"], site, nodes)
        if "capacity" in entry:
            entry["capacity"] |= QUICK_SEARCH
    value |= {"repeats": 1, "output_dir": "out", "wait_between_scenarios": 0, "formats": REPORTS}
    made = site.folder / "m.yaml"
    made.write_text(yaml.safe_dump(value, sort_keys=False), encoding="utf-8")
    wanted = {one.name for one in read_matrix(str(made), allow_commands=False).scenarios}
    _, said = site.make()  # its status may tell of a doubt about figures this small
    assert f" {len(wanted)} succeeded, 0 failed" in said
    assert {line["name"] for line in site.stats()} == wanted
