"""`make pd`: the shipped configs with addresses in them are a matrix that can be run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.family import ROOT, environment

ADDRESSES = {
    "NON_PD": "http://127.0.0.1:28000",
    "PROXY": "http://127.0.0.1:28001",
    "PREFILL": "http://127.0.0.1:28002",
    "DECODE": "http://127.0.0.1:28003",
    "MODEL": "some-model",
    "FLOW": "lmcache",
}


def made(folder: Path, *settings: str) -> dict[str, dict[str, Any]]:
    subprocess.run(
        [sys.executable, ROOT / "demo" / "pd_configs.py", ROOT / "configs", folder, *settings],
        env=environment() | ADDRESSES, check=True, timeout=60,
    )  # fmt: skip
    return {path.name: yaml.safe_load(path.read_text("utf-8")) for path in folder.glob("*.yaml")}


@pytest.mark.parametrize("settings", [(), ("requests=12", "context_tokens=1400-1800")])
def test_they_are_a_matrix_without_placeholders(tmp_path: Path, settings: tuple[str, ...]) -> None:
    files = made(tmp_path, *settings)
    matrix = next(name for name in files if name.startswith("matrix"))
    assert "YOUR_IP" not in str(files)
    done = subprocess.run(
        ["kvmatrix", "--check", str(tmp_path / matrix)],
        capture_output=True, text=True, env=environment(), check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_every_address_has_its_place(tmp_path: Path) -> None:
    files = made(tmp_path)
    apart, alone = files["test_config_pd.yaml"], files["test_config_non_pd.yaml"]
    assert alone["proxy"]["url"] == ADDRESSES["NON_PD"]
    assert apart["proxy"]["url"] == ADDRESSES["PROXY"]
    assert apart["metrics_urls"] == [
        f"prefill={ADDRESSES['PREFILL']}", f"decode={ADDRESSES['DECODE']}"
    ]  # fmt: skip
    assert apart["isolation"]["engines"] == [
        f"vllm={ADDRESSES['PREFILL']}", f"vllm={ADDRESSES['DECODE']}"
    ]  # fmt: skip
    assert apart["pd_flow"] == "lmcache"
    assert apart["scenarios"] == alone["scenarios"], "the columns send the same requests"


def test_some_addresses_are_refused(tmp_path: Path) -> None:
    done = subprocess.run(
        [ROOT / "demo" / "pd.sh", tmp_path],
        capture_output=True, text=True, check=False, timeout=60,
        env=environment() | {"NON_PD": "http://127.0.0.1:28000"},
    )  # fmt: skip
    assert done.returncode == 2 and "name all four" in done.stderr
