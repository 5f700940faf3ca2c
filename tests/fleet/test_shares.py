"""Whatever the plan and however many the shards: together they send it, each once, at its time.

Plans of every form that one could be given, and those that kvplan makes of scenarios and traces.
"""

from __future__ import annotations

import io
import json
import sys
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kvload.arrivals import due_times
from kvload.fleet import Shard
from kvload.pacing import pace_of
from kvload.plans import RepeatPlan
from kvload.shards import share_of
from kvpipe.process import ToolError
from kvpipe.records import Arrival, Plan, Planned
from kvplan.cli import run
from kvprompt.workload import read_plan
from kvreport import conditions

HEAD = Plan(
    scenario="any", seed=1, requests=0, sentinels=0, plan_sha256="0" * 64, shape_sha256="0" * 64,
    calibrated="none",
)  # fmt: skip
COUNTS = st.integers(1, 9)
SCENARIOS = (
    "long_context_high_reuse", "code_generation", "multi_turn_conversation", "batch_processing",
    "cold_start",
)  # fmt: skip
ARRIVALS = st.sampled_from(
    [
        Arrival(kind="constant", rate_rps=20.0),
        Arrival(kind="poisson", rate_rps=20.0),
        Arrival(kind="gamma", rate_rps=20.0, burstiness=0.5),
    ]
)


@st.composite
def workloads(draw: st.DrawFn) -> RepeatPlan:
    """Groups, chains across groups, lone requests and sentinels, in any order."""
    made: list[Planned] = []
    index = 0
    for _ in range(draw(st.integers(1, 40))):
        index += draw(st.integers(1, 3))
        sentinel = draw(st.integers(0, 5)) == 0
        earlier = [one.index for one in made if one.stratum != "sentinel"]
        after = draw(st.none() | st.sampled_from(earlier)) if earlier and not sentinel else None
        group = None if sentinel else draw(st.none() | st.sampled_from("abcdefgh"))
        stratum = "sentinel" if sentinel else draw(st.sampled_from(("leader", "follower")))
        made.append(
            Planned(
                index=index, group=group, stratum=stratum, after=after, prompt="x", max_tokens=1
            )
        )
    return RepeatPlan(head=HEAD, requests=made)


def parts_of(plan: RepeatPlan) -> list[set[int]]:
    """What must stay whole, worked out the slow way: sets that touch are one."""
    parts: list[set[int]] = []
    groups: dict[str, set[int]] = {}
    for one in plan.requests:
        if one.stratum == "sentinel":
            continue
        tied = {one.index} | ({one.after} if one.after is not None else set())
        parts.append(tied)
        if one.group is not None:
            groups.setdefault(one.group, set()).add(one.index)
    whole: list[set[int]] = []
    for part in [*parts, *groups.values()]:
        touching = [other for other in whole if other & part]
        whole = [other for other in whole if not other & part] + [part.union(*touching)]
    return whole


def holds(plan: RepeatPlan, count: int) -> None:
    """The parts are the plan, or every shard says in the same words why there are too few."""
    whole = parts_of(plan)
    numbers = [Shard(number=number, count=count) for number in range(count)]
    if len(whole) < count:
        for shard in numbers:
            with pytest.raises(ToolError, match=f"{len(whole)} shards at most"):
                share_of(plan, shard)
        return
    shares = [share_of(plan, shard) for shard in numbers]
    sent = sorted((one for share in shares for one in share.requests), key=lambda one: one.index)
    assert sent == plan.requests
    where = {one.index: number for number, share in enumerate(shares) for one in share.requests}
    for part in whole:
        assert len({where[index] for index in part}) == 1
    for share in shares:
        assert share.head == plan.head
        both = sorted([*share.requests, *share.others], key=lambda one: one.index)
        assert both == plan.requests
        assert any(one.stratum != "sentinel" for one in share.requests)
    own = [sum(one.stratum != "sentinel" for one in share.requests) for share in shares]
    assert max(own) - min(own) <= max(map(len, whole))
    alone = [len(share.requests) - number for share, number in zip(shares, own, strict=True)]
    assert max(alone) - min(alone) <= 1


def keeps_time(plan: RepeatPlan, count: int, arrival: Arrival, seed: int) -> None:
    """Each request is due when it is in the whole plan."""
    due = due_times(plan.requests, arrival, seed)
    assert due is not None
    expected = Counter(zip((one.index for one in plan.requests), due, strict=True))
    found: Counter[tuple[int, int]] = Counter()
    for number in range(count):
        share = share_of(plan, Shard(number=number, count=count))
        pace = pace_of(arrival, share.requests, seed, share.others)
        assert pace.due_ns is not None
        found.update(zip((one.index for one in share.requests), pace.due_ns, strict=True))
    assert found == expected


def made_by_kvplan(*flags: str) -> RepeatPlan:
    """A plan as the executable writes it and kvload reads it."""
    out = io.BytesIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", io.TextIOWrapper(out, write_through=True))
        assert run(["-q", "--output-tokens", "2", *flags]) == 0
        text = out.getvalue()
    ((head, requests),) = read_plan(io.BytesIO(text), "kvplan")
    return RepeatPlan(head=head, requests=requests)


@given(workloads(), COUNTS, ARRIVALS, st.integers(0, 3))
def test_the_sum_of_the_shards_of_any_workload(
    plan: RepeatPlan, count: int, arrival: Arrival, seed: int
) -> None:
    holds(plan, count)
    if len(parts_of(plan)) >= count:
        keeps_time(plan, count, arrival, seed)


@settings(max_examples=25)
@given(
    st.sampled_from(SCENARIOS),
    st.integers(8, 30),
    st.integers(1, 9),
    st.sampled_from(("leaders-first", "shuffled")),
    st.integers(0, 5),
    COUNTS,
)
@example("multi_turn_conversation", 30, 6, "leaders-first", 3, 4)
def test_the_sum_of_the_shards_of_a_scenario(
    scenario: str, requests: int, contexts: int, order: str, seed: int, count: int
) -> None:
    flags = ["--requests", str(requests), "--context-tokens", "150", "--contexts", str(contexts)]
    try:
        plan = made_by_kvplan("--scenario", scenario, *flags, "--order", order, "--seed", str(seed))
    except ToolError:
        return  # of so few requests or contexts kvplan makes no such scenario
    holds(plan, count)


@settings(max_examples=25)
@given(
    st.lists(st.tuples(st.integers(0, 400), st.integers(0, 3), st.integers(1, 4)), min_size=1,
             max_size=25),
    COUNTS,
)  # fmt: skip
def test_the_sum_of_the_shards_of_a_trace(rows: list[tuple[int, int, int]], count: int) -> None:
    """Requests with their gap, in ms, their root and how much of it they have."""
    lines, at = [], 0
    for number, (gap, root, depth) in enumerate(rows):
        at += gap
        ids = [100 * root + level for level in range(depth)] + [10_000 + number]
        row = {"timestamp": at, "input_length": 16 * len(ids), "output_length": 2}
        lines.append(json.dumps(row | {"hash_ids": ids}))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.jsonl"
        path.write_text("\n".join(lines) + "\n")
        plan = made_by_kvplan("--trace", str(path), "--trace-block-tokens", "16")
    holds(plan, count)
    if len(parts_of(plan)) >= count:
        keeps_time(plan, count, Arrival(kind="planned"), 1)


@pytest.mark.parametrize(
    ("arrival", "shard", "shown"),
    [
        (Arrival(kind="closed", concurrency=8), "1/4", "closed, 4 shards of concurrency 8"),
        (Arrival(kind="closed", concurrency=8), "0/1", "closed, concurrency 8"),
        (Arrival(kind="poisson", rate_rps=40.0), "3/4", "poisson, 40/s, 4 shards"),
        (Arrival(kind="poisson", rate_rps=40.0), None, "poisson, 40/s"),
        (Arrival(kind="closed", concurrency=8), "first", "closed, concurrency 8"),
    ],
)
def test_a_report_says_that_concurrency_is_each_shards(
    arrival: Arrival, shard: str | None, shown: str
) -> None:
    assert conditions.arrival(arrival, shard) == shown
