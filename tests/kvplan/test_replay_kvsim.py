"""Replays through the whole pipe: the engine has cached what the trace says can be shared."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.family import ROOT
from tests.simulated import Sim, kvsim

Shell = Callable[..., Any]
Json = dict[str, Any]
TRACE = ROOT / "tests" / "data" / "traces" / "conversation_trace.jsonl.gz"
QUICK = (
    *("--overhead-ms", "0", "--prefill-tps", "1e9", "--step-ms", "0"),
    *("--decode-ms-per-seq", "0", "--capacity-blocks", "100000"),
)


@pytest.fixture(scope="module")
def roomy() -> Iterator[Sim]:
    """An engine that never evicts here, and takes no time."""
    with kvsim(*QUICK) as engine:
        yield engine


def replayed(sh: Shell, url: str, plan: str, load: str, folder: Path) -> tuple[Json, list[Json]]:
    """The run record and the requests of one cold round over a plan."""
    done = sh(
        f"kvplan --trace {TRACE} --output-tokens 1 {plan} > plan.jsonl;"
        f" kvload --url {url} --workload plan.jsonl --rounds 1 --warmup 0 {load} > run.jsonl",
        cwd=folder,
    )
    assert done.status == 0, done.err
    records = [json.loads(line) for line in (folder / "run.jsonl").read_text().splitlines()]
    return records[0], [record for record in records if record["record"] == "request"]


def planned(folder: Path) -> list[Json]:
    return [json.loads(line) for line in (folder / "plan.jsonl").read_text().splitlines()][1:]


def tree_hits(folder: Path, block: int = 16) -> list[int]:
    """Tokens that an unlimited cache of whole blocks gives each prompt, from the ids alone."""
    known: set[tuple[int, ...]] = set()
    hits = []
    for request in planned(folder):
        ids = request["prompt"]
        whole = [tuple(ids[: at + block]) for at in range(0, len(ids) - block + 1, block)]
        found = 0
        while found < len(whole) and whole[found] in known:
            found += 1
        hits.append(min(found, (len(ids) - 1) // block) * block)
        known.update(whole)
    return hits


def test_a_serial_replay_hits_the_ideal_request_by_request(
    sh: Shell, roomy: Sim, tmp_path: Path
) -> None:
    run, requests = replayed(
        sh,
        roomy.url,
        "--scale 1/32 --window 1800-1890 --api completions",
        "--api completions --concurrency 1",
        tmp_path,
    )
    requests.sort(key=lambda one: one["index"])
    assert run["arrival"]["kind"] == "serial" and run["scenario"] == "trace"
    assert 290 < len(requests) < 400 and {one["status"] for one in requests} == {"ok"}
    cached = [one["cached_tokens"] for one in requests]
    assert cached == [one["ideal_in_round_lo"] for one in requests]
    assert cached == [one["ideal_in_round_hi"] for one in requests]
    assert cached == tree_hits(tmp_path)
    assert sum(cached) > 0.05 * sum(one["prompt_tokens"] for one in requests)
    stats = json.loads(sh(f"kvstats {tmp_path}/run.jsonl").out)
    assert stats["cold_proof"] == "proven"
    assert stats["hit_ratio"] == pytest.approx(stats["ideal_hit_ratio"])


def test_a_replay_as_chat_is_as_exact(sh: Shell, roomy: Sim, tmp_path: Path) -> None:
    _, requests = replayed(
        sh,
        roomy.url,
        f"--scale 1/8 --window 1800-1815 --sentinels 3 --seed 7 --url {roomy.url}",
        "--concurrency 1",
        tmp_path,
    )
    assert len(requests) > 40
    for request, plan in zip(
        sorted(requests, key=lambda one: one["index"]), planned(tmp_path), strict=True
    ):
        assert request["prompt_tokens"] == plan["prompt_tokens"]
        assert request["cached_tokens"] == request["ideal_in_round_lo"]
    assert sum(one["cached_tokens"] for one in requests) > 0


def test_an_open_loop_keeps_the_traces_times(sh: Shell, roomy: Sim, tmp_path: Path) -> None:
    run, requests = replayed(
        sh,
        roomy.url,
        "--scale 1/32 --window 1800-1840 --speedup 20 --spread --seed 3 --api completions",
        "--api completions",
        tmp_path,
    )
    assert run["arrival"]["kind"] == "planned"
    due = {plan["index"]: plan["at_s"] for plan in planned(tmp_path)}
    start = min(one["scheduled_ns"] for one in requests)
    for request in requests:
        at_s = (request["scheduled_ns"] - start) / 1e9
        assert at_s == pytest.approx(due[request["index"]] - min(due.values()), abs=1e-6)
        assert request["sent_ns"] >= request["scheduled_ns"]
        bounds = request["ideal_in_round_lo"], request["ideal_in_round_hi"]
        assert bounds[0] <= request["cached_tokens"] <= bounds[1]
    assert len(set(due.values())) == len(due) > 100, "no two at once any more"


def test_conversations_of_ones_own_hit_turn_by_turn(sh: Shell, roomy: Sim, tmp_path: Path) -> None:
    """Text that no seed made: the run says so, and kvreport that repeats had the same."""
    talks = [
        {
            "conversations": [
                {"from": who, "value": f"{who} {talk} {turn} " + "some words of theirs " * 30}
                for turn in range(3)
                for who in ("human", "gpt")
            ]
        }
        for talk in range(4)
    ]
    (tmp_path / "talks.json").write_text(json.dumps(talks))
    done = sh(
        f"kvplan --conversations talks.json --output-tokens 2 --seed 3 --url {roomy.url} |"
        f" kvload --url {roomy.url} --workload - --rounds 1 --warmup 0 --concurrency 3 > run.jsonl",
        cwd=tmp_path,
    )
    assert done.status == 0, done.err
    run, *rest = map(json.loads, (tmp_path / "run.jsonl").read_text().splitlines())
    assert (run["seed"], run["scenario"], run["calibrated"]) == (None, "conversations", "tokenize")
    requests = [one for one in rest if one["record"] == "request"]
    assert len(requests) == 12 + 3
    for one in requests:
        assert one["ideal_in_round_lo"] <= one["cached_tokens"] <= one["ideal_in_round_hi"]
    late = [one for one in requests if (one["turn"] or 0) > 1]
    assert len(late) == 8 and all(one["cached_tokens"] > 100 for one in late)
    for one in late:
        (before,) = [
            other
            for other in requests
            if other["group"] == one["group"] and other["turn"] == one["turn"] - 1
        ]
        assert before["end_ns"] <= one["sent_ns"]


def test_bare_lines_have_no_seed(sh: Shell, roomy: Sim, tmp_path: Path) -> None:
    done = sh(
        """echo '{"prompt": "hello there"}' |"""
        f" kvload --url {roomy.url} --workload - --api completions --rounds 1 --warmup 0",
        cwd=tmp_path,
    )
    assert json.loads(done.out.splitlines()[0])["seed"] is None
