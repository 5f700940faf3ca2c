"""What a run of long prompts holds: the plan's text, and the bodies of one round at a time."""

from __future__ import annotations

import contextlib
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from bench.server import serving
from tests.family import environment

PROMPTS, TOKENS = 32, 100_000
HIGH_WATER = re.compile(r"VmHWM:\s*(\d+) kB")


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """12 MB of text."""
    path = tmp_path_factory.mktemp("memory") / "plan.jsonl"
    command = [
        "kvplan", "--scenario", "cold_start", "--requests", str(PROMPTS), "--sentinels", "0",
        "--context-tokens", str(TOKENS), "--output-tokens", "2",
    ]  # fmt: skip
    with path.open("wb") as out:
        subprocess.run(
            command, stdout=out, stderr=subprocess.DEVNULL, check=True, env=environment()
        )
    yield path
    path.unlink()


def peak_mb(plan: Path, rounds: int) -> float:
    """The most that the process ever held, by the kernel: no look from outside can miss it."""
    command = [
        "kvload", "-q", "--workload", str(plan), "--warmup", "0", "--salt", "none", "--pause", "0",
        "--concurrency", "4", "--rounds", str(rounds),
    ]  # fmt: skip
    out = plan.with_name(f"{rounds}.jsonl")
    most_kb = 0
    with (
        serving(plan.with_name("truth.jsonl"), ttft_ms=1.0, itl_ms=1.0) as url,
        out.open("wb") as to,
    ):
        process = subprocess.Popen([*command, "--url", url], stdout=to, env=environment())
        while process.poll() is None:
            with contextlib.suppress(OSError):
                told = HIGH_WATER.search(Path(f"/proc/{process.pid}/status").read_text())
                most_kb = max(most_kb, int(told[1]) if told else 0)
            time.sleep(0.005)
    assert process.returncode == 0
    assert out.read_bytes().count(b'"record":"request"') == rounds * PROMPTS
    return most_kb * 1024 / 1e6


def test_a_further_round_takes_no_further_memory(plan: Path) -> None:
    plan_mb = plan.stat().st_size / 1e6
    assert peak_mb(plan, 3) - peak_mb(plan, 1) < 0.5 * plan_mb
