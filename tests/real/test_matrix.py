"""A matrix on real engines: local, store and A to B, three repeats each, as `make real-matrix`.

stack/matrix.sh itself is run, shrunk. Isolated, every cold round is proven cold, every clearing is
verified and every change has its interval; without isolation the same scenarios, which have the
same texts, must be reported contaminated. Counts and verdicts only, no times.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.family import ROOT
from tests.kvmatrix.matrices import clean_environment
from tests.real.engine import Stack, whole_blocks
from tests.real.pipeline import Round, lines, rounds_of
from tests.real.test_experiment import RUINOUS

PATIENCE_S = 1_500  # for what takes four minutes on two idle cores
SHRUNK = {"REQUESTS": "8", "CONTEXTS": "4", "CONTEXT_TOKENS": "700", "SENTINELS": "3"}
REPEATS = 3
TIERS = {"local": "local", "store": "store", "A to B": "remote"}


@dataclass(frozen=True, kw_only=True)
class Matrix:
    """One of the two matrices on disk."""

    out: Path

    def repeats(self) -> list[Path]:
        return sorted(self.out.glob("*/repeat-*/attempt-1"))

    def rounds(self, name: str, arm: str) -> list[Round]:
        """The rounds of a scenario, by repeat."""
        found = [
            one
            for path in self.out.glob("*/stats.json")
            for one in rounds_of(lines(path.with_name("run.jsonl")), lines(path))
            if (one.run["name"], one.run["arm"]) == (name, arm)
        ]
        return sorted(found, key=lambda one: one.run["repeat"])

    def report(self) -> Any:
        return json.loads(self.text("report.json"))

    def text(self, name: str) -> str:
        return (self.out / name).read_text(encoding="utf-8")


@dataclass(frozen=True, kw_only=True)
class Both:
    """How stack/matrix.sh ended, and what it left."""

    status: int
    said: str
    isolated: Matrix
    not_isolated: Matrix


@pytest.fixture(scope="module")
def both(real_stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Both:
    real_stack.empty()
    out = tmp_path_factory.mktemp("matrix")
    stack = {
        "KV_NODE_A": real_stack.node_a,
        "KV_NODE_B": real_stack.node_b,
        "KV_MOONCAKE": real_stack.mooncake,
        "KV_MODEL": real_stack.model,
    }
    done = subprocess.run(
        [ROOT / "stack" / "matrix.sh", out],
        env=clean_environment() | stack | SHRUNK,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    print(done.stdout)
    return Both(
        status=done.returncode,
        said=done.stdout,
        isolated=Matrix(out=out / "isolated"),
        not_isolated=Matrix(out=out / "not_isolated"),
    )


def test_both_came_out_as_they_must(both: Both) -> None:
    assert both.status == 0
    summary = both.isolated.text("summary.txt")
    assert summary.startswith("Matrix: 3 scenarios in all, 3 succeeded, 0 failed, 0 tainted; ")


# --- isolated ------------------------------------------------------------------------------------


def test_every_clearing_was_verified(both: Both) -> None:
    """By canaries on both nodes that hit before, and by our keys in the store, each time."""
    found = both.isolated.repeats()
    assert len(found) == len(TIERS) * REPEATS
    for path in found:
        [record] = lines(path / "isolation.json")
        assert record["verified"] is True
        assert Counter(proof["tier"] for proof in record["proofs"]) == {"engine": 4, "store": 1}
        assert {proof["verified"] for proof in record["proofs"]} == {True}


@pytest.mark.parametrize("name", TIERS)
def test_every_cold_round_is_proven_cold(both: Both, name: str) -> None:
    cold = both.isolated.rounds(name, "cold")
    assert [one.run["repeat"] for one in cold] == [1, 2, 3]
    for one in cold:
        assert one.stats["cold_proof"] == "proven"
        assert [request["cached_tokens"] for request in one.leading] == [0] * len(one.leading)
        assert one.run["isolation"]["verified"] is True
        assert not RUINOUS & set(one.findings()), one.stats["findings"]
    assert len({one.run["salt"] for one in cold}) == REPEATS
    assert len({one.run["plan_sha256"] for one in cold}) == REPEATS
    assert len({one.run["shape_sha256"] for one in cold}) == 1


@pytest.mark.parametrize("name", TIERS)
def test_every_hit_is_whole_and_from_the_tier_that_was_asked_for(both: Both, name: str) -> None:
    hits = both.isolated.rounds(name, "hit")
    assert [one.run["repeat"] for one in hits] == [1, 2, 3]
    for one in hits:
        assert one.stats["tier_served"] == TIERS[name]
        for request in one.own:
            assert request["cached_tokens"] == whole_blocks(request["prompt_tokens"])
        assert not RUINOUS & set(one.findings()), one.stats["findings"]


@pytest.mark.parametrize("name", TIERS)
def test_the_baseline_has_no_reuse_and_stands_before_and_after_in_turn(
    both: Both, name: str
) -> None:
    bare = both.isolated.rounds(name, "no_reuse")
    assert [one.run["position"] for one in bare] == ["before", "after", "before"]
    for one in bare:
        assert {request["cached_tokens"] for request in one.requests} == {0}


def test_every_change_has_an_interval_between_repeats(both: Both) -> None:
    scenarios = both.isolated.report()["scenarios"]
    assert {one["name"]: one["repeats"] for one in scenarios} == dict.fromkeys(TIERS, REPEATS)
    for one in scenarios:
        shown = [*one["effects"].items()]
        shown += [(row["name"], row["effect"]) for row in one["metrics"] if row["effect"]]
        assert {"ttft", "one_hit", "throughput", "tpot", "e2e"} <= {key for key, _ in shown}
        for key, effect in shown:
            interval = effect["interval"]
            assert (interval["method"], interval["units"]) == ("repeats", REPEATS), (one, key)
            mean = sum(effect["thetas"]) / REPEATS
            assert interval["low"] < mean < interval["high"], (one["name"], key)


def test_the_report_names_the_tiers_and_raises_no_alarm(both: Both) -> None:
    text = both.isolated.text("report.md")
    for tier in ("engine prefix cache", "KV store (Mooncake)", "KV cache of another node"):
        assert tier in text
    assert "CONTAMINATED" not in text
    assert "3 succeeded, 0 failed, 0 tainted" in text


# --- without isolation ---------------------------------------------------------------------------


def test_without_isolation_every_scenario_is_tainted_and_make_fails(both: Both) -> None:
    assert re.search(r"^make.*: \*\*\* .*matrix", both.said, re.M)
    summary = both.not_isolated.text("summary.txt")
    assert summary.startswith("Matrix: 3 scenarios in all, 3 succeeded, 0 failed, 3 tainted; ")
    assert summary.count("    tainted: found by kvstats: contaminated") == len(TIERS)
    assert not list(both.not_isolated.repeats()[0].glob("isolation.json"))


def test_all_but_the_first_of_each_repeat_were_warm(both: Both) -> None:
    """The first has texts that nobody has sent; the others find every block of theirs."""
    order = re.findall(r"repeat (\d) of 3: (.+) \(about", both.said)[-len(TIERS) * REPEATS :]
    firsts = {int(repeat): name for repeat, name in reversed(order)}
    assert sorted(firsts) == [1, 2, 3]
    seen: dict[tuple[str, int], str] = {}
    for name in TIERS:
        for one in both.not_isolated.rounds(name, "cold"):
            first = firsts[one.run["repeat"]] == name
            seen[name, one.run["repeat"]] = one.stats["cold_proof"]
            assert one.stats["cold_proof"] == ("proven" if first else "contaminated"), seen
            if not first:
                assert one.findings()["contaminated"] == "invalid"
    assert len(seen) == len(TIERS) * REPEATS


def test_the_report_without_isolation_says_so_and_decides_nothing(both: Both) -> None:
    for one in both.not_isolated.report()["scenarios"]:
        assert "contaminated" in {found["finding"]["code"] for found in one["findings"]}
        assert {(target["status"], target["reason"]) for target in one["targets"]} == {
            ("invalid", "contaminated")
        }
    assert both.not_isolated.text("report.md").count("CONTAMINATED") >= len(TIERS)
