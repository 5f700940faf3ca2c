"""stack/drill.py on real vLLM and Mooncake: the master is killed, then the owner of the blocks.

What becomes of each request is the engines' matter; what is asserted is that each is accounted for,
that what was lost was computed or failed, and that kvstats says so.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.family import ROOT, environment

pytestmark = pytest.mark.real

FLAGS = "--fault master --fault owner --requests 8 --after 3 --context-tokens 700 --warmup 0"
REQUESTS = 8
PATIENCE_S = 900.0  # for what takes two minutes on an idle machine

Phases = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def drilled(installed_stack: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a drill of both."""
    out = tmp_path_factory.mktemp("drill")
    done = subprocess.run(
        [sys.executable, str(ROOT / "stack" / "drill.py"), *FLAGS.split(), str(out)],
        capture_output=True, text=True, timeout=PATIENCE_S, env=environment(), check=False,
    )  # fmt: skip
    print(done.stderr)
    print(done.stdout)
    assert done.returncode == 0
    return out


def phases(drilled: Path, fault: str) -> Phases:
    text = (drilled / "drill.jsonl").read_text(encoding="utf-8")
    lines = [json.loads(line) for line in text.splitlines()]
    return {one["phase"]: one for one in lines if one["fault"] == fault}


@pytest.fixture
def master(drilled: Path) -> Phases:
    return phases(drilled, "master")


@pytest.fixture
def owner(drilled: Path) -> Phases:
    return phases(drilled, "owner")


@pytest.mark.parametrize("fault", ["master", "owner"])
def test_every_request_is_accounted_for_and_no_answer_is_wrong(drilled: Path, fault: str) -> None:
    found = phases(drilled, fault)
    for phase, one in found.items():
        kinds = [one[kind] for kind in ("hit", "part", "own", "computed", "unknown", "failed")]
        assert sum(kinds) == one["requests"], phase
        assert (one["lost"], one["wrong"], one["simulated"]) == (0, 0, False), phase
    assert found["hit"]["requests"] + found["struck"]["requests"] == REQUESTS
    assert found["hit"]["hit"] == found["hit"]["requests"] >= 3
    assert found["control"]["computed"] == found["control"]["compared"] == REQUESTS


def test_without_its_master_a_node_computes_and_answers(master: Phases) -> None:
    struck = master["struck"]
    assert struck["dead_after"] == struck["started_again"] == ["mooncake"]
    # The request in flight may have looked its blocks up before, and be hit, or fail with them.
    assert struck["computed"] > 0 and struck["failed"] <= 1
    assert struck["first_answer_s"] is not None
    assert "restarted invalid" in struck["findings"], "the store died in a round with a verdict"
    assert master["down"]["failed"] == master["down"]["hit"] == master["down"]["part"] == 0


def test_a_new_master_is_taken_without_a_restart_of_any_node(master: Phases) -> None:
    """Old blocks are forgotten with the old one, but a save that waited may still come."""
    repaired = master["repaired"]
    assert repaired["failed"] == 0
    assert ("lost warning" in repaired["findings"]) == (repaired["hit"] < REQUESTS)
    assert master["anew"]["hit"] == REQUESTS


def test_what_a_dead_node_owned_fails_or_is_computed_and_no_restart_is_invented(
    owner: Phases,
) -> None:
    struck = owner["struck"]
    assert struck["dead_after"] == struck["started_again"] == ["node-a"]
    assert struck["hit"] < struck["requests"]
    if struck["failed"]:
        assert struck["errors"]
        assert "errors invalid" in struck["findings"]
    else:
        assert "lost warning" in struck["findings"]
    assert "restarted invalid" not in struck["findings"], "B, which was measured, went on"


def test_the_owner_that_was_started_again_gives_and_takes(owner: Phases) -> None:
    assert owner["repaired"]["failed"] == 0
    assert owner["anew"]["hit"] == REQUESTS


def test_the_verdict_on_a_disturbed_round_is_withheld(drilled: Path) -> None:
    done = subprocess.run(
        ["kvreport", "--format", "json", str(drilled / "master" / "stats.jsonl")],
        capture_output=True, text=True, timeout=PATIENCE_S, env=environment(), check=False,
    )  # fmt: skip
    report = json.loads(done.stdout)
    [disturbed] = [one for one in report["scenarios"] if one["name"] == "master"]
    verdict = disturbed["effects"]["ttft"]["verdict"]
    assert (verdict["word"], "restarted" in verdict["by"]) == ("withheld", True)
