"""Several processes send one round: one schedule, one stream of records, nothing lost."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Pipe
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.conftest import Done
from tests.family import environment
from tests.kvload.workload import lines, words, write
from tests.simulated import FAST, Sim, kvsim

from kvload.bodies import Prepared
from kvload.collector import Collector
from kvload.drafts import Draft, RoundFacts
from kvload.drive import Outcome
from kvload.ledger import Ledger
from kvload.messages import Begun, Over, Tick, encode_events
from kvload.messages import Done as Finished
from kvload.pacing import Pace
from kvload.slices import slices
from kvpipe.records import Planned, Request

Shell = Callable[..., Done]
Records = list[dict[str, Any]]
BARE = "--rounds 1 --warmup 0"
SHARED = (
    "--scenario long_context_high_reuse --contexts 4 --requests 24 --context-tokens 400"
    " --output-tokens 4"
)


@pytest.fixture(scope="module")
def sim() -> Iterator[Sim]:
    with kvsim(*FAST) as running:
        yield running


def of_kind(text: str, kind: str) -> Records:
    records = (json.loads(line) for line in text.splitlines())
    return [record for record in records if record["record"] == kind]


# Slices


def item(index: int, **planned: Any) -> Prepared:
    request = Planned(index=index, stratum="unique", max_tokens=1, **planned)
    return Prepared(planned=request, body=b"{}", request_id=f"r-{index}")


@st.composite
def plans(draw: st.DrawFn) -> list[Prepared]:
    made: list[Prepared] = []
    last: dict[str, tuple[int, int]] = {}
    for index in range(draw(st.integers(1, 40))):
        kind = draw(st.sampled_from(["alone", "follower", "turn"]))
        if kind == "turn":
            talk = draw(st.sampled_from(["x", "y", "z"]))
            after, turn = last.get(talk, (None, 0))
            last[talk] = (index, turn + 1)
            made.append(item(index, group=talk, turn=turn + 1, after=after))
        elif kind == "follower" and index:
            made.append(item(index, group="g", after=draw(st.integers(0, index - 1))))
        else:
            made.append(item(index))
    return made


@given(prepared=plans(), workers=st.integers(1, 5), slots=st.integers(5, 40))
def test_slices_are_the_plan_dealt_out(prepared: list[Prepared], workers: int, slots: int) -> None:
    due = [number * 7 for number in range(len(prepared))]
    dealt = slices(prepared, Pace(due_ns=due, slots=slots, stagger_ns=10), workers)
    indices = [[one.planned.index for one in share.prepared] for share in dealt]
    assert sorted(itertools.chain(*indices)) == list(range(len(prepared)))
    assert all(mine == sorted(mine) for mine in indices)
    assert sum(share.pace.slots or 0 for share in dealt) == slots
    assert max(s.pace.slots or 0 for s in dealt) - min(s.pace.slots or 0 for s in dealt) <= 1
    for mine, share in zip(indices, dealt, strict=True):
        assert share.pace.due_ns == [due[index] for index in mine]
        needed = {p.planned.after for p in share.prepared if p.planned.after is not None}
        assert share.awaits == needed - set(mine)
        for awaited in share.awaits:
            (giver,) = [
                one for one, theirs in zip(dealt, indices, strict=True) if awaited in theirs
            ]
            assert awaited in giver.tells
    for talk in "xyz":
        homes = {
            place
            for place, share in enumerate(dealt)
            for one in share.prepared
            if one.planned.group == talk
        }
        assert len(homes) <= 1, "a conversation stays on one worker"
    starts = sorted(
        share.pace.first_ns + slot * share.pace.stagger_ns
        for share in dealt
        for slot in range(share.pace.slots or 0)
    )
    assert starts == [10 * slot for slot in range(slots)]


def test_requests_without_ties_are_dealt_evenly() -> None:
    dealt = slices([item(index) for index in range(101)], Pace(due_ns=None, slots=8), 4)
    assert sorted(len(share.prepared) for share in dealt) == [25, 25, 25, 26]


# What workers tell, in one order


class Noted:
    """A ledger that notes what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, int]] = []

    def began(self, planned: Planned, at_ns: int) -> None:
        self.told.append(("began", planned.index))

    def ended(self, planned: Planned, draft: Draft) -> None:
        self.told.append((draft.record.status, planned.index))


def over(index: int, end_ns: int) -> Over:
    record = Request(
        run_id="r",
        index=index,
        request_id=f"r-{index}",
        stratum="unique",
        endpoint_url="u",
        scheduled_ns=0,
        start_ns=0,
        end_ns=end_ns,
        status="ok",
    )
    return Over(Draft(record=record, ready_ns=0, stamp_lag_ns=None))


def test_a_request_is_written_when_all_have_told_what_they_began_before_its_end() -> None:
    """Else a donor of another worker would be missing from its ideal."""
    readers, writers = zip(*(Pipe(duplex=False) for _ in range(2)), strict=True)
    ledger, stopped = Noted(), list[str]()
    facts = RoundFacts(
        run_id="r", endpoint_url="u", origin_ns=0, floor_tokens=None, keep_output=False
    )
    collector = Collector(
        readers,
        {index: item(index) for index in range(4)},
        facts,
        cast("Ledger", ledger),
        lost=lambda place: f"worker {place + 1} was killed",
        stop=stopped.append,
    )
    writers[0].send_bytes(encode_events([Begun(0, 10), over(0, 100), Tick(500)]))
    writers[0].send_bytes(encode_events([Finished(Outcome(begun=[0]))]))
    writers[1].send_bytes(encode_events([Begun(1, 50)]))
    writers[1].send_bytes(encode_events([Tick(90)]))
    writers[1].send_bytes(encode_events([Begun(2, 95), Tick(120), over(2, 110)]))
    writers[1].close()  # killed: 1 was in flight
    outcomes = collector.run()
    assert ledger.told[:2] == [("began", 0), ("began", 1)]
    assert ledger.told[2:] == [("began", 2), ("ok", 0), ("ok", 2), ("cancelled", 1)]
    assert stopped == ["worker 2 was killed"]
    assert [outcome.stopped for outcome in outcomes] == [None, "worker 2 was killed"]


# Whole runs


FACTS = (
    *("index", "group", "stratum", "turn", "status", "body_bytes", "prompt_tokens"),
    *("output_tokens", "cached_tokens", "new_tokens", "floor_tokens", "finish_reason"),
    *("ideal_in_round_lo", "ideal_in_round_hi", "ideal_prior_tokens", "token_source"),
)


def test_two_workers_write_what_one_writes(sh: Shell, sim: Sim, tmp_path: Path) -> None:
    written = []
    for workers in (1, 2):
        done = sh(
            f"kvload --url {sim.url} {SHARED} --concurrency 4 --workers {workers} --pause 0"
            " --warmup 0"
        )
        assert done.status == 0, done.err
        assert [run["workers"] for run in of_kind(done.out, "run")] == [workers] * 2
        runs = [run["run_id"] for run in of_kind(done.out, "run")]
        kinds = [json.loads(line)["record"] for line in done.out.splitlines()]
        assert kinds == ["run", *["request"] * 27, "server_metrics", "end"] * 2
        rows = [
            (runs.index(record["run_id"]), *(record[fact] for fact in FACTS))
            for record in of_kind(done.out, "request")
        ]
        written.append(sorted(rows, key=lambda row: row[:2]))
        for end in of_kind(done.out, "end"):
            assert (end["planned"], end["ok"], end["client"]["cpu_s"] > 0) == (27, 27, True)
    assert written[0] == written[1]


def test_followers_wait_for_leaders_of_other_workers(sh: Shell, sim: Sim) -> None:
    done = sh(f"kvload --url {sim.url} {SHARED} --concurrency 9 --workers 3 {BARE}")
    assert done.status == 0, done.err
    requests = of_kind(done.out, "request")
    leaders = {r["group"]: r["end_ns"] for r in requests if r["stratum"] == "leader"}
    followers = [r for r in requests if r["stratum"] == "follower"]
    assert len(leaders) == 4 and len(followers) > 12
    assert all(r["sent_ns"] > leaders[r["group"]] for r in followers)


def test_workers_follow_one_schedule(sh: Shell, sim: Sim, tmp_path: Path) -> None:
    work = write(tmp_path / "w", lines(groups=30, each=1, context=20))
    done = sh(
        f"kvload --url {sim.url} --workload {work} --rate 60 --arrival constant --workers 3 {BARE}"
    )
    assert done.status == 0, done.err
    requests = sorted(of_kind(done.out, "request"), key=lambda record: record["index"])
    due = [record["scheduled_ns"] for record in requests]
    assert max(abs(b - a - 1e9 / 60) for a, b in itertools.pairwise(due)) <= 1
    assert all(record["sent_ns"] >= record["scheduled_ns"] for record in requests)


def test_a_conversation_goes_on_in_the_next_round(sh: Shell, sim: Sim, tmp_path: Path) -> None:
    rows: Records = []
    for turn in (1, 2, 3):
        for talk in range(4):
            said = [
                {"role": "user", "content": words(f"{talk} {past}", 20)}
                for past in range(1, turn + 1)
            ]
            rows.append({"messages": said, "group": f"t{talk}", "turn": turn, "max_tokens": 2})
    work = write(tmp_path / "w", rows)
    done = sh(f"kvload --url {sim.url} --workload {work} --concurrency 4 --workers 2 --pause 0")
    assert done.status == 0, done.err
    for run in of_kind(done.out, "run"):
        ended: dict[tuple[str, int], int] = {}
        requests = [r for r in of_kind(done.out, "request") if r["run_id"] == run["run_id"]]
        for r in sorted(requests, key=lambda record: record["index"]):
            if r["turn"] > 1:
                assert r["sent_ns"] > ended[r["group"], r["turn"] - 1]
            ended[r["group"], r["turn"]] = r["end_ns"]


def test_a_closed_loops_duration_holds_for_all_workers(sh: Shell, tmp_path: Path) -> None:
    work = write(tmp_path / "w", lines(groups=200, each=1, context=20, max_tokens=1))
    with kvsim("--prefill-tps", "1000000", "--overhead-ms", "50") as slow:
        done = sh(
            f"kvload --url {slow.url} --workload {work} --concurrency 4 --workers 2 --duration 1"
            " --pause 0 --warmup 0"
        )
    assert done.status == 0, done.err
    first, second = of_kind(done.out, "end")
    assert 4 <= first["planned"] == first["ok"] == second["ok"] < 200
    cold, hit = (
        {r["index"] for r in of_kind(done.out, "request") if r["run_id"] == end["run_id"]}
        for end in (first, second)
    )
    assert cold == hit


# How it ends


def start(sim: Sim, tmp_path: Path) -> tuple[subprocess.Popen[str], Path]:
    """A long run that has begun to write requests, each of most of a second; (process, output)."""
    work = write(tmp_path / "w", lines(groups=60, each=2, max_tokens=400))
    out = tmp_path / "out.jsonl"
    with out.open("wb") as stream:
        process = subprocess.Popen(
            [
                *("kvload", "-q", "--url", sim.url, "--workload", str(work), "--warmup", "0"),
                *("--concurrency", "6", "--workers", "2"),
            ],
            stdout=stream,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(),
        )
    deadline = time.monotonic() + 60
    while out.read_bytes().count(b'"record":"request"') < 4 and time.monotonic() < deadline:
        time.sleep(0.02)
    return process, out


def children(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in text.split()]


def gone(pid: int) -> bool:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return True
        if state == "Z":
            return True
        time.sleep(0.02)
    return False


def test_a_killed_worker_costs_nothing_that_was_measured(sim: Sim, tmp_path: Path) -> None:
    process, out = start(sim, tmp_path)
    workers = children(process.pid)
    assert len(workers) == 2
    time.sleep(0.2)  # what it has begun is told within 20 ms
    os.kill(workers[1], signal.SIGKILL)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "worker 2 of 2 was killed (SIGKILL)" in said and len(said.splitlines()) == 1
    (end,) = of_kind(out.read_text(), "end")
    assert not end["complete"] and end["reason"] == "worker 2 of 2 was killed (SIGKILL)"
    requests = of_kind(out.read_text(), "request")
    assert len(requests) == end["ok"] + end["failed"]
    ok = [r for r in requests if r["status"] == "ok"]
    orphans = [r for r in requests if "whether the request was sent" in (r["error"] or "")]
    assert len(ok) >= 4 and 1 <= len(orphans) <= 3
    assert len({r["index"] for r in requests}) == len(requests)
    assert all(gone(worker) for worker in workers)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_all_workers_properly(
    sim: Sim, tmp_path: Path, signum: signal.Signals
) -> None:
    process, out = start(sim, tmp_path)
    workers = children(process.pid)
    for worker in workers:  # Ctrl-C goes to the whole group; its workers leave it to their parent
        os.kill(worker, signum)
    process.send_signal(signum)
    process.communicate(timeout=60)
    assert process.returncode == -signum
    (end,) = of_kind(out.read_text(), "end")
    assert (end["complete"], end["reason"]) == (False, signum.name)
    requests = of_kind(out.read_text(), "request")
    assert 1 <= [r["status"] for r in requests].count("cancelled") <= 6
    assert len(requests) == end["ok"] + end["failed"]
    assert all(gone(worker) for worker in workers)


def test_workers_do_not_outlive_their_parent(sim: Sim, tmp_path: Path) -> None:
    process, _ = start(sim, tmp_path)
    workers = children(process.pid)
    process.kill()
    process.communicate(timeout=60)
    assert all(gone(worker) for worker in workers)


def test_a_reader_that_goes_away_ends_the_workers(sh: Shell, sim: Sim, tmp_path: Path) -> None:
    work = write(tmp_path / "w", lines(groups=30, each=2, max_tokens=100))
    done = sh(
        f"kvload -q --url {sim.url} --workload {work} --warmup 0 --concurrency 4 --workers 2"
        " | head -n 1"
    )
    assert done.status == 141 and done.err == ""


def test_a_server_that_nobody_is_behind_stops_every_worker(sh: Shell, tmp_path: Path) -> None:
    work = write(tmp_path / "w", lines(groups=60, each=1, context=20))
    with kvsim(*FAST) as dying:
        dying.fault("engine_death", "8")
        done = sh(
            f"kvload -q --url {dying.url} --workload {work} --concurrency 4 --workers 2 {BARE}"
        )
    assert done.status == 1
    (end,) = of_kind(done.out, "end")
    assert end["failed"] > 0 and len(of_kind(done.out, "request")) == end["ok"] + end["failed"]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--workers 2", "give --concurrency or --rate"),
        ("--workers 3 --concurrency 2", "--workers 3 need a slot each, and there are 2"),
        ("--workers 3 --rate 5 --max-concurrency 2", "need a slot each"),
        ("--workers 0", "at least 1"),
    ],
)
def test_workers_without_work_are_refused(sh: Shell, sim: Sim, flags: str, said: str) -> None:
    done = sh(f"kvload -q --url {sim.url} {SHARED} {flags}")
    assert (done.status, done.out) == (2, "")
    assert said in done.err


def test_more_streams_than_files_is_said_before_anything_is_sent(sh: Shell, sim: Sim) -> None:
    done = sh(f"ulimit -n 128; kvload -q --url {sim.url} {SHARED} --concurrency 500")
    assert (done.status, done.out) == (2, "")
    assert done.err == (
        "kvload: 500 streams need about 564 open files per process, and 128 are allowed:"
        " ulimit -n 564, or more --workers, or fewer streams\n"
    )
