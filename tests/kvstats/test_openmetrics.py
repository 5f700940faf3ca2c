"""OpenMetrics text, read by the parser of those who made the format."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_fd_to_metric_families
from tests.kvstats.streams import Made, cold, failed, hit, request, run

from kvpipe.records import RoundStats
from kvstats.openmetrics import openmetrics_of

HOSTILE = 'a"b\\n\\\n{}=, #\x1b[31m 腾讯云 \u2028 EOF\n# EOF'


def families(text: str) -> dict[str, Any]:
    """By name; the parser itself refuses what is out of order, twice there, or not ended."""
    found = {one.name: one for one in text_fd_to_metric_families(io.StringIO(text, newline="\n"))}
    assert found
    return found


def pair() -> list[RoundStats]:
    return [cold().stats(), hit().stats()]


def test_every_time_is_a_summary_in_seconds() -> None:
    rounds = pair()
    family = families(openmetrics_of(rounds))["kvworth_ttft_seconds"]
    assert (family.type, family.unit) == ("summary", "seconds")
    by_name: dict[str, dict[tuple[str, str], float]] = {}
    for one in family.samples:
        key = (one.labels["run_id"], one.labels["stratum"])
        if "quantile" not in one.labels or one.labels["quantile"] == "0.5":
            by_name.setdefault(one.name, {})[key] = one.value
    for stats in rounds:
        assert not isinstance(stats.run, list)
        key, stat = (stats.run.run_id, "all"), stats.timings.ttft_s
        assert by_name["kvworth_ttft_seconds"][key] == stat.p50
        assert by_name["kvworth_ttft_seconds_count"][key] == stat.n
        mean = by_name["kvworth_ttft_seconds_sum"][key] / stat.n
        assert stat.mean is not None and math.isclose(mean, stat.mean)
        assert {stratum for run_id, stratum in by_name["kvworth_ttft_seconds"]} >= {*stats.strata}


def test_what_is_not_known_is_left_out() -> None:
    """No goodput without a limit, no hit ratio without reports; and nothing is NaN."""
    made = Made(run(requests=1), [request(0, cached_tokens=None)]).closed()
    text = openmetrics_of([made.stats()])
    assert "kvworth_goodput_rps" not in text
    assert "kvworth_hit_ratio" not in text
    assert "nan" not in text.lower().replace("sentinel", "")
    assert "None" not in text


def test_units_end_the_names() -> None:
    for family in families(openmetrics_of(pair())).values():
        if family.unit:
            assert family.name.endswith(f"_{family.unit}")
    assert families(openmetrics_of(pair()))["kvworth_hit_ratio"].unit == "ratio"


@pytest.mark.parametrize("simulated", [True, False])
def test_every_sample_says_whether_it_is_simulated(simulated: bool) -> None:
    made = Made(run(requests=1, simulated=simulated), [request(0)]).closed()
    for family in families(openmetrics_of([made.stats()])).values():
        for one in family.samples:
            assert one.labels["simulated"] == ("true" if simulated else "false")


def test_findings_and_failures_are_there() -> None:
    made = Made(run(requests=2), [request(0), failed(request(1))]).closed()
    found = families(openmetrics_of([made.stats()]))
    codes = {
        one.labels["code"]: one.labels["severity"] for one in found["kvworth_findings"].samples
    }
    assert codes["errors"] == "invalid"
    counts = {one.labels["outcome"]: one.value for one in found["kvworth_requests"].samples}
    assert counts == {"successful": 1, "failed": 1}
    (info,) = found["kvworth_round"].samples
    assert info.labels["plan_sha256"]


def renamed(name: str) -> RoundStats:
    return msgspec.structs.replace(cold().stats(), name=name)


@given(st.text(st.characters(exclude_categories=["Cs"])) | st.just(HOSTILE))
def test_any_name_comes_back_as_it_was(name: str) -> None:
    for family in families(openmetrics_of([renamed(name)])).values():
        assert {one.labels["name"] for one in family.samples} == {name}


def test_the_command(sh: Callable[..., Any]) -> None:
    lines = b"".join(msgspec.json.encode(one) + b"\n" for one in cold().records()).decode()
    done = sh("kvstats --format openmetrics", stdin=lines)
    assert (done.status, done.err) == (0, "")
    assert done.out.endswith("# EOF\n")
    assert "kvworth_ttft_seconds" in families(done.out)
    done = sh("kvstats --per-request --format openmetrics", stdin=lines)
    assert done.status == 2 and "--format openmetrics" in done.err
