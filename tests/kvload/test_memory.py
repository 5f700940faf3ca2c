"""What a run of long prompts holds: the plan's text, and the bodies of one round at a time."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from bench.server import serving
from bench.watched import watch
from tests.family import environment

PROMPTS, TOKENS = 32, 100_000


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
    with serving(plan.with_name("truth.jsonl"), ttft_ms=1.0, itl_ms=1.0) as url:
        done = watch(
            [
                "kvload", "-q", "--url", url, "--workload", str(plan), "--warmup", "0",
                "--salt", "none", "--pause", "0", "--concurrency", "4", "--rounds", str(rounds),
            ],
            env=environment(),
        )  # fmt: skip
    assert done.status == 0, done.stderr
    assert done.stdout.count(b'"record":"request"') == rounds * PROMPTS
    return done.peak_mb


def test_a_further_round_takes_no_further_memory(plan: Path) -> None:
    plan_mb = plan.stat().st_size / 1e6
    assert peak_mb(plan, 3) - peak_mb(plan, 1) < 0.5 * plan_mb
