"""kvreport as a process: streams, status, files; what is promised to scripts."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.family import environment
from tests.kvreport.rounds import Setting, Shape, experiment, finding, lines, make, rerun

from kvreport.output import colour_of

ALONE = lines([make("cold")])
ONE, THREE = lines(experiment(1)), lines(experiment(3))
SMALL = Shape(requests=12, contexts=1, uniques=1)
Sh = Callable[..., Any]


def test_stdin_file_and_dash_are_the_same(sh: Sh, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text(ONE, encoding="utf-8")
    shown = [
        sh("kvreport", stdin=ONE).out,
        sh("kvreport -", stdin=ONE).out,
        sh("cat in.jsonl | kvreport").out,
    ]
    assert len(set(shown)) == 1 and "The answer" in shown[0]
    named = sh("kvreport in.jsonl")
    assert named.out.replace("in.jsonl", "stdin") == shown[0]
    assert (named.status, named.err) == (0, "")


def test_the_two_rounds_may_come_in_two_files(sh: Sh, tmp_path: Path) -> None:
    cold, hit = experiment(1)
    hit = rerun(hit, experiment_id="another-invocation")
    (tmp_path / "r1.json").write_text(lines([cold]), encoding="utf-8")
    (tmp_path / "r2.json").write_text(lines([hit]), encoding="utf-8")
    done = sh("kvreport --format json r1.json r2.json")
    (scenario,) = json.loads(done.out)["scenarios"]
    assert done.status == 0 and scenario["joined"] and "ttft" in scenario["effects"]


@pytest.mark.parametrize(
    ("text", "targets", "status", "words"),
    [
        (THREE, "", 0, ""),
        (THREE, "--target ttft_reduction=0.6", 0, ""),
        (THREE, "--target e2e_reduction=0.9", 1, "e2e_reduction is not met"),
        (ONE, "--target ttft_reduction=0.6", 0, ""),
        (lines(experiment(2)), "--target ttft_reduction=0.6", 1, "not shown"),
        (ONE, "--target throughput_increase=0.5", 1, "not shown"),
        (lines(experiment(1, shape=SMALL)), "--target ttft_reduction=0.85", 1, "not reachable"),
        (THREE, "--target prefill_reduction=0.5", 1, "not applicable"),
        (ALONE, "", 1, "nothing to compare"),
        (ALONE + THREE.replace("long_", "other_").replace("exp-1", "e2"), "", 1, "nothing to"),
    ],
)
def test_named_targets_decide_the_status(
    sh: Sh, text: str, targets: str, status: int, words: str
) -> None:
    done = sh(f"kvreport {targets}", stdin=text)
    assert (done.status, bool(done.err)) == (status, bool(status))
    assert words in done.err
    assert done.out.startswith("What the KV cache is worth")


def test_a_contaminated_target_is_not_met(sh: Sh) -> None:
    warm = make("cold", findings=[finding("contaminated", "invalid", "it was warm")])
    text = lines([warm, make("hit")])
    assert sh("kvreport", stdin=text).status == 0
    done = sh("kvreport --target ttft_reduction=0.1", stdin=text)
    assert done.status == 1 and "invalid" in done.err and "CONTAMINATED" in done.err


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ("--target ttft_reduction=60", "for 60 % say 0.6"),
        ("--target speed=1", "NAME is one of"),
        ("--target ttft_reduction", "NAME=VALUE is expected"),
        ("--target tpot_ratio=0.8", "tpot_ratio=0.8..1.2"),
        ("--target ttft_reduction=nan", "is no number"),
        ("--target tpot_ratio=1.2..0.8", "must be smaller"),
        ("--target ttft_reduction=0.5 --target ttft_reduction=0.6", "given twice"),
        ("--format text --format md", "need -o DIR"),
        ("--format pdf", "invalid choice"),
        ("--format png", "need -o DIR"),
        ("--format all", "need -o DIR"),
        ("--lang de", "invalid choice"),
        ("--baseline nobody", "the scenarios are long_context_high_reuse"),
        ("nowhere.jsonl", "nowhere.jsonl: no such file"),
    ],
)
def test_usage_errors(sh: Sh, arguments: str, complaint: str) -> None:
    done = sh(f"kvreport {arguments}", stdin=ONE)
    assert (done.status, done.out) == (2, "")
    assert complaint in done.err


def test_files_are_written_and_named_on_stderr(sh: Sh, tmp_path: Path) -> None:
    done = sh("kvreport -o out/deep", stdin=ONE)
    names = ["report.txt", "report.md", "report.json", "report.html"]
    assert (done.status, done.out) == (0, "")
    said = done.err.splitlines()
    assert {f"out/deep/{name}" for name in names} <= {*said}
    assert all((tmp_path / line.partition(" (")[0]).exists() for line in said)
    texts = [(tmp_path / "out" / "deep" / name).read_text(encoding="utf-8") for name in names]
    assert texts[0] == sh("kvreport", stdin=ONE).out
    shown = [line for line in texts[1].splitlines() if line.startswith("![")]
    assert len(shown) == len(list((tmp_path / "out/deep/charts").iterdir()))
    assert json.loads(texts[2])["record"] == "report"
    only = sh("kvreport --format md -o one", stdin=ONE)
    assert only.err == "one/report.md\n"


def test_no_colour_without_a_terminal(sh: Sh) -> None:
    assert "\x1b" not in sh("env -u NO_COLOR kvreport", stdin=ONE).out
    assert "\x1b[1m" in sh("kvreport --color always", stdin=ONE).out
    assert "\x1b" not in sh("kvreport --color always --format md", stdin=ONE).out


def test_width_follows_columns(sh: Sh) -> None:
    wide = max(len(line) for line in sh("COLUMNS=120 kvreport", stdin=ONE).out.splitlines())
    narrow = max(len(line) for line in sh("COLUMNS=60 kvreport", stdin=ONE).out.splitlines())
    assert narrow <= 60 < wide <= 120


def test_two_hundred_scenarios_are_one_table(sh: Sh) -> None:
    shape = Shape(requests=6, contexts=3, uniques=0)
    rounds = [
        one
        for number in range(200)
        for one in experiment(
            3,
            shape=shape,
            light=True,
            setting=Setting(name=f"scenario {number}", experiment_id=f"e{number}"),
        )
    ]
    done = sh("kvreport", stdin=lines(rounds))
    assert done.status == 0
    head = done.out.partition("Summary of results")[0]
    assert sum(line.startswith("scenario ") for line in head.splitlines()) >= 200


@pytest.fixture(scope="module")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty scenarios: enough that somebody waits for them."""
    rounds = [
        one
        for at in range(60)
        for one in experiment(
            1, shape=SMALL, setting=Setting(name=f"s{at}", experiment_id=f"e{at}")
        )
    ]
    path = tmp_path_factory.mktemp("crowd") / "in.jsonl"
    path.write_text(lines(rounds), encoding="utf-8")
    return path


def test_a_terminal_is_told_how_far_it_is_and_a_log_is_not(sh: Sh, crowd: Path) -> None:
    """On standard error alone, wiped at the end."""
    shown = on_a_terminal(["kvreport", "--format", "csv", str(crowd)])
    assert "\rkvreport: 50/60 scenarios" in shown and shown.endswith("\r\x1b[K")
    quiet = sh(f"kvreport --format csv {crowd}")
    assert (quiet.status, quiet.err) == (0, "")


def on_a_terminal(command: list[str]) -> str:
    """What a command writes to a terminal that is its standard error alone."""
    ours, theirs = os.openpty()
    try:
        done = subprocess.run(
            command, stdout=subprocess.DEVNULL, stderr=theirs, env=environment(), check=True
        )
    finally:
        os.close(theirs)
    assert done.returncode == 0
    with os.fdopen(ours, "rb") as stream:
        return stream.read1(65536).decode()


@pytest.mark.parametrize(
    ("terminal", "variables", "bold"),
    [
        (True, {}, True),
        (False, {}, False),
        (True, {"NO_COLOR": "1"}, False),
        (True, {"TERM": "dumb"}, False),
    ],
)
def test_colour_by_itself_asks_the_terminal_and_its_owner(
    monkeypatch: pytest.MonkeyPatch, terminal: bool, variables: dict[str, str], bold: bool
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert colour_of("auto", terminal=terminal) == bold
