"""CSV and JUnit XML: what programs read, with anybody's names in it."""

from __future__ import annotations

import csv
import io
import xml.etree.ElementTree as ET
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.kvreport.rounds import Setting, World, experiment, finding, make, rerun

from kvreport import junit, spreadsheet
from kvreport.conclude import conclude
from kvreport.conclusion import Conclusion
from kvreport.experiments import group
from kvreport.rounds import Round
from kvreport.targets import parse
from kvreport.words import Words

EVIL = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", " =1", "＝1", "\u200b=1", '";=1;"', "\x00-"]


def concluded(rounds: list[Round], *targets: str) -> Conclusion:
    return conclude(group(rounds), parse(targets), tool_version="test")


def named(name: str, **options: Any) -> list[Round]:
    return experiment(1, setting=Setting(name=name, experiment_id=f"id of {name}"), **options)


def rows_of(conclusion: Conclusion) -> list[dict[str, str]]:
    return [*csv.DictReader(io.StringIO(spreadsheet.render(conclusion)))]


# --- CSV -----------------------------------------------------------------------------------------


def test_the_header_is_a_contract() -> None:
    """Other people's scripts read it: append, and say so in the changelog."""
    assert spreadsheet.render(concluded([])).replace('"', "") == (
        "scenario,experiment_id,simulated,kind,tier_asked,tier_served,repeats,effect,metric,unit,"
        "over,base_round,other_round,base,other,ratio,low,high,interval,units,verdict,scope,"
        "verdict_by,target,status,reason,invalid,warnings\n"
    )


def test_a_row_is_an_effect_with_its_doubt_and_its_target() -> None:
    (found,) = concluded(experiment(3)).scenarios
    by_effect = {one["effect"]: one for one in rows_of(concluded(experiment(3)))}
    effect, row = found.effects["ttft"], by_effect["ttft"]
    bounds = effect.bounds()
    assert bounds is not None
    assert (row["metric"], row["unit"], row["over"]) == ("ttft_s", "s", "all")
    assert float(row["ratio"]) == effect.ratio
    assert (float(row["low"]), float(row["high"])) == bounds
    assert (row["verdict"], row["target"], row["status"]) == (
        "faster",
        "ttft_reduction=0.6",
        "met",
    )
    assert by_effect["one_hit"]["over"] == "cold_strata"


def test_each_metric_of_a_scenario_has_one_row() -> None:
    rows = rows_of(concluded([*experiment(3, arms=("cold", "hit", "no_reuse")), *named("b")]))
    keys = [(one["scenario"], one["effect"], one["metric"], one["base_round"]) for one in rows]
    assert len(set(keys)) == len(keys)
    assert {one["metric"] for one in rows} >= {"ttft_s", "hit_ratio", "total_requests", "itl_s"}


def test_what_is_not_known_is_empty_and_never_nought() -> None:
    """Two repeats have no interval; the smallest number in the file is a number."""
    row = next(one for one in rows_of(concluded(experiment(2))) if one["effect"] == "ttft")
    assert (row["low"], row["high"], row["interval"]) == ("", "", "")
    assert (row["verdict"], row["verdict_by"]) == ("none", "two_repeats")


def test_a_scenario_without_figures_is_not_lost() -> None:
    rows = rows_of(concluded([make("cold", setting=Setting(name="alone"))]))
    assert {one["scenario"] for one in rows} == {"alone"}
    assert {one["status"] for one in rows} >= {"not_applicable"}


def test_findings_stand_beside_the_figures() -> None:
    rounds = experiment(3, findings=[finding("contaminated", "invalid"), finding("lost")])
    row = next(one for one in rows_of(concluded(rounds)) if one["effect"] == "ttft")
    assert (row["verdict"], row["invalid"], row["warnings"]) == (
        "withheld",
        "contaminated",
        "lost",
    )


@pytest.mark.parametrize("evil", EVIL)
def test_no_name_becomes_a_formula(evil: str) -> None:
    for row in rows_of(concluded(named(evil))):
        assert not row["scenario"].lstrip().startswith(tuple(spreadsheet.FORMULA))


def test_negative_figures_stay_numbers() -> None:
    assert spreadsheet._cell(-0.5) == -0.5


@given(st.text())
def test_any_text_stays_in_its_cell(text: str) -> None:
    """One line, quoted, whatever character separates the cells of who opens it."""
    rendered = spreadsheet.render(concluded(named(text or "nameless")))
    lines = rendered.splitlines()
    assert len(lines) == rendered.count("\n") > 1
    for separator in (",", ";", "\t"):
        for row in csv.reader(lines, delimiter=separator, quotechar='"'):
            if separator == ",":
                assert len(row) == len(spreadsheet.HEADER)
            assert not row[0].startswith(tuple(spreadsheet.FORMULA))


# --- JUnit ---------------------------------------------------------------------------------------


def suites_of(conclusion: Conclusion) -> ET.Element:
    return ET.fromstring(junit.render(conclusion, Words("en")).encode())


def test_named_targets_are_cases_and_the_measurement_is_one() -> None:
    found = suites_of(concluded(experiment(3), "ttft_reduction=0.6", "e2e_reduction=0.99"))
    cases = {one.get("name"): one for one in found.iter("testcase")}
    assert [*cases] == ["measurement", "ttft_reduction=0.6", "e2e_reduction=0.99"]
    assert len(cases["measurement"]) == len(cases["ttft_reduction=0.6"]) == 0
    (failure,) = cases["e2e_reduction=0.99"]
    assert (failure.tag, failure.get("type")) == ("failure", "not_met")
    assert (found.get("tests"), found.get("failures"), found.get("errors")) == ("3", "1", "0")


def test_what_is_not_shown_has_not_passed() -> None:
    found = suites_of(concluded(experiment(2), "ttft_reduction=0.6"))
    (failure,) = found.iter("failure")
    assert failure.get("type") == "not_shown"
    assert "two repeats" in (failure.text or "")


def test_invalid_findings_are_errors() -> None:
    rounds = experiment(3, findings=[finding("contaminated", "invalid", "somebody was there")])
    found = suites_of(concluded(rounds, "ttft_reduction=0.6"))
    errors = [one.get("type") for one in found.iter("error")]
    assert errors == ["contaminated", "invalid"]
    assert "somebody was there" in ET.tostring(found, encoding="unicode")
    assert (found.get("failures"), found.get("errors")) == ("0", "2")


def test_nothing_to_compare_is_an_error() -> None:
    found = suites_of(concluded([make("cold")]))
    (error,) = found.iter("error")
    assert error.get("type") == "nothing_to_compare"


def test_plans_that_differ_are_an_error() -> None:
    cold, hit = experiment(1)
    found = suites_of(concluded([cold, rerun(hit, plan_sha256="other")]))
    assert [one.get("type") for one in found.iter("error")] == ["plan_differs"]


@given(st.text(min_size=1))
def test_any_name_is_well_formed(name: str) -> None:
    """Control characters, surrogates and non-characters are not XML, escaped or not."""
    rounds = named(name, findings=[finding("contaminated", "invalid", f"]]> {name}")])
    found = suites_of(concluded(rounds, "ttft_reduction=0.6"))
    assert len([*found.iter("testcase")]) == 2


# --- through the command -------------------------------------------------------------------------


def test_the_command_writes_both(sh: Callable[..., Any]) -> None:
    rounds = [*experiment(3), *named("slow", world=World(hit_s=0.8))]
    lines = "".join(msgspec.json.encode(one.stats).decode() + "\n" for one in rounds)
    done = sh("kvreport --format csv | tail -n +2 | cut -d, -f1 | sort -u", stdin=lines)
    assert done.out.split() == ['"long_context_high_reuse"', '"slow"']
    done = sh("kvreport --format junit --target ttft_reduction=0.6", stdin=lines)
    assert done.status == 1
    assert ET.fromstring(done.out.encode()).get("failures") == "1"
    done = sh("kvreport --format csv --format junit -o out && ls out", stdin=lines)
    assert done.out.split() == ["report.csv", "report.xml"]


def test_a_name_does_not_reach_the_terminal_raw(sh: Callable[..., Any]) -> None:
    rounds = named("evil \x1b[31m\nname", world=World(hit_s=0.8))
    lines = "".join(msgspec.json.encode(one.stats).decode() + "\n" for one in rounds)
    done = sh("kvreport --target ttft_reduction=0.6 > /dev/null", stdin=lines)
    assert done.status == 1
    assert "\x1b" not in done.err and len(done.err.splitlines()) == 1
