"""The keys of a scenario in a matrix that beat the run config's, as flags of kvload."""

from __future__ import annotations

from typing import Any

from kvschemas.checked import Config, Key

OVERRIDES = {
    "rounds": "--rounds",
    "concurrency": "--concurrency",
    "requests": "--requests",
    "tier": "--tier",
    "context_tokens": "--context-tokens",
    "contexts": "--contexts",
    "shared_ratio": "--shared-ratio",
    "output_tokens": "--output-tokens",
    "order": "--order",
    "sentinels": "--sentinels",
    "rate": "--rate",
    "arrival": "--arrival",
    "pause_between_rounds": "--pause",
    "warmup": "--warmup",
}


def flags_of(entry: dict[str, Any]) -> list[str]:
    """kvload's flags for what a scenario of the matrix says itself."""
    return [
        text for key, flag in OVERRIDES.items() if key in entry for text in (flag, str(entry[key]))
    ]


def check_load(matrix: Config, key: Key, entry: dict[str, Any], settings: dict[str, Any]) -> None:
    """ToolError for keys of one scenario that cannot be together."""
    if "rate" in entry and "concurrency" in entry:
        raise matrix.error(
            "rate is an open loop, concurrency a closed one: write one of them", *key, "rate"
        )
    if "arrival" in entry and "rate" not in entry and "rate" not in settings:
        raise matrix.error(
            "arrival says how requests follow at a rate: write the rate", *key, "arrival"
        )
