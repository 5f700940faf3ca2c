"""What searches for a capacity come to: ratio, interval, verdict, and when there is none."""

from __future__ import annotations

import csv
import io
import json
import math
import random
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests import strategies
from tests.kvreport.test_anything import tamed

from kvpipe.jsonl import encode
from kvpipe.records import Arm, Capacity, CapacityProbe, CapacityState, Finding
from kvreport.capacity import Capacities, Search, capacities
from kvreport.conclude import conclude
from kvreport.formats import RENDERERS, Setting

Sh = Callable[..., Any]
LATE = Finding(code="client_limited", severity="warning", message="sending was late by 9 ms")


def search(
    repeat: int,
    arm: Arm,
    passed: float | None,
    failed: float | None,
    state: CapacityState = "found",
    **keys: Any,
) -> Capacity:
    rates = [(rate, verdict) for rate, verdict in ((passed, "passed"), (failed, "failed")) if rate]
    value = {
        "experiment_id": "e1",
        "name": "one node",
        "scenario": "long_context_high_reuse",
        "repeat": repeat,
        "arm": arm,
        "endpoint_url": "http://10.0.0.1:8000/v1",
        "slo": {"ttft": 2.0, "tpot": 0.05},
        "goodput_ratio": 0.99,
        "from_rps": 0.5,
        "to_rps": 64.0,
        "precision_ratio": 0.05,
        "passed_rps": passed,
        "failed_rps": failed,
        "state": state,
        "probes": [
            CapacityProbe(
                rate_rps=rate,
                requests=200,
                good_requests=200 if verdict == "passed" else 100,
                verdict=verdict,  # type: ignore[arg-type]
                run_id=f"{repeat}{arm}{rate}",
            )
            for rate, verdict in rates
        ],
    }
    return Capacity(**(value | keys))


def pair(repeat: int, bare: float, hit: float, width: float = 1.05, **keys: Any) -> list[Capacity]:
    """Both arms of a repeat, each passed at a rate and failed at `width` times it."""
    return [
        search(repeat, "no_reuse", bare, bare * width, **keys),
        search(repeat, "hit", hit, hit * width, **keys),
    ]


def case(records: Iterable[Capacity]) -> Capacities:
    (found,) = capacities([Search(record=one, place="in:1") for one in records])
    return found


def lines(records: Iterable[Capacity]) -> str:
    return b"".join(map(encode, records)).decode()


THREE = [*pair(1, 2.0, 8.0), *pair(2, 2.1, 8.2), *pair(3, 1.9, 8.1)]
EQUAL = [*pair(1, 4.0, 4.0), *pair(2, 4.0, 4.0), *pair(3, 4.0, 4.0)]


def test_a_ratio_carries_the_width_of_the_searches_and_the_spread_between_repeats() -> None:
    found = case(THREE)
    assert (found.verdict, found.reasons, found.probes) == ("higher", [], 12)
    assert found.low is not None and found.high is not None and found.ratio is not None
    assert 1 < found.low < 3.6 < found.ratio < 4.5 < found.high
    # Without any spread the width of the searches is left: 8 by 2.1 to 8.4 by 2.
    flat = case([*pair(1, 2.0, 8.0), *pair(2, 2.0, 8.0), *pair(3, 2.0, 8.0)])
    assert flat.low == pytest.approx(4 / 1.05)
    assert flat.high == pytest.approx(4 * 1.05)


def test_equal_capacities_show_no_difference_and_no_ratio(sh: Sh) -> None:
    found = case(EQUAL)
    assert found.verdict == "same"
    assert found.low is not None and found.high is not None and found.low < 1 < found.high
    done = sh("kvreport --format md", stdin=lines(EQUAL))
    row = next(line for line in done.out.splitlines() if line.startswith("| one node | 99 %"))
    assert row.split(" | ")[4] == "\\~" and row.endswith(" | \\~ |") and "1.00×" not in done.out
    assert "no difference in capacity was shown" in done.out
    assert done.status == 0


def test_fewer_than_three_repeats_have_no_interval(sh: Sh) -> None:
    for repeats, code in ((1, "one_run_scalar"), (2, "two_repeats")):
        found = case(THREE[: 2 * repeats])
        assert (found.low, found.high, found.verdict, found.reasons) == (None, None, "none", [code])
        assert found.ratio == pytest.approx(4, rel=0.1)
    done = sh("kvreport", stdin=lines(THREE[:2]))
    assert done.status == 1
    assert "the capacity of 'one node' is not compared: one run, one figure" in done.err
    suites = sh("kvreport --format junit", stdin=lines(THREE[:2])).out
    assert 'errors="1"' in suites and '<error type="one_run_scalar"' in suites


def test_a_capacity_beyond_the_range_is_a_bound_and_no_figure(sh: Sh) -> None:
    beyond = [
        search(one.repeat, "hit", 64.0, None, "above") if one.arm == "hit" else one for one in THREE
    ]
    found = case(beyond)
    assert (found.ratio, found.high, found.verdict) == (None, None, "higher")
    assert found.low is not None and 20 < found.low < 64 / 1.9
    text = sh("kvreport --format md", stdin=lines(beyond)).out
    assert "≥ 64.0 req/s" in text and "above the range" in text
    assert "reuse up to 2.00 req/s: ≥ " in text

    under = [
        search(one.repeat, "no_reuse", None, 0.5, "below") if one.arm == "no_reuse" else one
        for one in THREE
    ]
    found = case(under)
    assert (found.ratio, found.high, found.verdict) == (None, None, "higher")
    assert "&lt; 0.50 req/s" in sh("kvreport --format md", stdin=lines(under)).out

    both = [
        search(one.repeat, one.arm, 64.0, None, "above") for one in THREE
    ]  # nobody knows by how much
    assert case(both).verdict == "none"
    assert case(both).reasons == ["left_range"]


def test_one_search_that_was_stopped_leaves_no_verdict(sh: Sh) -> None:
    stopped = [*THREE[:5], search(3, "hit", 4.0, None, "stopped", reason="lost")]
    found = case(stopped)
    assert (found.ratio, found.low, found.high, found.verdict) == (None, None, None, "none")
    assert found.hit.passed is None and found.no_reuse.passed is not None
    assert found.reasons == ["lost"]
    done = sh("kvreport", stdin=lines(stopped))
    assert done.status == 1 and "hits were lost" in done.err
    assert "- one node: what is to hit does not fit into the cache" in done.out
    assert "×" not in done.out


def test_a_bracket_that_could_not_be_made_closer_says_why_and_widens_the_interval(sh: Sh) -> None:
    coarse = [*THREE[:5], search(3, "hit", 6.0, 12.0, reason="client_limited")]
    found, exact = case(coarse), case(THREE)
    assert found.high is not None and exact.high is not None and found.high > exact.high
    assert found.verdict == "higher"
    assert (
        "found, no closer: the client was late"
        in sh("kvreport --format md", stdin=lines(coarse)).out
    )


def test_one_arm_alone_is_shown_and_not_compared() -> None:
    found = case(THREE[::2])
    assert (found.verdict, found.reasons, found.ratio) == ("none", ["one_arm"], None)
    assert found.no_reuse.passed == pytest.approx(2.0, rel=0.1) and found.hit.passed is None


def test_every_format_tells_it_and_says_simulated(sh: Sh, tmp_path: Path) -> None:
    (tmp_path / "c.jsonl").write_text(
        lines([*pair(1, 2, 8, simulated=True, findings=[LATE]), *THREE[2:]]), encoding="utf-8"
    )
    assert sh("kvreport -o out c.jsonl").status == 0
    for name in ("report.txt", "report.md", "report.html"):
        text = " ".join((tmp_path / "out" / name).read_text("utf-8").split())
        assert "SIMULATED" in text and "Capacity" in text and "client_limited" in text
        assert text.count("sending was late") == 1
    value = json.loads((tmp_path / "out" / "report.json").read_text("utf-8"))
    (one,) = value["capacities"]
    assert one["verdict"] == "higher" and one["low"] > 1
    assert [repeat["number"] for repeat in one["repeats"]] == [1, 2, 3]
    assert "as many requests" in " ".join(sh("kvreport --format brief c.jsonl").out.split())
    assert '<testsuites name="kvreport" tests="1" failures="0" errors="0">' in (
        tmp_path / "out" / "report.xml"
    ).read_text("utf-8")


def test_what_is_read_twice_counts_once_and_labels_keep_apart(sh: Sh, tmp_path: Path) -> None:
    (tmp_path / "c.jsonl").write_text(lines(THREE), encoding="utf-8")
    assert sh("kvreport c.jsonl c.jsonl").out == sh("kvreport c.jsonl").out
    value = json.loads(sh("kvreport --format json a=c.jsonl b=c.jsonl").out)
    assert [one["name"] for one in value["capacities"]] == ["a", "b"]


def test_two_searches_for_one_place_are_refused(sh: Sh, tmp_path: Path) -> None:
    (tmp_path / "a").write_text(lines(THREE), encoding="utf-8")
    (tmp_path / "b").write_text(lines([search(1, "hit", 5.0, 5.2)]), encoding="utf-8")
    done = sh("kvreport a b")
    assert done.status == 2 and "the search of hit in repeat 1 of 'one node' is also in" in done.err


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(strategies.values(Capacity), min_size=1, max_size=4))
def test_whatever_the_schema_allows_can_be_reported_on(values: list[dict[str, Any]]) -> None:
    records = [
        msgspec.convert(tamed(value) | {"repeat": repeat, "goodput_ratio": 0.9}, Capacity)
        for repeat, value in enumerate(values, 1)
    ]
    found = capacities([Search(record=one, place="in:1") for one in records])
    whole = msgspec.structs.replace(conclude([], [], tool_version="0"), capacities=found)
    for render in RENDERERS.values():
        assert not re.search(r"\bnan\b|\binf\b", render(whole, Setting()))


# --- how often it is wrong -----------------------------------------------------------------------


def bracketed(capacity: float, width: float) -> tuple[float, float]:
    """Where a search ends that tries powers of `width` only: every repeat on the same grid."""
    passed = width ** math.floor(math.log(capacity, width))
    return passed, passed * width


def verdicts(ratio: float, spread: float, seeds: int, repeats: int = 3) -> list[str]:
    """Verdicts on capacities that vary from repeat to repeat, seen through a grid of 5 %."""
    found = []
    for seed in range(seeds):
        chance = random.Random(seed)
        records = []
        for repeat in range(1, repeats + 1):
            for arm, mean in (("no_reuse", 3.3), ("hit", 3.3 * ratio)):
                capacity = mean * math.exp(chance.gauss(0, spread))
                records.append(search(repeat, arm, *bracketed(capacity, 1.05)))  # type: ignore[arg-type]
        found.append(case(records).verdict)
    return found


@pytest.mark.parametrize("spread", [0.001, 0.05, 0.3])
def test_equal_arms_are_told_apart_in_one_of_twenty_at_most(spread: float) -> None:
    seeds = 1000
    wrong = sum(one != "same" for one in verdicts(1.0, spread, seeds))
    assert wrong <= 0.05 * seeds + 3 * math.sqrt(0.05 * 0.95 * seeds)


def test_what_hits_are_worth_is_found() -> None:
    assert verdicts(3.0, 0.05, 100).count("higher") >= 98
    assert verdicts(1 / 3, 0.05, 100).count("lower") >= 98


# --- CSV -----------------------------------------------------------------------------------------


def csv_rows(records: list[Capacity]) -> list[dict[str, str]]:
    conclusion = msgspec.structs.replace(
        conclude([], [], tool_version="test"),
        capacities=capacities([Search(record=one, place="x") for one in records]),
    )
    return [*csv.DictReader(io.StringIO(RENDERERS["csv"](conclusion, Setting())))]


def test_a_capacity_has_two_rows_of_the_csv() -> None:
    found = csv_rows([one for at in (1, 2, 3) for one in pair(at, 4.0, 9.0)])
    assert [one["metric"] for one in found] == ["passed_rps", "failed_rps"]
    assert {one["effect"] for one in found} == {"capacity"}
    passed, failed = found
    assert (float(passed["base"]), float(passed["other"])) == pytest.approx((4.0, 9.0))
    assert (float(failed["base"]), float(failed["other"])) == pytest.approx((4.2, 9.45))
    assert 1 < float(passed["low"]) <= float(passed["ratio"]) <= float(passed["high"])
    assert (passed["verdict"], passed["target"]) == ("higher", "tpot=0.05 ttft=2")


def test_a_search_without_an_answer_has_them_too() -> None:
    stopped = search(1, "hit", None, None, "stopped", reason="client_limited", findings=[LATE])
    passed, failed = csv_rows([search(1, "no_reuse", 4.0, 4.2), stopped])
    assert (passed["ratio"], passed["other"], failed["other"]) == ("", "", "")
    assert (passed["verdict"], passed["warnings"]) == ("none", "client_limited")
    assert "client_limited" in passed["verdict_by"]
