"""A grid: cells from pieces, excludes, and a complaint that names the piece that is wrong."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.kvmatrix.matrices import REPORTS, Site
from tests.simulated import Sim

from kvmatrix.matrix import Matrix, read_matrix
from kvpipe.process import ToolError

GRID: dict[str, Any] = {
    "scenario": "long_context_high_reuse",
    "base": {"pause_between_rounds": 0, "requests": 4},
    "platforms": {
        "云 one": {"machines": {"a": {"ip": "10.0.0.1"}, "b": {"ip": "10.0.0.2"}}},
        "two": {"machines": {"a": {"ip": "10.1.0.1"}, "b": {"ip": "10.1.0.2"}}},
    },
    "deployments": {
        "single": {"proxy": {"url": "http://{a}:8000/v1"}},
        "cross": {
            "endpoints_per_round": {1: "http://{a}:8000/v1", 2: "http://{b}:{b.port}/v1"},
            "machines": {"b": {"port": 8001}},
            "concurrency": 3,
        },
    },
    "models": {
        "7B": {"model": {"name": "small", "max_tokens": 8}},
        "72B": {"model": {"name": "large"}, "concurrency": 1},
    },
}


def write(site: Site, grid: dict[str, Any], **keys: Any) -> Path:
    path = site.folder / "m.yaml"
    value = {"output_dir": "out", "repeats": 1, "formats": REPORTS} | keys | {"grid": grid}
    path.write_text(yaml.safe_dump(value, allow_unicode=True, sort_keys=False), encoding="utf-8")
    return path


def read(path: Path) -> Matrix:
    return read_matrix(str(path), allow_commands=False)


def names(platforms: str, deployments: str, models: str) -> list[str]:
    """The last axis slowest: simple first."""
    lists = [text.split(",") for text in (models, deployments, platforms)]
    return [f"{platform}-{deployment}-{model}" for model, deployment, platform in
            itertools.product(*lists)]  # fmt: skip


def test_cells_are_named_and_ordered_by_their_axes(site: Site) -> None:
    matrix = read(write(site, GRID))
    assert [one.name for one in matrix.scenarios] == names("云 one,two", "single,cross", "7B,72B")
    assert len({one.fingerprint for one in matrix.scenarios}) == 8


def test_a_cell_has_the_keys_of_all_its_names_and_the_machines_addresses(site: Site) -> None:
    found = {one.name: one for one in read(write(site, GRID)).scenarios}
    cross = found["two-cross-7B"]
    assert cross.config is None
    assert cross.settings["endpoints_per_round"] == {
        "1": "http://10.1.0.1:8000/v1",
        "2": "http://10.1.0.2:8001/v1",
    }
    assert cross.settings["machines"]["b"] == {"ip": "10.1.0.2", "port": 8001}
    assert cross.settings["model"] == {"name": "small", "max_tokens": 8}
    assert "--requests 4" in " ".join(cross.overrides)
    assert "--concurrency 3" in " ".join(cross.overrides)
    # What a later axis says beats an earlier one.
    assert "--concurrency 1" in " ".join(found["two-cross-72B"].overrides)
    assert found["云 one-single-7B"].settings["proxy"] == {"url": "http://10.0.0.1:8000/v1"}
    assert "machines" in found["云 one-single-7B"].settings


def test_a_grid_stands_behind_what_is_listed_and_may_have_one_axis(site: Site) -> None:
    site.config("c.yaml", "http://127.0.0.1:9")
    listed = [{"name": "first", "config_file": "c.yaml", "scenario": "cold_start"}]
    grid = {
        "scenario": "cold_start",
        "base": {"proxy": {"url": "http://127.0.0.1:9"}},
        "loads": {"serial": None, "ten": {"concurrency": 10}},
    }
    matrix = read(write(site, grid, test_scenarios=listed))
    assert [one.name for one in matrix.scenarios] == ["first", "serial", "ten"]


def test_excluded_cells_are_left_out(site: Site) -> None:
    exclude = [{"platform": "two", "deployment": "cross"}, {"platform": "two", "model": "72B"}]
    matrix = read(write(site, GRID | {"exclude": exclude}))
    assert [one.name for one in matrix.scenarios] == [
        name
        for name in names("云 one,two", "single,cross", "7B,72B")
        if not name.startswith(("two-cross", "two-single-72B"))
    ]


def line_of(path: Path, text: str) -> int:
    lines = path.read_text(encoding="utf-8").splitlines()
    (number,) = [number for number, line in enumerate(lines, 1) if text in line]
    return number


@pytest.mark.parametrize(
    ("change", "at", "words"),
    [
        (
            {"exclude": [{"platform": "three"}]},
            "platform: three",
            "'grid.exclude.0.platform': three is not among `platforms` (云 one, two)",
        ),
        (
            {"exclude": [{"platform": "two"}, {"platform": "two", "model": "7B"}]},
            "  - platform: two\n    model",
            "'grid.exclude.1': leaves nothing out: what it names was left out before",
        ),
        (
            {"exclude": [{"platform": "two"}, {"platform": "云 one"}]},
            "  exclude:",
            "'grid.exclude': every cell of the grid is left out",
        ),
        (
            {"exclude": [{"load": "x"}]},
            "load: x",
            "x is not among `loads` (none)",
        ),
        (
            {"models": {"7B": {"modle": {}}}},
            "modle:",
            "'grid.models.7B.modle': .*known keys: .*concurrency.*proxy",
        ),
        (
            {"models": {"7B": {"concurrency": "ten"}}},
            "concurrency: ten",
            "'grid.models.7B.concurrency': 'ten' is not of type 'integer'",
        ),
        (
            {"models": {"7B": {"model": {"name": 7}}}},
            "name: 7",
            "'grid.models.7B.model.name': 7 is not of type 'string'",
        ),
        (
            {"deployments": {"single": {"proxy": {"url": "http://{c}:1"}}}},
            "http://{c}",
            "'grid.deployments.single.proxy.url': {c}: c is not among `machines` (a, b)",
        ),
        (
            {"deployments": {"single": {"proxy": {"url": "http://{a}:{a.port}"}}}},
            "http://{a}",
            "'grid.deployments.single.proxy.url': {a.port}: machines.a has no port",
        ),
        (
            {"platforms": {"x": {"machines": {"a": {"ip": "YOUR_IP"}, "b": {"ip": "1"}}}}},
            "YOUR_IP",
            "'grid.platforms.x.machines.a.ip': the placeholder YOUR_ is still there",
        ),
        (
            {"deployments": {"single": {"tier": "remote", "proxy": {"url": "http://{a}:1"}}}},
            "tier: remote",
            "tier remote needs round 2 on another endpoint: add endpoints_per_round",
        ),
        ({"models": {"7B": {"rate": 2, "concurrency": 3}}}, "  scenario:", "open loop"),
    ],
)
def test_an_error_names_the_piece(site: Site, change: dict[str, Any], at: str, words: str) -> None:
    path = write(site, GRID | change)
    with pytest.raises(ToolError) as refused:
        read(path)
    said = str(refused.value)
    assert len(said.splitlines()) == 1
    if ".*" in words:
        assert re.search(words, said)
    else:
        assert words in said
    if "\n" not in at and at != "  scenario:":
        assert said.startswith(f"{path}:{line_of(path, at)}: "), said


def test_a_cell_runs_without_a_file_of_its_own(site: Site, quick: Sim) -> None:
    host, _, port = quick.url.removeprefix("http://").partition(":")
    grid = {
        "scenario": "long_context_high_reuse",
        "base": {
            "requests": 4,
            "contexts": 1,
            "context_tokens": 200,
            "output_tokens": 2,
            "pause_between_rounds": 0,
            "warmup": 1,
        },
        "platforms": {"云\u2028 'x'": {"machines": {"a": {"ip": host, "port": int(port)}}}},
        "deployments": {"single": {"proxy": {"url": "http://{a}:{a.port}/v1"}}},
        "reuse": {"0": {"shared_ratio": 0}, "1": {"shared_ratio": 1}},
    }
    write(site, grid)
    status, said = site.make()
    assert status == 0, said
    cold = {one["run"]["name"]: one["run"] for one in site.stats() if one["run"]["arm"] == "cold"}
    assert sorted(cold) == ["云\u2028 'x'-single-0", "云\u2028 'x'-single-1"]
    for name, leaders, uniques in (("0", 0, 4), ("1", 1, 0)):
        (folder,) = (site.folder / "out").glob(f"*-single-{name}-*")
        plan = [json.loads(line) for line in (folder / "plan.jsonl").read_bytes().splitlines()]
        strata = [line.get("stratum") for line in plan if line["record"] == "planned"]
        assert (strata.count("leader"), strata.count("unique")) == (leaders, uniques)
        (head,) = [line for line in plan if line["record"] == "plan"]
        assert head["plan_sha256"] == cold[f"云\u2028 'x'-single-{name}"]["plan_sha256"]
