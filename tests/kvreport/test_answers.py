"""Same answer, from the simulator to the report: damaged blocks, near ties, and neither."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs
from tests.family import environment
from tests.kvreport.rounds import experiment
from tests.simulated import FAST, Sim, cluster, kvsim

from kvpipe.records import Answers
from kvreport.conclude import conclude
from kvreport.experiments import group
from kvreport.rounds import Round
from kvreport.same_answers import SameAnswers, answers_line
from kvreport.targets import parse
from kvreport.words import Words

SHAPE = (
    *("--scenario", "long_context_high_reuse", "--requests", "6", "--contexts", "3"),
    *("--context-tokens", "300", "--output-tokens", "8", "--pause", "0", "--warmup", "0"),
)

PIPE = 'kvload -q "$@" | kvstats'


def measured(sim: Sim, folder: Path, *flags: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Round stats, and the report of them."""
    made = subprocess.run(
        ["bash", "-o", "pipefail", "-c", PIPE, "-", "--url", sim.url, *SHAPE, *flags],
        capture_output=True,
        env=environment(),
        timeout=120,
        check=True,
    )
    path = folder / "stats.jsonl"
    path.write_bytes(made.stdout)
    report = subprocess.run(
        ["kvreport", "--format", "json", path], capture_output=True, env=environment(), check=True
    )
    (scenario,) = json.loads(report.stdout)["scenarios"]
    return [json.loads(line) for line in made.stdout.splitlines()], scenario


def found(scenario: dict[str, Any]) -> list[dict[str, Any]]:
    findings = [one["finding"] for one in scenario["findings"]]
    return [one for one in findings if one["code"] == "answers_differ"]


def test_blocks_that_come_damaged_out_of_the_store_give_wrong_answers(tmp_path: Path) -> None:
    with cluster("--fault", "corrupt_load") as (store, node, _):
        flags = ("--tier", "store", "--engine", f"vllm={node.url}")
        stats, scenario = measured(
            node, tmp_path, *flags, "--metrics-url", f"store={store.url}", "--keep-output"
        )
    answers = stats[1]["answers"]
    assert (answers["compared"], answers["near_ties"], answers["unknown"]) == (6, 0, 0)
    assert answers["wrong"] == 6 - answers["equal"] >= 3  # every leader was loaded
    (one,) = found(scenario)
    assert one["severity"] == "invalid"
    assert scenario["effects"]["ttft"]["verdict"]["by"] == ["answers_differ"]
    assert scenario["answers"]["wrong"] == answers["wrong"]


def test_the_same_without_damage_is_the_same(tmp_path: Path) -> None:
    with cluster() as (store, node, _):
        flags = ("--tier", "store", "--engine", f"vllm={node.url}")
        stats, scenario = measured(
            node, tmp_path, *flags, "--metrics-url", f"store={store.url}", "--keep-output"
        )
    assert stats[1]["answers"]["equal"] == 6 and found(scenario) == []
    assert scenario["answers"] == {
        "compared": 6, "equal": 6, "near_ties": 0, "wrong": 0, "unknown": 0,
    }  # fmt: skip


@pytest.mark.parametrize("api", ["chat", "completions"])
def test_near_ties_decide_nothing(api: str, tmp_path: Path) -> None:
    with kvsim(*FAST, "--fault", "near_tie=4") as sim:
        stats, scenario = measured(sim, tmp_path, "--keep-output", "--api", api)
    answers = stats[1]["answers"]
    assert answers["near_ties"] == 6 - answers["equal"] > 0 == answers["wrong"]
    assert {one["token"] for one in answers["divergences"]} == {3}
    (one,) = found(scenario)
    assert one["severity"] == "info"
    assert "answers_differ" not in scenario["effects"]["ttft"]["verdict"]["by"]


def test_hashes_alone_tell_how_many(tmp_path: Path) -> None:
    with kvsim(*FAST, "--fault", "near_tie=4") as sim:
        stats, scenario = measured(sim, tmp_path)
    assert stats[1]["answers"] is None
    (one,) = found(scenario)
    assert one["severity"] == "warning"
    assert scenario["answers"]["wrong"] is None
    assert 0 < scenario["answers"]["equal"] < scenario["answers"]["compared"] == 6


def answers(near_ties: int, wrong: int) -> Answers:
    return Answers(
        base_run_id="r",
        base_arm="cold",
        base_round_num=1,
        compared=30,
        equal=30 - near_ties - wrong,
        near_ties=near_ties,
        wrong=wrong,
        unknown=0,
        near_tie_nats=0.25,
    )


def with_answers(one: Round, told: Answers | None) -> Round:
    return replace(one, stats=structs.replace(one.stats, answers=told))


def test_repeats_are_added_up_and_kinds_told_only_where_all_tell_them() -> None:
    rounds = experiment(2)
    hits = [at for at, one in enumerate(rounds) if one.arm == "hit"]
    for told, wanted in (
        (
            [answers(1, 0), answers(0, 2)],
            SameAnswers(compared=60, equal=57, near_ties=1, wrong=2, unknown=0),
        ),
        ([answers(1, 0), None], SameAnswers(compared=60, equal=59)),
    ):
        changed = list(rounds)
        for at, one in zip(hits, told, strict=True):
            changed[at] = with_answers(rounds[at], one)
        (scenario,) = conclude(group(changed), parse([]), tool_version="t").scenarios
        assert scenario.answers == wanted


def test_what_kvstats_saw_is_not_said_twice() -> None:
    """Its finding stands at the round; by hashes alone there would be another between them."""
    cold, hit = experiment(1)
    assert hit.stats.samples is not None
    samples = structs.replace(
        hit.stats.samples, output_sha256=["x", *hit.stats.samples.output_sha256[1:]]
    )
    other = replace(hit, stats=structs.replace(hit.stats, samples=samples))
    for told, wanted in ((None, ["answers_differ"]), (answers(1, 0), [])):
        (scenario,) = conclude(
            group([cold, with_answers(other, told)]), parse([]), tool_version="t"
        ).scenarios
        codes = [one.finding.code for one in scenario.findings]
        assert [code for code in codes if code == "answers_differ"] == wanted


@pytest.mark.parametrize(
    ("language", "wanted"),
    [
        ("en", ["28 of 30", "1 took a token", "1 part at a near tie"]),
        ("zh", ["30", "28", "1 个选了", "1 个在几乎"]),
    ],
)
def test_the_line_says_what_the_others_are(language: str, wanted: Sequence[str]) -> None:
    words = Words(language)  # type: ignore[arg-type]
    line = answers_line(SameAnswers(compared=30, equal=28, near_ties=1, wrong=1, unknown=0), words)
    assert all(one in line for one in wanted)
    equal = answers_line(SameAnswers(compared=3, equal=3), words)
    assert "3" in equal and "keep-output" not in equal
    assert "keep-output" in answers_line(SameAnswers(compared=3, equal=1), words)


def test_what_a_model_says_is_text_and_nothing_else(tmp_path: Path) -> None:
    """Its words stand in a finding: as text in a page, a table, a terminal."""
    nasty = "<script>alert(1)</script>|`x`\x1b[31m\r\n# no heading"
    path = tmp_path / "run.jsonl"
    with kvsim(*FAST) as sim:
        made = subprocess.run(
            ["kvload", "-q", "--url", sim.url, *SHAPE, "--keep-output"],
            capture_output=True,
            env=environment(),
            timeout=120,
            check=True,
        )
    rows = [json.loads(line) for line in made.stdout.splitlines()]
    hits = {one["run_id"] for one in rows if one.get("arm") == "hit"}
    for one in rows:
        if one["record"] == "request" and one["run_id"] in hits:
            one |= {"output_text": nasty, "output_sha256": "f" * 64, "logprobs": None}
    path.write_text("".join(json.dumps(one) + "\n" for one in rows))
    stats = tmp_path / "stats.jsonl"
    with stats.open("wb") as out:
        subprocess.run(["kvstats", path], stdout=out, env=environment(), check=True)
    pages = {
        form: subprocess.run(
            ["kvreport", "--format", form, stats], capture_output=True, env=environment(), text=True
        ).stdout
        for form in ("text", "md", "html")
    }
    assert all("alert(1)" in page and "\x1b" not in page for page in pages.values())
    assert "<script>alert" not in pages["html"]
    assert all(not line.startswith("# no heading") for line in pages["md"].splitlines())
