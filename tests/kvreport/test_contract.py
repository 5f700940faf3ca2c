"""What `--format json` writes keeps to its schema, and the schema to the types."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.kvreport.rounds import Setting, World, experiment, finding, make
from tests.kvreport.test_setting import several

import kvschemas
from kvreport.conclude import conclude
from kvreport.contract import report_schema
from kvreport.contrasts import contrasted
from kvreport.enough import Wish
from kvreport.experiments import group
from kvreport.rounds import Round
from kvreport.targets import parse

CASES = sorted((Path(__file__).parents[1] / "cases" / "kvreport").glob("*/in.json*"))


def problem(rounds: list[Round], baseline: str | None = None, **wish: Any) -> str | None:
    experiments = group(rounds)
    found = conclude(experiments, parse([]), tool_version="test", until=Wish(**wish))
    if baseline:
        found = contrasted(found, experiments, baseline)
    return kvschemas.first_problem("report", msgspec.json.decode(msgspec.json.encode(found)))


def test_the_schema_on_disk_is_that_of_the_types() -> None:
    """`python -m kvreport.contract schemas` writes it; a new field needs a sentence there."""
    assert kvschemas.load_schema("report") == report_schema()


def test_every_kind_of_report_keeps_to_it() -> None:
    assert problem(several()) is None
    assert problem(experiment(3), half_width=0.05, maximum=9) is None
    assert problem([make("cold", findings=[finding("lost")])]) is None
    other = experiment(3, world=World(hit_s=0.1), setting=Setting(name="b", experiment_id="b"))
    assert problem([*experiment(3), *other], "b") is None


def test_it_refuses_what_is_no_report() -> None:
    """A guard on the guard."""
    (cold, hit) = experiment(1)
    found = conclude(group([cold, hit]), parse([]), tool_version="test")
    value = msgspec.json.decode(msgspec.json.encode(found))
    value["scenarios"][0]["effects"]["ttft"]["verdict"]["word"] = "probably"
    assert "word" in (kvschemas.first_problem("report", value) or "")
    value["scenarios"][0]["effects"]["ttft"]["verdict"] = {"mood": "good"}
    assert kvschemas.first_problem("report", value)


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.parent.name)
def test_golden_inputs_keep_to_it(path: Path, sh: Callable[..., Any]) -> None:
    done = sh(f"kvreport --format json {path} 2>/dev/null || true")
    if done.out:
        assert kvschemas.first_problem("report", json.loads(done.out)) is None


def test_the_answers_come_first(sh: Callable[..., Any]) -> None:
    """What the first screen says: worth, target, how sure, doubts, before any detail."""
    tainted = [finding("contaminated", "invalid", "it was warm"), finding("lost")]
    rounds = [*experiment(3), *experiment(1, findings=tainted, setting=Setting(name="b"))]
    text = "".join(msgspec.json.encode(one.stats).decode() + "\n" for one in rounds)
    done = sh("kvreport --format json", stdin=text)
    value = json.loads(done.out)
    assert [*value][:4] == ["record", "schema", "tool_version", "answers"]
    good, bad = value["answers"]
    assert (good["verdict"], good["scope"], good["target"]) == ("faster", "repeats", "met")
    assert good["low"] < good["ratio"] < good["high"] < 0.1 and good["asked"] == [0.6]
    assert good["ratio"] == pytest.approx(good["other_s"] / good["base_s"])
    assert (good["repeats"], good["invalid"], good["warnings"]) == (3, [], [])
    assert (bad["verdict"], bad["target"]) == ("withheld", "invalid")
    assert (bad["invalid"], bad["warnings"]) == (["contaminated"], ["lost"])
    assert kvschemas.first_problem("report", value) is None
