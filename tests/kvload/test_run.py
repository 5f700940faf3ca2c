"""Whole runs through the executable against kvsim: what is written, said and returned."""

from __future__ import annotations

import itertools
import json
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import Done
from tests.family import environment
from tests.kvload.workload import lines, write
from tests.simulated import FAST, Sim, cluster, kvsim

Shell = Callable[..., Done]
Records = list[dict[str, Any]]


@pytest.fixture(scope="module")
def sim() -> Iterator[Sim]:
    with kvsim(*FAST) as running:
        yield running


def of_kind(text: str, kind: str) -> Records:
    records = [json.loads(line) for line in text.splitlines()]
    return [record for record in records if record["record"] == kind]


def kinds(text: str) -> list[str]:
    return [json.loads(line)["record"] for line in text.splitlines()]


@pytest.fixture
def work(tmp_path: Path) -> Path:
    return write(tmp_path / "work.jsonl", lines(groups=2, each=3))


def test_cold_then_hit_serially(sh: Shell, sim: Sim, work: Path) -> None:
    done = sh(f"kvload --url {sim.url} --workload {work} --pause 0")
    assert done.status == 0, done.err
    stream = ["run", *["request"] * 6, "server_metrics", "end"]
    assert kinds(done.out) == stream * 2
    cold, hit = (of_kind(done.out, "request")[:6], of_kind(done.out, "request")[6:])
    assert [r["cached_tokens"] == 0 for r in cold] == [True, False, False] * 2
    assert all(r["cached_tokens"] == r["ideal_prior_tokens"] > 0 for r in hit)
    for record in cold + hit:
        stamps = [record[key] for key in ("scheduled_ns", "start_ns", "sent_ns", "body_sent_ns")]
        stamps += [record[key] for key in ("headers_ns", "first_byte_ns", "first_chunk_ns")]
        assert stamps[:4] == sorted(stamps[:4])
        assert record["sent_ns"] <= record["first_byte_ns"] <= record["first_token_ns"]
        assert record["first_token_ns"] <= record["second_token_ns"] <= record["last_token_ns"]
        assert record["last_token_ns"] <= record["end_ns"]
        assert len(record["chunk_ns"]) == record["output_tokens"] == 8
        assert record["cached_local_tokens"] == record["cached_tokens"]
        assert record["cached_remote_tokens"] == 0
        assert record["server_request_id"] == f"chatcmpl-{record['request_id']}"
        assert record["status"] == "ok" and record["token_source"] == "usage"
        assert record["output_sha256"] and record["output_text"] is None
    first, second = of_kind(done.out, "run")
    assert first["simulated"] and "SIMULATED" in done.err
    assert first["salt"] == second["salt"] and first["salt_way"] == "cache_salt"
    assert first["experiment_id"] == second["experiment_id"] and first["run_id"] != second["run_id"]
    assert first["plan_sha256"] == second["plan_sha256"]
    assert [first["arm"], second["arm"]] == ["cold", "hit"]
    assert "🥶 Cold Start" in done.err and "🔥 Cache Hit" in done.err and "6/6" in done.err


def test_the_servers_counters_are_ours_and_nobody_elses(sh: Shell, sim: Sim, work: Path) -> None:
    done = sh(f"kvload --url {sim.url} --workload {work} --pause 0 --concurrency 3")
    assert done.status == 0, done.err
    for metrics, number in zip(of_kind(done.out, "server_metrics"), (1, 2), strict=True):
        requests = of_kind(done.out, "request")[(number - 1) * 6 : number * 6]
        counted = metrics["counters"]
        assert counted["requests"] == 6
        assert counted["prompt_tokens"] == sum(r["prompt_tokens"] for r in requests)
        assert counted["generation_tokens"] == sum(r["output_tokens"] for r in requests)
        assert counted["local_tokens"] == sum(r["cached_tokens"] for r in requests)
        assert metrics["endpoint_url"] == sim.url and metrics["start_before_s"] is not None


def test_every_repeat_is_a_namespace_of_its_own(sh: Shell, sim: Sim, work: Path) -> None:
    done = sh(f"kvload --url {sim.url} --workload {work} --pause 0 --repeats 2 --warmup 0")
    assert done.status == 0, done.err
    runs = of_kind(done.out, "run")
    assert [(r["repeat"], r["arm"], r["round_num"], r["position"]) for r in runs] == [
        (1, "no_reuse", 0, "before"),
        (1, "cold", 1, None),
        (1, "hit", 2, None),
        (2, "cold", 1, None),
        (2, "hit", 2, None),
        (2, "no_reuse", 0, "after"),
    ]
    by_run = {r["run_id"]: r for r in runs}
    for record in of_kind(done.out, "request"):
        run = by_run[record["run_id"]]
        if run["arm"] == "no_reuse":
            assert record["cached_tokens"] == 0
        if run["arm"] == "cold" and record["stratum"] == "leader":
            assert record["cached_tokens"] == 0
    assert len({r["salt"] for r in runs}) == 4


def test_concurrency_overlaps_and_keeps_the_order(sh: Shell, sim: Sim, tmp_path: Path) -> None:
    work = write(tmp_path / "w", lines(groups=8, each=1, max_tokens=30))
    done = sh(f"kvload --url {sim.url} --workload {work} --concurrency 4 --rounds 1 --warmup 0")
    assert done.status == 0, done.err
    requests = sorted(of_kind(done.out, "request"), key=lambda r: r["index"])
    assert [r["sent_ns"] for r in requests] == sorted(r["sent_ns"] for r in requests)
    inside = [sum(o["sent_ns"] <= r["sent_ns"] < o["end_ns"] for o in requests) for r in requests]
    assert max(inside) == 4
    arrival = of_kind(done.out, "run")[0]["arrival"]
    assert (arrival["kind"], arrival["concurrency"], arrival["rate_rps"]) == ("closed", 4, None)


def test_more_streams_than_the_soft_limit_of_open_files(
    sh: Shell, sim: Sim, tmp_path: Path
) -> None:
    work = write(tmp_path / "w", lines(groups=60, each=1, context=20, max_tokens=20))
    done = sh(
        f"ulimit -Sn 40; kvload -q --url {sim.url} --workload {work} --concurrency 60 --rounds 1"
        " --warmup 0"
    )
    assert done.status == 0, done.err
    assert [r["status"] for r in of_kind(done.out, "request")] == ["ok"] * 60


def test_an_open_loop_follows_its_schedule_whatever_the_answers_do(
    sh: Shell, sim: Sim, tmp_path: Path
) -> None:
    work = write(tmp_path / "w", lines(groups=20, each=1, context=30, max_tokens=40))
    done = sh(
        f"kvload --url {sim.url} --workload {work} --rate 50 --arrival constant --rounds 1"
        " --warmup 0"
    )
    assert done.status == 0, done.err
    due = [
        r["scheduled_ns"] for r in sorted(of_kind(done.out, "request"), key=lambda r: r["index"])
    ]
    gaps = {after - before for before, after in itertools.pairwise(due)}
    assert gaps == {20_000_000}
    assert all(r["sent_ns"] >= r["scheduled_ns"] for r in of_kind(done.out, "request"))


def test_workload_times_are_kept(sh: Shell, sim: Sim, tmp_path: Path) -> None:
    rows = lines(groups=3, each=1, context=20)
    for number, row in enumerate(rows):
        row["at_s"] = number * 0.1
    work = write(tmp_path / "w", rows)
    done = sh(f"kvload --url {sim.url} --workload {work} --rounds 1 --warmup 0")
    requests = of_kind(done.out, "request")
    first = requests[0]["scheduled_ns"]
    assert [r["scheduled_ns"] - first for r in requests] == [0, 100_000_000, 200_000_000]
    assert of_kind(done.out, "run")[0]["arrival"]["kind"] == "planned"


def test_across_nodes_the_second_round_loads_what_the_first_stored(sh: Shell, work: Path) -> None:
    with cluster() as (store, a, b):
        done = sh(
            f"kvload --url 1={a.url} --url 2={b.url} --metrics-url store={store.url}"
            f" --workload {work} --pause 0"
        )
        assert done.status == 0, done.err
    runs = of_kind(done.out, "run")
    assert [(r["arm"], r["endpoint_url"]) for r in runs] == [
        ("no_reuse", b.url),
        ("cold", a.url),
        ("hit", b.url),
    ]
    assert "🌐 cross-node - endpoint:" in done.err
    requests = {run["run_id"]: [] for run in runs}  # type: Any
    for record in of_kind(done.out, "request"):
        requests[record["run_id"]].append(record)
    control, cold, hit = requests.values()
    assert all(r["cached_tokens"] == 0 for r in control)
    assert [r["cached_tokens"] for r in cold if r["stratum"] == "leader"] == [0, 0]
    for record in hit:
        assert record["cached_tokens"] == record["ideal_prior_tokens"]
        if record["stratum"] == "leader":
            assert record["cached_remote_tokens"] == record["cached_tokens"] > 0
    ends = of_kind(done.out, "end")
    assert [end["barrier"]["state"] for end in ends] == ["quiet"] * 3


def test_tier_store_resets_the_engine_and_only_the_engine(sh: Shell, work: Path) -> None:
    with cluster() as (store, a, _):
        done = sh(
            f"kvload --url {a.url} --engine mooncake={store.url} --tier store --workload {work}"
            " --pause 0"
        )
        assert done.status == 0, done.err
    ends = of_kind(done.out, "end")
    assert ends[0]["reset"]["ok"] is True and ends[1]["reset"] is None
    hit = of_kind(done.out, "request")[6:]
    assert [r["cached_remote_tokens"] > 0 for r in hit if r["stratum"] == "leader"] == [True] * 2
    assert all(r["cached_tokens"] == r["ideal_prior_tokens"] for r in hit)
    roles = [m["role"] for m in of_kind(done.out, "server_metrics")]
    assert roles == ["node", "store"] * 2


def test_tier_store_without_a_reset_is_refused_before_anything_is_measured(
    sh: Shell, work: Path
) -> None:
    with kvsim("--no-dev-mode", *FAST) as closed:
        done = sh(f"kvload --url {closed.url} --tier store --workload {work}")
    assert done.status == 2 and done.out == ""
    assert "VLLM_SERVER_DEV_MODE=1" in done.err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--url http://127.0.0.1:9", "connection refused"),
        ("--model nope --url {url}", "'nope' is not served"),
        ("--workload /nonexistent --url {url}", "no such file"),
        ("--workload {broken} --url {url}", "broken:2"),
        ("--workload {empty} --url {url}", "empty"),
        ("--workload {long} --url {url}", "the warm-up failed"),
        ("--isolation {broken} --url {url}", "broken"),
    ],
)
def test_what_cannot_run_is_one_line_and_exit_2(
    sh: Shell, sim: Sim, work: Path, tmp_path: Path, flags: str, words: str
) -> None:
    row = json.dumps(lines(1, 1)[0])
    (tmp_path / "broken").write_text(f"{row}\n{{nonsense\n")
    (tmp_path / "empty").write_text("")
    write(tmp_path / "long", lines(1, 1, context=140_000))
    places = {name: tmp_path / name for name in ("broken", "empty", "long")}
    given = flags.format(url=sim.url, **places)
    default = "" if "--workload" in given else f"--workload {work}"
    done = sh(f"kvload -q {given} {default}")
    assert (done.status, done.out) == (2, "")
    assert words in done.err and done.err.startswith("kvload: ")
    assert len(done.err.splitlines()) == 1


def test_a_key_is_asked_for_and_never_written(sh: Shell, work: Path, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("sk-secret-4711\n")
    with kvsim("--api-key", "sk-secret-4711", *FAST) as closed:
        refused = sh(f"kvload --url {closed.url} --workload {work}")
        assert refused.status == 2 and "--api-key-file" in refused.err
        done = sh(
            f"kvload --url {closed.url} --workload {work} --pause 0 --api-key-file"
            f" {tmp_path / 'key'}"
        )
    assert done.status == 0, done.err
    assert "sk-secret" not in done.out + done.err


def test_failures_in_the_middle_are_records(sh: Shell, work: Path) -> None:
    with kvsim(*FAST) as sick:
        sick.fault("http_error", "500,3")
        done = sh(f"kvload --url {sick.url} --workload {work} --rounds 1 --warmup 0")
    assert done.status == 1
    (end,) = of_kind(done.out, "end")
    assert end["complete"] and end["failed"] == 2 and end["ok"] == 4
    failed = [r for r in of_kind(done.out, "request") if r["status"] != "ok"]
    assert [(r["status"], r["http_status"]) for r in failed] == [("http_error", 500)] * 2
    assert all(r["error"] for r in failed)
    assert "2 failed" in done.err


def test_quiet_is_not_silent_about_failures(sh: Shell, work: Path) -> None:
    with kvsim(*FAST) as sick:
        sick.fault("http_error", "500,3")
        done = sh(f"kvload -q --url {sick.url} --workload {work} --rounds 1 --warmup 0")
    assert done.status == 1
    assert done.err.startswith("kvload: 2 failed (last: ") and len(done.err.splitlines()) == 1


def test_a_dead_engine_is_refused_before_anything_is_sent(sh: Shell, work: Path) -> None:
    with kvsim(*FAST) as dying:
        dying.fault("engine_death", "1")
        died = sh(f"kvload -q --url {dying.url} --workload {work} --rounds 1 --warmup 0 || true")
        done = sh(f"kvload -q --url {dying.url} --workload {work} --rounds 1 --warmup 0")
    assert (done.status, done.out) == (2, "")
    assert "/health answers 503" in done.err and len(done.err.splitlines()) == 1
    barrier = of_kind(died.out, "end")[0]["barrier"]
    assert (barrier["state"], barrier["waited_s"]) == ("unknown", 0.0), "it will never be at rest"
    assert "the engine is dead" in barrier["reason"]


def test_tolerated_failures_exit_0(sh: Shell, work: Path) -> None:
    with kvsim(*FAST) as sick:
        sick.fault("http_error", "500,3")
        done = sh(
            f"kvload --url {sick.url} --workload {work} --rounds 1 --warmup 0 --max-failures 2"
        )
    assert done.status == 0


def test_output_is_kept_only_on_request(sh: Shell, sim: Sim, work: Path) -> None:
    done = sh(
        f"kvload --url {sim.url} --workload {work} --rounds 1 --warmup 0 --keep-output --round 1"
    )
    assert all(r["output_text"] for r in of_kind(done.out, "request"))


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_stream_properly(
    sim: Sim, tmp_path: Path, signum: signal.Signals
) -> None:
    work = write(tmp_path / "w", lines(groups=40, each=2, max_tokens=200))
    out = tmp_path / "out.jsonl"
    with out.open("wb") as stream:
        process = subprocess.Popen(
            ["kvload", "-q", "--url", sim.url, "--workload", str(work), "--warmup", "0"],
            stdout=stream,
            env=environment(),
        )
        deadline = time.monotonic() + 60
        while out.read_bytes().count(b'"record":"request"') < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signum)
        assert process.wait(30) == -signum
    text = out.read_text()
    assert kinds(text)[0] == "run" and kinds(text)[-1] == "end"
    (end,) = of_kind(text, "end")
    assert end["complete"] is False and end["reason"] == signum.name
    requests = of_kind(text, "request")
    assert 2 <= len(requests) < 80
    assert [r["status"] for r in requests].count("cancelled") == 1


def test_every_record_is_out_while_the_run_goes_on(sim: Sim, tmp_path: Path) -> None:
    work = write(tmp_path / "w", lines(groups=4, each=1, max_tokens=100))
    process = subprocess.Popen(
        ["kvload", "-q", "--url", sim.url, "--workload", str(work), "--rounds", "1"],
        stdout=subprocess.PIPE,
        env=environment(),
    )
    assert process.stdout is not None
    seen = [json.loads(process.stdout.readline())["record"] for _ in range(2)]
    assert seen == ["run", "request"]
    assert process.poll() is None, "the first record came only when all was over"
    process.stdout.read()
    process.stdout.close()
    assert process.wait(60) == 0


def test_a_reader_that_goes_away_ends_the_run(sh: Shell, sim: Sim, tmp_path: Path) -> None:
    work = write(tmp_path / "w", lines(groups=30, each=2, max_tokens=100))
    done = sh(f"kvload -q --url {sim.url} --workload {work} --warmup 0 | head -n 1")
    assert done.status == 141
    assert done.err == "" and kinds(done.out) == ["run"]


def test_several_scenarios_without_isolation_are_warned_of(
    sh: Shell, sim: Sim, tmp_path: Path
) -> None:
    config = tmp_path / "c.yaml"
    config.write_text(
        f"proxy: {{url: '{sim.url}'}}\n"
        "default_scenarios: [cold_start, batch_processing]\n"
        "scenarios:\n"
        "  cold_start: {requests: 2, context_tokens: 200, output_tokens: 2}\n"
        "  batch_processing: {requests: 2, context_tokens: 200, output_tokens: 2}\n"
        "isolation: {salt: none}\n"
        "pause_between_rounds: 0\n"
    )
    warned = sh(f"kvload --config {config} --warmup 0")
    assert "WARNING: 2 scenarios and no isolation" in warned.err
    salted = sh(f"kvload --config {config} --warmup 0 --salt auto")
    assert "WARNING" not in salted.err and salted.status == 0, salted.err
    assert {r["scenario"] for r in of_kind(salted.out, "run")} == {"cold_start", "batch_processing"}
    one = sh(f"kvload --config {config} --warmup 0 --scenarios cold_start")
    assert "WARNING" not in one.err and one.status == 0
