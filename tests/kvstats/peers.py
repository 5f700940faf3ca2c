"""Files that peers wrote themselves (tests/data/peers), and kvstats run on them in this process."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kvstats.cli import run

PEERS = Path(__file__).parents[1] / "data" / "peers"
VLLM = PEERS / "vllm-bench"
AIPERF = PEERS / "aiperf"

Stats = Callable[..., list[dict[str, Any]]]


def stats_of(capsysbinary: pytest.CaptureFixture[bytes], *arguments: str | Path) -> Any:
    """Exit status apart, what `kvstats ARGUMENTS` writes, a JSON object a line."""
    run([str(one) for one in arguments])
    return [json.loads(line) for line in capsysbinary.readouterr().out.splitlines()]


def read(path: Path) -> Any:
    return json.loads(path.read_text())
