"""What a load does to a real run: caps, ends, think time, and the same schedule in every round."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import Done
from tests.kvload.workload import lines, words, write
from tests.simulated import FAST, Sim, kvsim

Shell = Callable[..., Done]
Records = list[dict[str, Any]]
BARE = "--rounds 1 --warmup 0"
TINY = "--context-tokens 64 --output-tokens 1"


@pytest.fixture(scope="module")
def sim() -> Iterator[Sim]:
    with kvsim(*FAST) as running:
        yield running


@pytest.fixture(scope="module")
def slow() -> Iterator[Sim]:
    """50 ms before the first token, whatever the prompt."""
    with kvsim("--prefill-tps", "1000000", "--overhead-ms", "50", "--step-ms", "2") as running:
        yield running


def of_kind(text: str, kind: str) -> Records:
    return [record for record in map(json.loads, text.splitlines()) if record["record"] == kind]


def in_order(text: str) -> Records:
    return sorted(of_kind(text, "request"), key=lambda record: record["index"])


def most_at_once(requests: Records) -> int:
    return max(sum(o["sent_ns"] <= r["sent_ns"] < o["end_ns"] for o in requests) for r in requests)


def conversation(turns: int) -> Records:
    history: list[dict[str, str]] = []
    rows = []
    for turn in range(1, turns + 1):
        history = [*history, {"role": "user", "content": words(f"turn {turn}", 30)}]
        rows.append({"messages": history, "group": "talk", "turn": turn, "max_tokens": 4})
        history = [*history, {"role": "assistant", "content": words(f"answer {turn}", 10)}]
    return rows


def test_both_rounds_have_the_same_schedule(sh: Shell, sim: Sim, tmp_path: Path) -> None:
    work = write(tmp_path / "w", lines(groups=12, each=1, context=20))
    done = sh(
        f"kvload --url {sim.url} --workload {work} --rate 60 --arrival gamma --burstiness 0.5"
        " --pause 0 --warmup 0"
    )
    assert done.status == 0, done.err
    runs = of_kind(done.out, "run")
    assert runs[0]["arrival"] == runs[1]["arrival"]
    assert (runs[0]["arrival"]["kind"], runs[0]["arrival"]["burstiness"]) == ("gamma", 0.5)
    offsets = []
    for run in runs:
        due = sorted(
            r["scheduled_ns"] for r in of_kind(done.out, "request") if r["run_id"] == run["run_id"]
        )
        offsets.append([one - due[0] for one in due])
    assert offsets[0] == offsets[1] and len(set(offsets[0])) == 12


def test_stages_make_the_plan_as_long_as_they_are(sh: Shell, sim: Sim) -> None:
    done = sh(
        f"kvload --url {sim.url} --scenario cold_start {TINY} --arrival constant"
        f" --stages 500ms@20,1s@20..60 {BARE}"
    )
    assert done.status == 0, done.err
    (run,), (end,) = of_kind(done.out, "run"), of_kind(done.out, "end")
    assert run["requests"] + run["sentinels"] == end["planned"] == end["ok"] == 50
    due = [r["scheduled_ns"] for r in in_order(done.out)]
    assert {b - a for a, b in itertools.pairwise(due[:11])} == {50_000_000}
    assert due[-1] - due[-2] < 20_000_000
    assert run["arrival"]["stages"][1] == {"duration_s": 1.0, "from_rps": 20.0, "to_rps": 60.0}
    assert end["client"]["asked_rps"] == pytest.approx(50 / 1.5)


def test_what_waits_for_a_slot_keeps_the_time_it_was_due(
    sh: Shell, slow: Sim, tmp_path: Path
) -> None:
    """30 requests at 100/s, two at a time of 50 ms each: the last waits half a second."""
    work = write(tmp_path / "w", lines(groups=30, each=1, context=20, max_tokens=1))
    done = sh(
        f"kvload --url {slow.url} --workload {work} --rate 100 --arrival constant"
        f" --max-concurrency 2 {BARE} | tee run.jsonl | kvstats > stats.jsonl; cat run.jsonl"
    )
    assert done.status == 0, done.err
    requests = in_order(done.out)
    due = [r["scheduled_ns"] for r in requests]
    assert {b - a for a, b in itertools.pairwise(due)} == {10_000_000}
    assert most_at_once(requests) <= 2
    waits = [r["sent_ns"] - r["scheduled_ns"] for r in requests]
    assert waits[-1] > 5 * waits[3] > 0
    stats = json.loads((tmp_path / "stats.jsonl").read_text())
    metrics = stats["timings"]
    assert metrics["ttft_due_s"]["p50"] > 3 * metrics["ttft_s"]["p50"]
    (end,) = of_kind(done.out, "end")
    assert end["client"]["lateness_p99_s"] < max(waits) / 1e9 / 3, "waiting is not the client's"
    assert of_kind(done.out, "run")[0]["arrival"]["concurrency"] == 2


def test_a_request_that_must_wait_holds_up_nobody_else(
    sh: Shell, slow: Sim, tmp_path: Path
) -> None:
    talk = conversation(2)
    rows = [talk[0], talk[1], *lines(groups=4, each=1, context=20, max_tokens=1)]
    for row in rows[:2]:
        row["max_tokens"] = 60
    work = write(tmp_path / "w", rows)
    done = sh(f"kvload --url {slow.url} --workload {work} --rate 500 --arrival constant {BARE}")
    assert done.status == 0, done.err
    requests = in_order(done.out)
    assert requests[1]["sent_ns"] > requests[0]["end_ns"]
    assert all(r["sent_ns"] < requests[0]["end_ns"] for r in requests[2:])


@pytest.mark.parametrize("load", ["", "--rate 50 --arrival constant"])
def test_a_turn_comes_think_time_after_the_one_before(
    sh: Shell, sim: Sim, tmp_path: Path, load: str
) -> None:
    work = write(tmp_path / "w", conversation(4))
    done = sh(f"kvload --url {sim.url} --workload {work} --think 0.2 {load} {BARE}")
    assert done.status == 0, done.err
    requests = in_order(done.out)
    for before, turn in itertools.pairwise(requests):
        assert turn["sent_ns"] - before["end_ns"] >= 200_000_000
        assert turn["scheduled_ns"] >= before["end_ns"] + 200_000_000
    assert of_kind(done.out, "run")[0]["arrival"]["think_s"] == 0.2
    assert of_kind(done.out, "end")[0]["client"]["lateness_p50_s"] < 0.2


def test_a_duration_ends_a_closed_loop_and_later_rounds_send_the_same(
    sh: Shell, slow: Sim, tmp_path: Path
) -> None:
    work = write(tmp_path / "w", lines(groups=40, each=5, context=20, max_tokens=1))
    done = sh(
        f"kvload --url {slow.url} --workload {work} --concurrency 4 --duration 1 --pause 0"
        " --warmup 0 | tee run.jsonl | kvstats > stats.jsonl; cat run.jsonl"
    )
    assert done.status == 0, done.err
    first, second = of_kind(done.out, "end")
    assert first["complete"] and second["complete"]
    assert 4 <= first["planned"] == first["ok"] == second["ok"] < 200
    cold, hit = (
        {r["index"] for r in of_kind(done.out, "request") if r["run_id"] == end["run_id"]}
        for end in (first, second)
    )
    assert cold == hit == set(range(first["planned"]))
    started = [
        r["start_ns"] for r in of_kind(done.out, "request") if r["run_id"] == first["run_id"]
    ]
    # Each of the four slots may have looked at the clock just before, on a slow machine.
    assert sum(start - min(started) > 1_000_000_000 for start in started) <= 4
    for line in (tmp_path / "stats.jsonl").read_text().splitlines():
        assert "incomplete" not in [finding["code"] for finding in json.loads(line)["findings"]]


def test_a_plan_that_ends_before_its_time_says_how_long_it_should_be(
    sh: Shell, sim: Sim, tmp_path: Path
) -> None:
    work = write(tmp_path / "w", lines(groups=5, each=1, context=20))
    done = sh(f"kvload -q --url {sim.url} --workload {work} --duration 60 {BARE}")
    assert done.status == 1
    assert "the plan ended after" in done.err and "requests would last" in done.err
    assert of_kind(done.out, "end")[0]["complete"]


def test_a_workload_that_is_too_short_is_refused_and_a_long_one_is_cut(
    sh: Shell, sim: Sim, tmp_path: Path
) -> None:
    work = write(tmp_path / "w", lines(groups=30, each=1, context=20))
    asked = f"kvload -q --url {sim.url} --workload {work} --rate 20 --arrival constant {BARE}"
    refused = sh(f"{asked} --duration 2")
    assert (refused.status, refused.out) == (2, "")
    assert refused.err == (
        "kvload: --duration 2 is 40 requests at this rate, and the plan has 30: 10 more lines are"
        " needed (a repeated prompt would be a hit)\n"
    )
    cut = sh(f"{asked} --duration 1")
    assert cut.status == 0, cut.err
    assert of_kind(cut.out, "run")[0]["requests"] == len(of_kind(cut.out, "request")) == 20
    whole = sh(f"kvload -q --url {sim.url} --workload {work} --concurrency 8 {BARE}")
    hashes = [of_kind(one.out, "run")[0]["plan_sha256"] for one in (cut, whole)]
    assert hashes[0] != hashes[1], "the hash is of what was sent"


def test_planned_times_end_with_the_duration_and_go_in_their_own_order(
    sh: Shell, sim: Sim, tmp_path: Path
) -> None:
    rows = lines(groups=5, each=1, context=20)
    for row, at_s in zip(rows, (0.3, 0.0, 0.2, 9.0, 0.1), strict=True):
        row["at_s"] = at_s
    work = write(tmp_path / "w", rows)
    done = sh(f"kvload --url {sim.url} --workload {work} --duration 1 --max-concurrency 3 {BARE}")
    assert done.status == 0, done.err
    sent = sorted(of_kind(done.out, "request"), key=lambda r: r["sent_ns"])
    assert [r["index"] for r in sent] == [1, 4, 2, 0]
    arrival = of_kind(done.out, "run")[0]["arrival"]
    assert (arrival["kind"], arrival["concurrency"]) == ("planned", 3)


def test_a_closed_loop_starts_one_after_another(sh: Shell, slow: Sim, tmp_path: Path) -> None:
    work = write(tmp_path / "w", lines(groups=10, each=1, context=20))
    done = sh(f"kvload --url {slow.url} --workload {work} --concurrency 10 {BARE}")
    starts = [r["start_ns"] for r in in_order(done.out)]
    assert all(start >= n * 1_000_000 for n, start in enumerate(starts))
    assert most_at_once(in_order(done.out)) == 10
    assert of_kind(done.out, "run")[0]["arrival"]["stagger_s"] == 0.001


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--rate 5 --stages 1s@1", "leave --rate out"),
        ("--stages 1s@1 --duration 5", "leave --duration out"),
        ("--stages nonsense", "--stages 'nonsense': DURATION@RATE"),
        ("--rate 5 --burstiness 2", "add --arrival gamma"),
        ("--burstiness 2", "give the rate"),
        ("--concurrency 5 --rate 5", "--max-concurrency N caps an open loop"),
        ("--concurrency 5 --max-concurrency 5", "caps an open loop"),
        ("--max-concurrency 5", "caps an open loop"),
        ("--rate 1000 --duration 100000", "100,000,000 requests"),
        (
            "--rate 50 --arrival constant --duration 1 --requests 10",
            "leave --requests out, or give --requests 50",
        ),
        ("--rate 5 --duration 0", "above 0"),
    ],
)
def test_loads_that_cannot_be_are_one_line(sh: Shell, sim: Sim, flags: str, words: str) -> None:
    done = sh(f"kvload -q --url {sim.url} --scenario cold_start {TINY} {flags}")
    assert (done.status, done.out) == (2, "")
    assert words in done.err
