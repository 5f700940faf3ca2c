"""Whatever the schemas accept, kvstats survives, and what it makes is accepted by them."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.kvstats.streams import cold, hit
from tests.strategies import values

from kvpipe.jsonl import decode_line
from kvpipe.records import AnyRecord, End, Finding, Request, Run, ServerMetrics
from kvstats.contract import checked
from kvstats.streams import Rounds
from kvstats.summary import summarise
from kvstats.table import table_of


@st.composite
def rounds(draw: st.DrawFn) -> list[dict[str, Any]]:
    """One grammatical stream of arbitrary records."""
    head = draw(values(Run))
    requests = draw(st.lists(values(Request), max_size=6, unique_by=lambda one: one["index"]))
    servers = draw(st.lists(values(ServerMetrics), max_size=3))
    body = [*requests, *servers]
    if draw(st.booleans()):
        body.append(draw(values(End)))
    return [head, *(one | {"run_id": head["run_id"]} for one in body)]


def decoded(value: dict[str, Any]) -> AnyRecord:
    return decode_line(msgspec.json.encode(value), "any")


@given(rounds())
@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_every_accepted_record_survives(stream: list[dict[str, Any]]) -> None:
    made = Rounds({"ttft": 1.0})
    for value in stream:
        made.add(decoded(value))
    (one,) = made
    stats = checked(summarise(one))
    assert stats.successful_requests + stats.failed_requests == stats.total_requests
    assert stats.samples is not None
    assert stats.samples.total == sum(value["record"] == "request" for value in stream)
    assert table_of([stats])


@given(st.sampled_from([cold(), hit()]), st.sampled_from(["none", "last"]))
def test_without_its_end_no_round_is_complete(made: Any, cut: str) -> None:
    lines = list(made.records())
    rounds_ = Rounds({})
    for record in lines[:-1] if cut == "last" else lines:
        rounds_.add(record)
    (one,) = rounds_
    assert summarise(one).complete == (cut == "none")


def test_findings_are_checked_against_the_schema() -> None:
    stats = cold().stats()
    broken = msgspec.structs.replace(
        stats,
        findings=[Finding(code="nonsense", severity="info", message="")],  # type: ignore[arg-type]
    )
    with pytest.raises(Exception, match="nonsense"):
        checked(broken)
