"""A fleet: the parts of a plan are the plan, one schedule for all, and one round of the records."""

from __future__ import annotations

import dataclasses
import io
import json
import random
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.conftest import Done
from tests.family import environment
from tests.kvload.workload import lines, words
from tests.kvstats import streams
from tests.simulated import FAST, Sim, kvsim

from kvload.arrivals import due_times
from kvload.cli import experiments_of, parser
from kvload.console import Console
from kvload.fleet import Shard, arrival_in, shard_named
from kvload.ideals import Namespace, RoundIdeals
from kvload.pacing import pace_of
from kvload.plans import RepeatPlan
from kvload.shards import share_of
from kvload.start import Start, instant
from kvpipe.jsonl import encode
from kvpipe.process import ToolError, UsageError
from kvpipe.records import Arrival, Planned, Request, RoundStats
from kvprompt.tree import DonorTree, reusable
from kvprompt.workload import read_plan

Shell = Callable[..., Done]
BLOCK = 16
COUNTS = (1, 2, 3, 7)
KINDS = ("scenario", "conversations", "trace", "lines")
PLANS = {
    "scenario": "kvplan -q --scenario long_context_high_reuse --contexts 8 --requests 40"
    " --context-tokens 200 --output-tokens 4",
    "conversations": "kvplan -q --scenario multi_turn_conversation --contexts 8 --requests 40"
    " --context-tokens 400 --output-tokens 4",
    "trace": "kvplan -q --trace trace.jsonl --trace-block-tokens 16 --output-tokens 4",
}


def trace(requests: int = 40, roots: int = 9) -> str:
    """Ten requests a second; the first block is everybody's, the next three are a root's."""
    made = []
    for number in range(requests):
        root = number % roots
        ids = [0, *(100 * root + at for at in (1, 2, 3)), 10_000 + number]
        row = {"timestamp": 100 * number, "input_length": 16 * 5, "output_length": 4}
        made.append(json.dumps(row | {"hash_ids": ids}))
    return "\n".join(made) + "\n"


def bare() -> str:
    rows = lines(groups=8, each=4, context=60)
    rows += [{"prompt": words(f"alone {number}", 60), "max_tokens": 8} for number in range(6)]
    random.Random(1).shuffle(rows)
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.fixture(scope="module")
def plans(tmp_path_factory: pytest.TempPathFactory) -> dict[str, RepeatPlan]:
    """Each kind of plan, as kvload reads it."""
    folder = tmp_path_factory.mktemp("plans")
    (folder / "trace.jsonl").write_text(trace())
    made = {"lines": bare().encode()}
    for kind, command in PLANS.items():
        made[kind] = subprocess.run(
            ["bash", "-c", command], cwd=folder, env=environment(), capture_output=True, check=True
        ).stdout
    found = {}
    for kind, text in made.items():
        ((head, requests),) = read_plan(io.BytesIO(text), kind)
        found[kind] = RepeatPlan(head=head, requests=requests)
    return found


def shares(plan: RepeatPlan, count: int) -> list[RepeatPlan]:
    return [share_of(plan, Shard(number=number, count=count)) for number in range(count)]


# The parts


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_sum_of_the_shards_is_the_plan(
    kind: str, count: int, plans: dict[str, RepeatPlan]
) -> None:
    plan = plans[kind]
    parts = shares(plan, count)
    sent = sorted((one for part in parts for one in part.requests), key=lambda one: one.index)
    assert sent == plan.requests  # each once, none left out, none changed
    for part in parts:
        assert part.head == plan.head  # the same hashes, so that kvstats knows them for one round
        indexes = [one.index for one in part.requests]
        assert indexes == sorted(indexes)
        assert {one.index for one in part.others}.isdisjoint(indexes)
        assert len(part.others) + len(indexes) == len(plan.requests)


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("kind", KINDS)
def test_what_belongs_together_stays_together(
    kind: str, count: int, plans: dict[str, RepeatPlan]
) -> None:
    parts = shares(plans[kind], count)
    places: dict[str, set[int]] = {}
    for number, part in enumerate(parts):
        own = {one.index for one in part.requests}
        assert all(one.after in own for one in part.requests if one.after is not None)
        for one in part.requests:
            if one.group is not None and one.stratum != "sentinel":
                places.setdefault(one.group, set()).add(number)
    assert places and all(len(where) == 1 for where in places.values())


def test_sentinels_are_shared_out_evenly(plans: dict[str, RepeatPlan]) -> None:
    counts = [
        sum(one.stratum == "sentinel" for one in part.requests)
        for part in shares(plans["scenario"], 3)
    ]
    assert sum(counts) == plans["scenario"].head.sentinels >= 3
    assert max(counts) - min(counts) <= 1


def test_the_load_is_shared_out_by_requests(plans: dict[str, RepeatPlan]) -> None:
    sizes = [len(part.requests) for part in shares(plans["scenario"], 2)]
    largest = max(
        sum(one.group == group for one in plans["scenario"].requests)
        for group in {one.group for one in plans["scenario"].requests} - {None}
    )
    assert max(sizes) - min(sizes) <= largest + 1


def test_more_shards_than_parts_are_refused_in_each_of_them(plans: dict[str, RepeatPlan]) -> None:
    own = [one for one in plans["scenario"].requests if one.group is not None][:3]
    plan = RepeatPlan(head=plans["scenario"].head, requests=own)
    told = set()
    for number in range(4):
        with pytest.raises(ToolError, match="shards at most") as refused:
            share_of(plan, Shard(number=number, count=4))
        told.add(str(refused.value).split(": ", 1)[1])
    assert len(told) == 1


# One schedule


@pytest.mark.parametrize(
    "arrival",
    [
        Arrival(kind="poisson", rate_rps=20.0),
        Arrival(kind="gamma", rate_rps=20.0, burstiness=0.5),
        Arrival(kind="planned"),
    ],
    ids=lambda one: one.kind,
)
@pytest.mark.parametrize("count", COUNTS)
def test_each_request_is_due_when_the_whole_plan_says(
    arrival: Arrival, count: int, plans: dict[str, RepeatPlan]
) -> None:
    plan = plans["trace"]
    whole = due_times(plan.requests, arrival, 3)
    found = {}
    for part in shares(plan, count):
        pace = pace_of(arrival, part.requests, 3, part.others)
        assert pace.due_ns is not None
        due = zip(part.requests, pace.due_ns, strict=True)
        found.update({one.index: due_ns for one, due_ns in due})
    assert whole is not None and whole[-1] > 1_000_000_000
    assert [found[index] for index in sorted(found)] == whole


def test_serial_shards_are_no_serial_load() -> None:
    serial = Arrival(kind="serial", think_s=1.0)
    beside = arrival_in(serial, Shard(number=0, count=2))
    assert (beside.kind, beside.concurrency, beside.think_s) == ("closed", 1, 1.0)
    assert arrival_in(serial, Shard(number=0, count=1)) == arrival_in(serial, None) == serial
    closed = Arrival(kind="closed", concurrency=8)
    assert arrival_in(closed, Shard(number=1, count=2)) == closed


# One round


def measured(plan: RepeatPlan, count: int, seed: int) -> list[streams.Made]:
    """What a perfect cache behind all shards would have answered, sent in some order of them."""
    cache = DonorTree()
    parts = shares(plan, count)
    made: list[list[Request]] = [[] for _ in parts]
    ideals = []
    for part in parts:
        own = RoundIdeals(
            Namespace(),
            block_tokens=BLOCK,
            calibrated=plan.head.calibrated,
            reuse=True,
            salt_in_prompt=False,
        )
        for other in part.others:
            own.began(other, 0)
        ideals.append(own)
    order = [number for number, part in enumerate(parts) for _ in part.requests]
    random.Random(seed).shuffle(order)
    queues = [iter(part.requests) for part in parts]
    for at, number in enumerate(order, 1):
        planned = next(queues[number])
        made[number].append(answered(planned, cache, ideals[number], at * 100_000_000))
    return [closed(plan, rows, number, count) for number, rows in enumerate(made)]


def answered(planned: Planned, cache: DonorTree, ideals: RoundIdeals, at_ns: int) -> Request:
    prompt = planned.prompt_tokens or 0
    fresh = planned.stratum == "sentinel"
    hit = 0 if fresh else reusable(cache.shared(planned.blocks), prompt, BLOCK)
    if not fresh:
        cache.sent(planned.blocks, at_ns)
    ideals.began(planned, at_ns)
    first_ns = at_ns + 50_000_000
    ideals.ended(planned, first_ns + 10_000_000)
    ideal = ideals.of(
        planned, began_ns=at_ns, sent_ns=at_ns, first_token_ns=first_ns, prompt_tokens=prompt
    )
    like = streams.request(planned.index, at_ms=at_ns / 1e6, ttft_ms=50.0)
    return msgspec.structs.replace(
        like,
        group=planned.group,
        stratum=planned.stratum,
        prompt_tokens=prompt,
        cached_tokens=hit,
        floor_tokens=0,
        new_tokens=ideal.new_tokens,
        ideal_in_round_lo=ideal.lo,
        ideal_in_round_hi=ideal.hi,
        ideal_prior_tokens=ideal.prior,
    )


def closed(plan: RepeatPlan, rows: list[Request], number: int, count: int) -> streams.Made:
    run = streams.run(
        plan_sha256=plan.head.plan_sha256,
        shape_sha256=plan.head.shape_sha256,
        requests=plan.head.requests,
        sentinels=plan.head.sentinels,
        block_tokens=BLOCK,
        calibrated=plan.head.calibrated,
        arrival=Arrival(kind="closed", concurrency=1),
        shard=f"{number}/{count}",
    )
    return streams.Made(run=run, requests=rows).closed().named(f"r-{number}")


def summarised(parts: Sequence[streams.Made]) -> RoundStats:
    texts = [line for part in parts for line in part.lines().splitlines(True)]
    (stats,) = streams.summarise_lines(texts)
    return stats


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("kind", KINDS)
def test_merged_shards_are_one_round_that_proves_itself_cold(
    kind: str, count: int, plans: dict[str, RepeatPlan]
) -> None:
    plan = plans[kind]
    parts = measured(plan, count, seed=count)
    stats = summarised(parts)
    assert stats.complete and stats.total_requests == plan.head.requests
    assert stats.samples is not None
    assert stats.samples.total == plan.head.requests + plan.head.sentinels
    assert stats.cold_proof == "proven"
    assert stats.conservation is not None and stats.conservation.shortfall_tokens == 0
    (alone,) = (summarised(measured(plan, 1, seed=0)),)
    assert alone.conservation is not None
    assert stats.conservation.tree_tokens == alone.conservation.tree_tokens
    turned = summarised(parts[::-1])
    assert encode(turned) == encode(stats)


def test_what_a_shard_stole_shows_only_in_the_whole(plans: dict[str, RepeatPlan]) -> None:
    """A prompt that somebody had computed before is contamination in a merged round too."""
    parts = measured(plans["scenario"], 3, seed=3)
    at = next(n for n, one in enumerate(parts[1].requests) if one.stratum == "leader")
    row = parts[1].requests[at]
    assert row.prompt_tokens is not None
    stolen = msgspec.structs.replace(row, cached_tokens=row.prompt_tokens // BLOCK * BLOCK - BLOCK)
    parts[1].requests[at] = stolen
    assert summarised(parts).cold_proof == "contaminated"


@pytest.mark.parametrize("lost", [0, 1, 2])
def test_a_lost_shard_is_named_and_the_rest_is_reported(
    lost: int, plans: dict[str, RepeatPlan]
) -> None:
    parts = measured(plans["scenario"], 3, seed=1)
    rest = [part for number, part in enumerate(parts) if number != lost]
    stats = summarised(rest)
    own = sum(one.stratum != "sentinel" for part in rest for one in part.requests)
    assert not stats.complete
    assert (stats.total_requests, stats.successful_requests) == (own, own)
    (found,) = [one for one in stats.findings if one.code == "incomplete"]
    assert f"shard {lost}/3 is missing" in found.message and found.severity == "invalid"


def test_shards_of_two_fleets_are_told(plans: dict[str, RepeatPlan]) -> None:
    two, three = (measured(plans["scenario"], count, seed=1) for count in (2, 3))
    own = {one.index for one in two[0].requests}
    rest = [one for one in three[1].requests if one.index not in own]
    other = dataclasses.replace(three[1], requests=rest).closed().named("r-other")
    stats = summarised([two[0], other])
    assert not stats.complete
    (found,) = [one for one in stats.findings if one.code == "incomplete"]
    assert "shards of 2 and of 3" in found.message


@pytest.mark.parametrize("count", [2, 7])
def test_a_shard_without_an_end_was_to_send_its_part(
    count: int, plans: dict[str, RepeatPlan]
) -> None:
    parts = measured(plans["scenario"], count, seed=1)
    last = parts[-1]
    failed = [streams.failed(one) for one in last.requests[:1]]
    texts = [line for part in parts[:-1] for line in part.lines().splitlines(True)]
    texts += [encode(record) for record in (last.run, *failed)]
    (stats,) = streams.summarise_lines(texts)
    (found,) = [one for one in stats.findings if one.code == "errors"]
    head = plans["scenario"].head
    whole = head.requests + head.sentinels
    assert whole - whole // count <= found.evidence["planned"] <= whole + whole // count


# What is asked for


def experiment(*flags: str) -> Any:
    asked = ["--url", "http://127.0.0.1:1", "--scenario", "cold_start", *flags]
    return experiments_of(parser().parse_args(asked), Console(True))[0]


def test_salt_and_experiment_of_a_fleet() -> None:
    first, second = (experiment("--shard", f"{number}/2") for number in (0, 1))
    assert first.salt == "none"
    assert first.experiment_id == second.experiment_id
    assert first.config == second.config  # or its hash would tell shards of one round apart
    others = [
        experiment("--shard", "0/3"),
        experiment("--shard", "0/2", "--salt", "other"),
        experiment("--shard", "0/2", "--start-at", "4102444800"),
        experiment(),
    ]
    assert len({one.experiment_id for one in (first, *others)}) == 5
    assert experiment("--shard", "0/2", "--salt", "one").salt == "one"
    assert experiment("--shard", "0/2", "--experiment", "E").experiment_id == "E"


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        ("--salt auto", "--salt auto makes a new namespace in every shard"),
        ("--aa --salt one", "--aa makes new salts"),
        ("--until 5% --salt one", "--until decides by every request"),
        ("--tier store --salt one", "--tier store empties the engine"),
        ("--pause 0", "--pause 0"),
        ("--start-at 2100-01-01T00:00:00", "without a zone"),
        ("--start-at soon", "--start-at soon"),
    ],
)
def test_what_a_shard_cannot_do_is_refused(flags: str, complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        experiment("--shard", "0/2", *flags.split())


@pytest.mark.parametrize("text", ["2/2", "0/0", "1", "-1/2", "a/b", "0/2/3", "0/100000"])
def test_what_is_no_shard(text: str) -> None:
    with pytest.raises(UsageError, match="--shard"):
        shard_named(text)


def test_an_instant_has_a_zone_and_is_not_over() -> None:
    written = ["2100-01-01T00:00:00Z", "2100-01-01T08:00:00+08:00", "4102444800"]
    assert {instant(text).timestamp() for text in written} == {4102444800.0}
    Start(instant(written[0])).check()
    with pytest.raises(ToolError, match="nothing was sent"):
        Start(instant(str(int(time.time()) - 2))).check()


# The whole way


@pytest.fixture(scope="module")
def sim() -> Iterator[Sim]:
    with kvsim(*FAST) as running:
        yield running


def fleet(sh: Shell, flags: str, count: int) -> tuple[Done, int]:
    """Shards at once; on a machine so busy that they miss the beginning once more, with more room.

    Also the beginning, in seconds since 1970.
    """
    for room_s in (5, 20, 60):
        at = int(time.time()) + room_s
        each = f"kvload -q {flags} --warmup 0 --start-at {at} --shard"
        jobs = "".join(f"{each} {n}/{count} > s{n}.jsonl & p{n}=$!; " for n in range(count))
        waits = "".join(f"wait $p{n} || s=$?; " for n in range(count))
        done = sh(f"{jobs} s=0; {waits} exit $s")
        if "leaves room" not in done.err:
            return done, at
    raise AssertionError(done.err)


def test_two_shards_on_one_engine_are_the_unsharded_round(
    sh: Shell, sim: Sim, tmp_path: Path
) -> None:
    flags = (
        f"--url {sim.url} --scenario long_context_high_reuse --contexts 4 --requests 24"
        " --context-tokens 400 --output-tokens 4 --rate 40 --arrival constant --round 1"
    )
    done, at = fleet(sh, f"{flags} --salt fleet", 2)
    assert done.status == 0, done.err
    done = sh(
        f"kvload -q {flags} --salt alone --warmup 0 --keep-plan plan.jsonl | kvstats > whole.json"
    )
    assert done.status == 0, done.err
    merged = sh(
        "cat s0.jsonl s1.jsonl | kvstats | tee merged.json; cat s1.jsonl s0.jsonl | kvstats"
    )
    assert merged.status == 0, merged.err
    first, second = merged.out.splitlines()
    assert first == second
    stats, whole = json.loads(first), json.loads((tmp_path / "whole.json").read_text())
    assert [run["shard"] for run in stats["run"]] == ["0/2", "1/2"]
    assert {run["plan_sha256"] for run in stats["run"]} == {whole["run"]["plan_sha256"]}
    for key in ("total_requests", "successful_requests", "cold_requests", "complete", "cold_proof"):
        assert stats[key] == whole[key], key
    assert stats["conservation"] == whole["conservation"]
    for key in ("index", "group", "stratum", "prompt_tokens", "output_tokens", "cached_tokens"):
        assert stats["samples"][key] == whole["samples"][key], key
    assert "foreign_traffic" not in {found["code"] for found in stats["findings"]}
    assert stats["client"]["asked_rps"] == pytest.approx(40)
    scheduled(tmp_path, at)
    lost = sh("kvstats s1.jsonl | tee lost.json")
    assert lost.status == 1 and "shard 0/2 is missing" in lost.err
    assert json.loads(lost.out)["successful_requests"] < 24
    for records in ("merged.json s0.jsonl s1.jsonl", "lost.json s1.jsonl"):
        audit = sh(f"cat plan.jsonl {records} | kvreport --audit")
        assert "agrees with its records" in audit.out, audit.out


def scheduled(folder: Path, at: int) -> None:
    """Each shard's requests are where the one schedule has them, from the common beginning."""
    for name in ("s0.jsonl", "s1.jsonl"):
        records = [json.loads(line) for line in (folder / name).read_text().splitlines()]
        assert instant(records[0]["started_at"]).timestamp() == at
        offsets = {
            record["scheduled_ns"] - record["index"] * 25_000_000
            for record in records
            if record["record"] == "request"
        }
        assert len(offsets) == 1
