"""An order from a config of a run or of a matrix: only the keys about isolation are taken.

`isolation.engines` names what to clear. Without it the endpoints of the rounds are cleared as
vLLM nodes, and without those the one endpoint; a store is never guessed. Commands of a config are
not run: a file that somebody sent must not execute anything.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kvclear.order import Order, engines_of
from kvschemas.checked import Config, load_checked, placeholder_in, read_yaml


def order_of(path: str) -> Order:
    """The order that a config file gives. ToolError with file, line and key if it gives none."""
    config = load_checked(path, "matrix" if _is_matrix(Path(path)) else "config")
    value = config.value
    isolation = value.get("isolation") or {}
    if isolation.get("commands"):
        raise config.error(
            "commands of a config are not run by kvclear: give them with --command",
            "isolation",
            "commands",
        )
    mooncake = value.get("mooncake") or {}
    metadata = mooncake.get("metadata_server_url")
    _refuse_placeholder(config, metadata, "mooncake", "metadata_server_url")
    wait_s = isolation.get("wait_s", value.get("wait_between_scenarios", 0))
    return Order(
        engines=engines_of(*_engines(config, isolation)),
        model=_model(value),
        metadata_clear=metadata,
        wait_s=float(wait_s),
        health=tuple(isolation.get("health") or ()),
        local_only=bool(isolation.get("local_only")),
        everyone=bool(isolation.get("global")),
    )


def _is_matrix(path: Path) -> bool:
    _, value = read_yaml(path)
    return isinstance(value, dict) and bool({"test_scenarios", "grid"} & value.keys())


def _engines(config: Config, isolation: dict[str, Any]) -> tuple[list[str], list[str], list[str]]:
    named = isolation.get("engines")
    if named:
        for index, pair in enumerate(named):
            _refuse_placeholder(config, pair, "isolation", "engines", index)
        return list(named), [], []
    rounds = config.value.get("endpoints_per_round") or {}
    for key, url in rounds.items():
        _refuse_placeholder(config, url, "endpoints_per_round", key)
    if rounds:
        return [], list(rounds.values()), []
    url = (config.value.get("proxy") or {}).get("url")
    _refuse_placeholder(config, url, "proxy", "url")
    return [], [url] if url else [], []


def _refuse_placeholder(config: Config, text: str | None, *key: str | int) -> None:
    left = placeholder_in(text) if text else None
    if left:
        raise config.error(f"the placeholder {left} is still there; put in your own address", *key)


def _model(value: dict[str, Any]) -> str | None:
    """The active model's name; null leaves the choice to the server."""
    active = value.get("active_model")
    models = value.get("models") or {}
    chosen = models.get(active) if active else value.get("model")
    name = (chosen or {}).get("name")
    return str(name) if name else None
