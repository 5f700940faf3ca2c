"""The shipped PD configs with real addresses in them: `pd_configs.py CONFIGS OUT [NAME=VALUE ...]`.

Addresses, model and flow come from the environment of demo/pd.sh; NAME=VALUE are settings of the
scenario, in place of the configs' own.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import yaml

MATRIX = "matrix_pd_against_non_pd.yaml"


def main(configs: Path, out: Path, settings: dict[str, str]) -> None:
    matrix = read(configs / MATRIX)
    matrix["output_dir"] = str(out / "results")
    if settings:
        matrix["wait_between_scenarios"] = 0
    write(out / MATRIX, matrix)

    addresses = {name: os.environ[name] for name in ("NON_PD", "PROXY", "PREFILL", "DECODE")}
    alone = read(configs / "test_config_non_pd.yaml")
    alone["proxy"]["url"] = addresses["NON_PD"]
    apart = read(configs / "test_config_pd.yaml")
    apart["proxy"]["url"] = addresses["PROXY"]
    halves = (addresses["PREFILL"], addresses["DECODE"])
    apart["metrics_urls"] = [
        f"{role}={url}" for role, url in zip(("prefill", "decode"), halves, strict=True)
    ]
    apart["isolation"]["engines"] = [f"vllm={url}" for url in halves]
    apart["pd_flow"] = os.environ["FLOW"]
    for name, config in (("test_config_non_pd.yaml", alone), ("test_config_pd.yaml", apart)):
        config["model"]["name"] = os.environ["MODEL"]
        if settings:
            shaped(config, settings)
        write(out / name, config)


def shaped(config: dict[str, Any], settings: dict[str, str]) -> None:
    """Shorter and fewer prompts, and no pauses: what a simulated engine needs."""
    own = {key: int(text) if text.isdigit() else text for key, text in settings.items()}
    config["scenarios"] = {name: one | own for name, one in config["scenarios"].items()}
    config["pause_between_rounds"] = 0


def read(path: Path) -> dict[str, Any]:
    value: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return value


def write(path: Path, value: dict[str, Any]) -> None:
    path.write_text(yaml.safe_dump(value, allow_unicode=True, sort_keys=False), encoding="utf-8")


if __name__ == "__main__":
    main(
        Path(sys.argv[1]),
        Path(sys.argv[2]),
        dict(word.split("=", 1) for word in sys.argv[3:]),
    )
