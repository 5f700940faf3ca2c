"""What is concluded from measured figures; and the whole bench, small, to see that it runs."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from bench.goals import FIVE_THOUSAND, GOALS, KVLOAD_FLAT, VLLM_FLAT, Results, row_of
from bench.loads import FLAT_OUT, HUNDRED, THOUSAND, THOUSAND_BY_TWO
from tests.family import ROOT, environment

GOOD: dict[str, dict[str, float]] = {
    KVLOAD_FLAT: {"cpu_whole": 0.3, "rps": 3000.0},
    VLLM_FLAT: {"cpu_loaded": 1.0, "rps": 1000.0},
    "100 streams": {"ttft_p50": 0.1, "ttft_p99": -1.0, "false_alarm": 0.0},
    "1,000 streams": {
        "ttft_p50": -0.2, "ttft_p99": 2.0, "gap_p99": 0.1, "tpot_p99": 0.01, "peak_mb": 70.0,
        "cpu_per_100k": 1.0, "false_alarm": 0.0,
    },
    "open loop 200/s": {
        "rate_off_percent": -0.5, "late_p50": 0.3, "late_p99": 1.0, "false_alarm": 0.0,
    },
    "--help": {"wall_s": 0.15},
    "a run of one request": {"wall_s": 0.5},
    THOUSAND_BY_TWO.name: {"cpu_per_100k": 1.15},
    FIVE_THOUSAND.name: {"in_flight": 5000.0},
}  # fmt: skip
BAD: dict[tuple[str, str], float] = {
    (KVLOAD_FLAT, "cpu_whole"): 0.46,
    (KVLOAD_FLAT, "rps"): 2199.0,
    ("100 streams", "ttft_p50"): -0.31,
    ("100 streams", "ttft_p99"): 3.1,
    ("1,000 streams", "ttft_p50"): 1.1,
    ("1,000 streams", "gap_p99"): 1.1,
    ("1,000 streams", "peak_mb"): 101.0,
    ("open loop 200/s", "rate_off_percent"): -0.51,
    ("open loop 200/s", "late_p99"): 2.1,
    ("--help", "wall_s"): 0.31,
    ("a run of one request", "wall_s"): 0.81,
    (THOUSAND_BY_TWO.name, "cpu_per_100k"): 1.16,
    (FIVE_THOUSAND.name, "in_flight"): 4999.0,
}


def rows(results: Results) -> dict[str, str]:
    return {goal.name: row_of(goal, results)["met"] for goal in GOALS}


def measured(**over: Any) -> Results:
    return Results(runs={case: [figures] for case, figures in (GOOD | over).items()})


def test_every_limit_itself_is_within() -> None:
    assert set(rows(measured()).values()) == {"stretch", "yes"}


@pytest.mark.parametrize(("place", "value"), BAD.items())
def test_beyond_a_limit_one_goal_is_missed(place: tuple[str, str], value: float) -> None:
    case, figure = place
    found = rows(measured(**{case: GOOD[case] | {figure: value}}))
    assert list(found.values()).count("no") == 1


def test_one_figure_between_must_and_stretch_makes_it_a_yes() -> None:
    slower = GOOD["100 streams"] | {"ttft_p99": 2.0}
    assert rows(measured(**{"100 streams": slower}))["TTFT error, 100 streams: p50, p99"] == "yes"


def test_medians_decide() -> None:
    results = measured()
    bad = GOOD["100 streams"] | {"ttft_p50": 50.0}
    results.runs["100 streams"] = [bad, GOOD["100 streams"], GOOD["100 streams"]]
    assert "no" not in rows(results).values()
    results.runs["100 streams"].append(bad)
    results.runs["100 streams"].append(bad)
    assert rows(results)["TTFT error, 100 streams: p50, p99"] == "no"


def test_one_false_alarm_of_many_runs_counts() -> None:
    results = measured()
    loud = GOOD["100 streams"] | {"false_alarm": 1.0}
    results.runs["100 streams"] = [GOOD["100 streams"], loud, GOOD["100 streams"]]
    assert list(rows(results).values()).count("no") == 1


def test_without_the_peer_there_is_no_ratio_and_no_verdict() -> None:
    results = measured()
    del results.runs[VLLM_FLAT]
    results.skipped[VLLM_FLAT] = "vllm: not installed"
    cpu, rps = (row_of(goal, results) for goal in GOALS[:2])
    assert cpu["met"] == rps["met"] == "not compared: vllm: not installed"
    assert (cpu["measured"], rps["measured"]) == ("0.30 by itself", "3,000.00 by itself")


def test_loads_shrink_in_all_but_time() -> None:
    small = THOUSAND.shrunk(0.01)
    assert (small.streams, small.requests, small.tokens) == (10, 20, 4)
    assert (small.ttft_ms, small.itl_ms) == (THOUSAND.ttft_ms, THOUSAND.itl_ms)
    assert HUNDRED.shrunk(1) == HUNDRED
    assert FLAT_OUT.shrunk(0.01).requests >= 8


def bench(*words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *words],
        capture_output=True, text=True, cwd=ROOT, env=environment(), timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode in (0, 1), done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_whole_bench_runs_and_keeps_a_page() -> None:
    folders = set((ROOT / "bench" / "runs").iterdir())
    small = ("--runs", "1", "--share", "0.01", "--alone", "--label", "of a test")
    try:
        page = bench("bench.goals", *small)
        bench("bench.bench_peers", *small)
        (folder,) = set((ROOT / "bench" / "runs").iterdir()) - folders
        goals = json.loads((folder / "goals.json").read_text())
        peers = json.loads((folder / "peers.json").read_text())
        assert page.strip() in (folder / "goals.md").read_text()
        assert "kvload" in (folder / "peers.md").read_text()
    finally:
        for made in set((ROOT / "bench" / "runs").iterdir()) - folders:
            shutil.rmtree(made)
    assert [row["goal"] for row in goals["goals"]] == [goal.name for goal in GOALS]
    assert list(goals["skipped"]) == [VLLM_FLAT]
    assert goals["conditions"]["server"] in ("bench/flatserver.c", "kvsim --flat")
    assert [client["failed"] for client in peers["clients"]] == [{}]


def test_a_profile_names_functions_by_what_they_cost() -> None:
    page = bench("bench.profile", "--share", "0.02")
    assert "| own" in page
    # Which ones cost the most in so short a run is the machine's to say: imports, as a rule.
    rows = re.findall(r"^\| (\d+\.\d)% +\| \d+\.\d% +\| [\d,]+ +\| `[^`]+` +\|$", page, re.M)
    assert len(rows) >= 10, page
    assert [float(share) for share in rows] == sorted(map(float, rows), reverse=True)


def test_a_calibration_is_made_and_carried(tmp_path: Path) -> None:
    made = tmp_path / "calibration.json"
    few = ("--runs", "1", "--streams", "4", "--rates", "20")
    assert "4 streams" in bench("bench.calibrate", str(made), *few)
    known = json.loads(made.read_text())
    assert [load["streams"] for load in known["loads"]] == [4, None]
    assert known["loads"][1]["rate_rps"] == 20.0
    assert all(load["chunks_rps"] > 0 for load in known["loads"])
