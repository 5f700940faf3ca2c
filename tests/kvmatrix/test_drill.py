"""Killed at random moments, a matrix ends in one complete report. `make matrix-drill` is the full
drill: eight scenarios, twenty kills."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import signal
import subprocess
from collections import Counter
from typing import Any

from tests.kvmatrix.matrices import Site
from tests.simulated import Sim

FULL = bool(os.environ.get("KV_DRILL_FULL"))
SCENARIOS, KILLS, REPEATS = (8, 20, 3) if FULL else (3, 4, 1)
SEED = int(os.environ.get("KV_DRILL_SEED", "4"))
NAMES = [
    "gone",
    "腾讯云-单机/$(touch pwned)\n`x`",
    "a b 'c' \"d\" \\ #%",
    *(f"plain {number}" for number in range(5)),
]


def matrix_of(site: Site, url: str) -> None:
    site.config("c.yaml", url)
    site.config("gone.yaml", "http://127.0.0.1:9/v1")
    scenarios: list[dict[str, Any]] = [
        {
            "name": name,
            "config_file": "gone.yaml" if name == "gone" else "c.yaml",
            "scenario": "cold_start" if number % 2 else "long_context_high_reuse",
        }
        for number, name in enumerate(NAMES[:SCENARIOS])
    ]
    site.matrix(scenarios, repeats=REPEATS)


def test_a_matrix_that_is_killed_again_and_again_ends_in_one_complete_report(
    site: Site, quick: Sim
) -> None:
    matrix_of(site, quick.url)
    chance = random.Random(SEED)
    killed = 0
    for _ in range(KILLS):
        with site.start("kvmatrix m.yaml -q | make -f -") as process:
            # Moments of a whole step and more: its isolation, rounds, publication, and the next.
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.communicate(timeout=chance.uniform(0.2, 3.0))
            if process.poll() is None:
                killed += 1
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    status, said = site.make()
    assert killed >= KILLS // 4, "the drill killed nothing"
    assert status == 2, said
    good = SCENARIOS - 1
    assert f"Matrix: {SCENARIOS} scenarios in all, {good} succeeded, 1 failed, 0 tainted" in said
    complete(site)


def complete(site: Site) -> None:
    """Every repeat is there once, whole and cold; nothing was done twice."""
    good = SCENARIOS - 1
    assert len(site.runs()) == good * REPEATS
    salts = []
    for path in site.runs():
        records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        ends = [record for record in records if record["record"] == "end"]
        assert [end["complete"] for end in ends] == [True] * 3
        salts += [
            record["salt"]
            for record in records
            if record["record"] == "run" and record["arm"] == "cold"
        ]
    assert len(set(salts)) == len(salts)
    stats = site.stats()
    assert Counter(one["run"]["name"] for one in stats) == dict.fromkeys(
        NAMES[1:SCENARIOS], 3 * REPEATS
    )
    assert len({one["run"]["experiment_id"] for one in stats}) == 1
    assert {one["cold_proof"] for one in stats if one["run"]["arm"] == "cold"} == {"proven"}
    report = json.loads((site.folder / "out" / "report.json").read_text(encoding="utf-8"))
    assert sorted(one["name"] for one in report["scenarios"]) == sorted(NAMES[1:SCENARIOS])
    text = (site.folder / "out" / "report.md").read_text(encoding="utf-8")
    assert len(re.findall(rf"^{SCENARIOS} scenarios in all, {good} succeeded, 1 ", text, re.M)) == 1
    assert sorted(one["name"] for one in report["outcomes"]) == sorted(NAMES[:SCENARIOS])
    assert "connection refused" in text
    assert "pwned" not in {path.name for path in site.folder.rglob("*")}
