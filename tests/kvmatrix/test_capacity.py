"""The search for a capacity: pure, on a queue that is known, on disk, and on a simulated engine."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.kvmatrix.matrices import Site
from tests.simulated import Sim, kvsim

from kvmatrix.capacity import TRIES, Progress, Tried, progress
from kvmatrix.limits import Limits
from kvmatrix.matrix import read_matrix
from kvmatrix.plan import plan_text
from kvmatrix.probes import SEARCH, Search, capacities, next_probe, verdict_on
from kvmatrix.schedule import schedule
from kvpipe.jsonl import encode
from kvpipe.process import ToolError
from kvpipe.records import (
    Arm,
    Arrival,
    Finding,
    Host,
    RoundStats,
    Run,
    Samples,
    Stat,
    Timings,
)

FULL = bool(os.environ.get("KV_DRILL_FULL"))
LIMITS = Limits(
    slo={"ttft": "2s"}, goodput=0.99, from_rps=0.5, to_rps=64, precision=0.05, requests=200
)


# --- the search ----------------------------------------------------------------------------------


def searched(capacity: float, before: Progress | None = None) -> tuple[Progress, list[Tried]]:
    """A search where exactly the rates up to `capacity` pass."""
    tried: list[Tried] = []
    while (now := progress(LIMITS, tried, before)).next_rps is not None:
        assert LIMITS.from_rps <= now.next_rps <= LIMITS.to_rps
        verdict = "passed" if now.next_rps <= capacity else "failed"
        tried.append(Tried(rate_rps=now.next_rps, verdict=verdict))  # type: ignore[arg-type]
        assert len(tried) < 30
    return now, tried


def test_a_search_ends_around_the_capacity_within_the_precision() -> None:
    chance = random.Random(1)
    for _ in range(200):
        capacity = 0.5 * 128 ** chance.random()
        found, tried = searched(capacity)
        assert found.state == "found"
        assert found.passed_rps is not None and found.failed_rps is not None
        assert found.passed_rps <= capacity < found.failed_rps
        assert found.failed_rps / found.passed_rps < 1.06
        assert len(tried) <= 10


def test_a_later_repeat_begins_where_the_earlier_one_ended_and_probes_both_ends_itself() -> None:
    first, _ = searched(5.0)
    again, tried = searched(5.0, first)
    assert (again.passed_rps, again.failed_rps) == (first.passed_rps, first.failed_rps)
    assert sorted(one.rate_rps for one in tried) == [first.passed_rps, first.failed_rps]
    for capacity in (0.6, 2.0, 5.5, 60.0):  # another day, another capacity
        moved, tried = searched(capacity, first)
        assert moved.passed_rps is not None and moved.failed_rps is not None
        assert moved.passed_rps <= capacity < moved.failed_rps
        assert len(tried) <= 13


def test_beyond_its_range_a_search_says_so() -> None:
    above, _ = searched(1000.0)
    assert (above.state, above.passed_rps, above.failed_rps) == ("above", 64, None)
    below, _ = searched(0.1)
    assert (below.state, below.passed_rps, below.failed_rps) == ("below", None, 0.5)


def test_a_probe_that_shows_nothing_is_repeated_and_then_the_search_stops() -> None:
    invalid = Tried(rate_rps=5.657, verdict="invalid")
    for times in range(1, TRIES):
        assert progress(LIMITS, [invalid] * times, None).next_rps == 5.657
    assert progress(LIMITS, [invalid] * TRIES, None).state == "stopped"
    passed = Tried(rate_rps=5.657, verdict="passed")
    assert progress(LIMITS, [invalid, passed], None).next_rps == 11.31
    failed = Tried(rate_rps=11.31, verdict="failed")
    between = Tried(rate_rps=7.999, verdict="invalid")
    wide = progress(LIMITS, [passed, failed, *[between] * TRIES], None)
    assert (wide.state, wide.passed_rps, wide.failed_rps) == ("found", 5.657, 11.31)


def test_a_probe_is_long_enough_for_the_queue_of_a_rate_just_too_high() -> None:
    assert [LIMITS.allowed(count) for count in (99, 100, 199, 200, 1000)] == [0, 1, 1, 2, 10]
    for rate in (0.5, 5.0, 5.01, 64.0):
        count = LIMITS.requests_at(rate)
        queue_s = (count / rate) * (1 - 1 / 1.05)  # what arrivals 5 % above leave at the end
        assert queue_s > 0.95 * 2.0 * (count > 200 or rate == 5.01) or count == 200
        assert count % 200 == 0 and count / rate >= 2.0 / 0.05


# --- what a probe shows --------------------------------------------------------------------------


def probe(
    due_s: Sequence[float | None],
    arm: Arm = "no_reuse",
    late_s: float | Sequence[float] = 0.0,
    findings: Iterable[Finding] = (),
    efficiency: float | None = None,
    rate: float = 4.0,
    limit_s: float = 2.0,
) -> RoundStats:
    """A round with these TTFTs from when requests were due; None is a failure."""
    count = len(due_s)
    late = [late_s] * count if isinstance(late_s, float | int) else list(late_s)
    good = sum(one is not None and one <= limit_s for one in due_s)
    time_s = count / rate
    nobody: list[Any] = [None] * count
    run = Run(
        run_id=f"{arm}-{rate}",
        experiment_id="e1",
        name="n",
        scenario="cold_start",
        arm=arm,
        tier="local",
        round_num=0 if arm == "no_reuse" else 2,
        endpoint_url="http://10.0.0.1:8000/v1",
        plan_sha256="0" * 64,
        shape_sha256="0" * 64,
        arrival=Arrival(kind="poisson", rate_rps=rate),
        tool_version="0",
        host=Host(name="h", system="s", python="3", cpus=2),
        started_at="2026-11-20T00:00:00Z",
    )
    samples = Samples(
        index=list(range(count)),
        group=nobody,
        stratum=["unique"] * count,
        ok=[one is not None for one in due_s],
        ttft_s=[None if one is None else one - by for one, by in zip(due_s, late, strict=True)],
        ttft_due_s=list(due_s),
        e2e_s=nobody,
        tpot_s=nobody,
        second_token_s=nobody,
        sent_s=[number / rate for number in range(count)],
        prompt_tokens=nobody,
        output_tokens=nobody,
        cached_tokens=nobody,
        ideal_tokens=nobody,
        output_sha256=nobody,
        total=count,
    )
    none = Stat(n=0)
    return RoundStats(
        run=run,
        scenario="cold_start",
        name="n",
        round_num=run.round_num,
        avg_ttft=None,
        complete=True,
        total_requests=count,
        successful_requests=sum(samples.ok),
        failed_requests=count - sum(samples.ok),
        total_time_s=time_s,
        goodput_rps=good / time_s,
        slo={"ttft": limit_s},
        timings=Timings(
            ttft_s=none,
            ttft_due_s=none,
            tpot_s=none,
            itl_s=none,
            e2e_s=none,
            queue_s=none,
            second_token_s=none,
        ),
        efficiency=efficiency,
        samples=samples,
        findings=list(findings),
    )


def found(code: str, severity: str = "invalid") -> Finding:
    return Finding(code=code, severity=severity, message="something")  # type: ignore[arg-type]


def shown(stats: RoundStats, arm: Arm = "no_reuse") -> tuple[str, str | None]:
    good = round((stats.goodput_rps or 0) * (stats.total_time_s or 0))
    return verdict_on(stats, good, LIMITS, arm)


def test_two_of_two_hundred_may_miss_and_a_failure_is_a_miss() -> None:
    assert shown(probe([0.5] * 198 + [2.1] * 2)) == ("passed", None)
    assert shown(probe([0.5] * 197 + [2.1] * 3)) == ("failed", "slo")
    assert shown(probe([0.5] * 197 + [None] * 3, findings=[found("errors")])) == ("failed", "slo")
    assert shown(probe([0.5] * 198 + [None] * 2)) == ("passed", None)


def test_a_queue_that_grows_towards_the_limit_fails_in_both_arms() -> None:
    growing = [0.1 + 1.8 * number / 199 for number in range(200)]
    assert shown(probe(growing, findings=[found("overload")])) == ("failed", "overload")
    assert shown(probe(growing, "hit", efficiency=1.0), "hit") == ("failed", "overload")
    # Three times as long at the end, and nowhere near the limit: noise, by this limit.
    small = [0.01 + 0.02 * number / 199 for number in range(200)]
    assert shown(probe(small, findings=[found("overload")])) == ("passed", None)


@pytest.mark.parametrize(
    ("efficiency", "verdict"),
    [
        (1.0, ("passed", None)),
        (0.95, ("passed", None)),
        (0.94, ("invalid", "lost")),
        (None, ("invalid", "cached_tokens_not_reported")),
    ],
)
def test_a_hit_probe_must_have_hit(
    efficiency: float | None, verdict: tuple[str, str | None]
) -> None:
    assert shown(probe([0.5] * 200, "hit", efficiency=efficiency), "hit") == verdict


def test_a_late_client_cannot_fail_a_rate_and_passes_none_by_itself() -> None:
    warned = [found("client_limited", "warning")]
    # Answered 1 s after being sent, which was 1.5 s late: the client's doing.
    late = probe([0.5] * 190 + [2.5] * 10, late_s=[0.0] * 190 + [1.5] * 10, findings=warned)
    assert shown(late) == ("invalid", "client_limited")
    # Sent 0.1 s late and answered after 2.4 s: the server's.
    slow = probe([0.5] * 190 + [2.5] * 10, late_s=0.1, findings=warned)
    assert shown(slow) == ("failed", "slo")
    # Late, and within the limit all the same.
    assert shown(probe([1.5] * 200, late_s=1.0, findings=warned)) == ("passed", None)


@pytest.mark.parametrize("code", ["contaminated", "foreign_traffic", "restarted"])
def test_an_invalid_probe_is_no_verdict_however_good_it_looks(code: str) -> None:
    assert shown(probe([0.5] * 200, findings=[found(code)])) == ("invalid", code)


# --- on disk, against a queue whose capacity is known --------------------------------------------


def queue(service_s: float, rate: float, count: int, seed: int) -> list[float]:
    """TTFTs of one server that takes `service_s` for each of Poisson's arrivals."""
    chance = random.Random(seed)
    now = free = 0.0
    waited = []
    for _ in range(count):
        free = max(free, now) + service_s
        waited.append(free - now)
        now += chance.expovariate(1.0) / rate
    return waited


SERVICE: dict[Arm, float] = {"no_reuse": 0.25, "hit": 0.05}


def folder_of(place: Path, repeat: int, before: Path | None = None) -> Path:
    folder = place / f"repeat-{repeat}" / "probes-x-1"
    folder.mkdir(parents=True)
    search = Search(
        name="n",
        scenario="cold_start",
        repeat=repeat,
        experiment_id="e1",
        limits=LIMITS,
        before=None if before is None else str(before),
    )
    (folder / SEARCH).write_bytes(msgspec.json.encode(search))
    return folder


def run_search(folder: Path, arm: Arm, service_s: float, seed: int, stop: int = 99) -> int:
    """Probe until there is no next rate, or `stop` probes were made; how many were."""
    made = 0
    while made < stop and (following := next_probe(folder, arm)) is not None:
        rate, count, name = following
        ttfts = queue(service_s, rate, count, seed)
        stats = probe(ttfts, arm, efficiency=1.0 if arm == "hit" else None, rate=rate)
        (folder / name).write_bytes(encode(stats))
        made += 1
    return made


def test_the_capacity_of_a_known_queue_is_found(tmp_path: Path) -> None:
    """0.25 s of service under a limit of 2 s: below 4 a second. 0.05 s: close to 20 a second."""
    before = None
    probes = []
    for repeat in (1, 2, 3):
        folder = folder_of(tmp_path, repeat, before)
        probes.append(sum(run_search(folder, arm, s, repeat) for arm, s in SERVICE.items()))
        bare, hit = capacities(folder)
        assert (bare.arm, hit.arm, bare.state, hit.state) == ("no_reuse", "hit", "found", "found")
        assert bare.passed_rps is not None and hit.passed_rps is not None
        assert hit.failed_rps is not None
        assert 2.0 < bare.passed_rps < 4.0
        assert 17.0 < hit.passed_rps < hit.failed_rps < 22.0
        before = folder
    assert probes[0] >= probes[1]


def test_a_search_goes_on_from_the_probes_that_are_there(tmp_path: Path) -> None:
    whole, cut = folder_of(tmp_path / "a", 1), folder_of(tmp_path / "b", 1)
    run_search(whole, "hit", 0.05, 1)
    with pytest.raises(ToolError, match="has not ended"):
        capacities(whole)
    while run_search(cut, "hit", 0.05, 1, stop=1):
        (cut / "hit.part").write_text('{"record":"round_', encoding="utf-8")
        (cut / "prime.part").write_text("x", encoding="utf-8")
    names = sorted(path.name for path in whole.glob("hit-*.json"))
    assert [path.name for path in sorted(cut.glob("hit-*.json"))] == names
    assert all((cut / name).read_bytes() == (whole / name).read_bytes() for name in names)


def test_what_is_no_probe_is_named(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, 1)
    (folder / "hit-001.json").write_bytes(encode(probe([0.5] * 200, "no_reuse")))
    with pytest.raises(ToolError, match=r"hit-001\.json: not a probe of hit at a rate: remove it"):
        next_probe(folder, "hit")


# --- the matrix file -----------------------------------------------------------------------------

CAPACITY: dict[str, Any] = {"slo": {"ttft": "2s", "tpot": "50ms"}, "from_rps": 0.5, "to_rps": 64}


def entry(**keys: Any) -> dict[str, Any]:
    made = {"name": "cap", "config_file": "c.yaml", "scenario": "cold_start", "capacity": CAPACITY}
    return made | keys


@pytest.mark.parametrize(
    ("keys", "config", "words"),
    [
        ({"concurrency": 4}, {}, "'test_scenarios.0.concurrency': a capacity is searched for"),
        ({"capacity": CAPACITY | {"to_rps": 0.5}}, {}, "capacity.to_rps': it must be above"),
        ({"capacity": CAPACITY | {"requests": 60}}, {}, "60 requests cannot show 99.* 100 allow"),
        ({"capacity": CAPACITY | {"slo": {"tpot": "1s"}}}, {}, "'ttft' is a required property"),
        ({"capacity": CAPACITY | {"slo": {"ttft": "2 h"}}}, {}, "capacity.slo.ttft"),
        ({"capacity": CAPACITY | {"precision": "150%"}}, {}, "capacity.precision'"),
        ({"capacity": CAPACITY | {"goodput": "100%"}}, {}, "capacity.goodput'"),
        ({}, {"isolation": {"salt": "none"}}, "with salt none nothing tells"),
        (
            {},
            {"endpoints_per_round": {"1": "http://a:1", "2": "http://b:1"}},
            "searched for on one endpoint",
        ),
    ],
)
def test_what_cannot_be_searched_for_is_refused(
    site: Site, keys: dict[str, Any], config: dict[str, Any], words: str
) -> None:
    site.config("c.yaml", "http://127.0.0.1:9/v1", **config)
    with pytest.raises(ToolError, match=words) as refused:
        read_matrix(str(site.matrix([entry(**keys)])), allow_commands=False)
    assert len(str(refused.value).splitlines()) == 1


def test_percentages_and_ratios_are_the_same_and_the_plan_tells_what_is_searched(
    site: Site,
) -> None:
    site.config("c.yaml", "http://127.0.0.1:9/v1")
    found = []
    for goodput, precision in (("98%", "10 %"), (0.98, 0.1)):
        value = CAPACITY | {"goodput": goodput, "precision": precision}
        matrix = read_matrix(str(site.matrix([entry(capacity=value)])), allow_commands=False)
        found.append(matrix.scenarios[0].capacity)
    assert found[0] == found[1] is not None
    assert "capacity between 0.5 and 64 requests/s" in plan_text(matrix, schedule(matrix, None))


# --- a simulated engine --------------------------------------------------------------------------

SLOW = ("--fault", "no_metrics", "--prefill-tps", "4000", "--step-ms", "10", "--overhead-ms", "1")
"""A prompt of 660 tokens takes 175 ms without reuse, one that hits about 10."""


@pytest.fixture(scope="module")
def slow() -> Iterator[Sim]:
    with kvsim(*SLOW, "--max-num-seqs", "2") as engine:
        yield engine


def wait_for(site: Site, pattern: str) -> None:
    end = time.monotonic() + 120
    while not list(site.folder.glob(pattern)):
        assert time.monotonic() < end, f"{pattern} did not appear"
        time.sleep(0.05)


def test_hits_raise_the_capacity_and_an_interrupted_search_goes_on(site: Site, slow: Sim) -> None:
    shape = {"requests": 20, "contexts": 4, "context_tokens": 600, "output_tokens": 2}
    site.config("c.yaml", slow.url, scenarios={"long_context_high_reuse": shape})
    limits = {"slo": {"ttft": "1s"}, "goodput": 0.9, "precision": "100%", "requests": 20}
    search = entry(
        scenario="long_context_high_reuse", capacity=limits | {"from_rps": 4, "to_rps": 20}
    )
    site.matrix([search], repeats=1)
    with site.start("kvmatrix m.yaml -q > rules.mk; exec make -f rules.mk") as process:
        wait_for(site, "out/*/repeat-1/probes-*/no_reuse-001.json")
        os.killpg(process.pid, signal.SIGTERM)
        process.communicate(timeout=60)
    kept = {
        path: path.stat().st_mtime_ns for path in site.folder.glob("out/*/*/probes-*/*-0*.json")
    }
    assert kept and not site.runs()

    _, said = site.make()  # one repeat has no interval: whatever the report's status is
    assert "1 succeeded, 0 failed" in said
    assert {path: path.stat().st_mtime_ns for path in kept} == kept

    bare, hit = site.stats()
    assert (bare["arm"], hit["arm"]) == ("no_reuse", "hit")
    assert {one["state"] for one in (bare, hit)} <= {"found", "above", "below"}
    assert hit["passed_rps"] >= bare["failed_rps"], "a hit costs a tenth of a miss here"
    assert all(one["efficiency"] > 0.95 for one in hit["probes"])
    assert all(one["efficiency"] is None for one in bare["probes"])
    rounds = [
        json.loads(path.read_text("utf-8"))
        for path in site.folder.glob("out/*/repeat-1/probes-*/*-0*.json")
    ]
    # The same requests in the same order and rhythm in both arms, and no sentinels among them.
    assert len({one["run"]["plan_sha256"] for one in rounds}) == 1
    assert len({one["run"]["seed"] for one in rounds}) == 1
    assert {one["run"]["sentinels"] for one in rounds} == {0}
    assert {one["cold_proof"] for one in rounds if one["run"]["arm"] == "no_reuse"} == {"proven"}
    assert "as many requests" in said or "none: " in (site.folder / "out/report.txt").read_text()


@pytest.mark.skipif(not FULL, reason="minutes: make matrix-drill")
@pytest.mark.parametrize(
    ("pace", "verdict"),
    [(("--prefill-tps", "3000"), "higher"), (("--prefill-tps", "1000000000"), "same")],
    ids=["prefill costs", "prefill is free"],
)
def test_three_repeats_tell_hits_from_no_reuse_only_where_they_differ(
    site: Site, pace: tuple[str, str], verdict: str
) -> None:
    """The second is an A/A check: where prefill takes no time, hits are worth nothing."""
    shape = {"contexts": 4, "context_tokens": 600, "output_tokens": 4}
    limits = {"slo": {"ttft": "1s"}, "goodput": 0.95, "precision": "100%", "requests": 40}
    search = entry(
        scenario="long_context_high_reuse", capacity=limits | {"from_rps": 2, "to_rps": 32}
    )
    with kvsim(*SLOW[:2], *pace, "--step-ms", "50", "--max-num-seqs", "2") as engine:
        site.config("c.yaml", engine.url, scenarios={"long_context_high_reuse": shape})
        site.matrix([search], repeats=3)
        _, said = site.run("kvmatrix m.yaml -q | make -f -", timeout_s=1800)
    assert "1 succeeded, 0 failed" in said
    report = json.loads((site.folder / "out" / "report.json").read_text("utf-8"))
    (found,) = report["capacities"]
    if "client_limited" in found["reasons"]:
        pytest.skip("this machine is too busy to send in time")
    assert found["verdict"] == verdict
    assert len({one["hit"]["probes"][0]["run_id"] for one in found["repeats"]}) == 3
