"""The peers: their reports as they write them, and what is made of them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from bench.against import figures_of
from bench.loads import HUNDRED, BenchError, Load
from bench.peers import PEERS, Peer, Told, environment_of
from bench.server import Served, read_truth
from bench.watched import Watched
from tests.family import ROOT

MS = 1_000_000
FLAT_JSON = {"p50_ttft_ms": 210.0, "p99_ttft_ms": 250.0, "p99_itl_ms": 21.0}
SGLANG = {"median_ttft_ms": 210.0, "p99_ttft_ms": 250.0, "p99_itl_ms": 21.0}
PERCENTILES = {"p50": 210.0, "p99": 250.0}
REPORTS: dict[str, tuple[str, Any]] = {
    "vllm bench serve": ("result.json", FLAT_JSON),
    "sglang (Python)": ("result.json", SGLANG),
    "sglang (Rust)": ("result.json", SGLANG),
    "guidellm": (
        "result.json",
        {"benchmarks": [{"metrics": {"time_to_first_token_ms": {
            "successful": {"percentiles": PERCENTILES}}}}]},
    ),
    "aiperf": ("profile_export_aiperf.json", {"time_to_first_token": PERCENTILES}),
    "evalscope perf": (
        "flat/parallel_1_number_2/benchmark_percentile.json",
        [{"Percentiles": "50%", "TTFT (ms)": 210.0}, {"Percentiles": "99%", "TTFT (ms)": 250.0}],
    ),
    "inference-perf": (
        "report/summary_lifecycle_metrics.json",
        {"successes": {"latency": {"time_to_first_token": {"median": 0.21, "p99": 0.25}}}},
    ),
}  # fmt: skip


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
def test_a_report_is_read_in_ms(peer: Peer, tmp_path: Path) -> None:
    name, report = REPORTS[peer.name]
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text(json.dumps(report))
    told = peer.read(tmp_path)
    assert (told.ttft_p50, told.ttft_p99) == (210.0, 250.0)


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
def test_a_command_asks_for_the_load(peer: Peer, tmp_path: Path) -> None:
    words = peer.command(HUNDRED, "http://127.0.0.1:1", tmp_path)
    said = " ".join(words)
    if peer.name == "inference-perf":
        said += (tmp_path / "config.yaml").read_text()
    assert words[0].startswith(str(ROOT / ".venv-peers" / peer.environment))
    for part in ("http://127.0.0.1:1", str(HUNDRED.streams), str(HUNDRED.requests), "64"):
        assert part in said


def test_every_environment_is_pinned() -> None:
    pins = (ROOT / "bench" / "peers-requirements.txt").read_text()
    named = set(re.findall(r"^([a-z-]+)[:!] ", pins, re.MULTILINE))
    assert named == {peer.environment for peer in PEERS}
    for peer in PEERS:
        assert re.search(rf"^{peer.environment}: .*{peer.package}(\[\w+\])?==", pins, re.MULTILINE)


def test_a_peer_that_is_not_there_says_how_to_get_it() -> None:
    peer = Peer(name="x", environment="no-such", package="x", command=_no_words, read=_nothing)
    assert peer.why_not() == "not installed (bench/install-peers.sh)"
    assert peer.version() is None


def _no_words(load: Load, url: str, folder: Path) -> list[str]:
    return []


def _nothing(folder: Path) -> Told:
    return Told(ttft_p50=None, ttft_p99=None)


def test_no_proxy_stands_between() -> None:
    found = environment_of(PEERS[0], {"HTTPS_PROXY": "x", "http_proxy": "x", "HOME": "/h"})
    assert not [key for key in found if "proxy" in key.lower()]
    assert (found["HOME"], found["HF_HUB_OFFLINE"]) == ("/h", "1")


def served(number: int, read_ms: int) -> Served:
    first = read_ms + 200
    return Served(
        request_id=str(number), read_ns=read_ms * MS, write_ns=[first * MS, (first + 20) * MS],
        end_ns=(first + 20) * MS,
    )  # fmt: skip


TWO = Load(name="two", streams=1, requests=2, ttft_ms=200, itl_ms=20, tokens=2)
DONE = Watched(
    command=[], status=0, stdout=b"", stderr=b"", start_ns=0, end_ns=2000 * MS, cpu_s=2.0,
    peak_mb=9.0, looks=[],
)  # fmt: skip


def test_reported_less_truth_and_cost_without_the_start() -> None:
    told = Told(ttft_p50=230.0, ttft_p99=240.0, gap_p99=20.5)
    probe, first, second = served(0, 500), served(1, 1000), served(2, 1280)
    found = figures_of(told, [probe, first, second], DONE, TWO)
    assert found["ttft_p50"] == pytest.approx(30.0)
    assert found["ttft_p99"] == pytest.approx(40.0)
    assert found["gap_p99"] == pytest.approx(0.5)
    assert found["rps"] == pytest.approx(2 / 0.5)
    assert found["cpu_loaded"] == pytest.approx(0.5 / 4 * 1e5)
    assert found["cpu_whole"] == pytest.approx(1.0 / 4 * 1e5)
    assert found["start_s"] == pytest.approx(1.0)


def test_what_was_not_told_is_not_there() -> None:
    told = Told(ttft_p50=230.0, ttft_p99=None)
    found = figures_of(told, [served(1, 1000), served(2, 1280)], DONE, TWO)
    assert "ttft_p99" not in found
    assert "gap_p99" not in found


def test_another_load_than_was_asked_is_no_comparison() -> None:
    told = Told(ttft_p50=230.0, ttft_p99=240.0)
    with pytest.raises(BenchError, match="1 of 2 requests"):
        figures_of(told, [served(1, 1000)], DONE, TWO)
    long = Load(name="long", streams=1, requests=2, ttft_ms=200, itl_ms=20, tokens=3)
    with pytest.raises(BenchError, match="4 chunks, not 6"):
        figures_of(told, [served(1, 1000), served(2, 1280)], DONE, long)


def test_the_truth_is_read_in_the_order_of_arrival(tmp_path: Path) -> None:
    path = tmp_path / "truth.jsonl"
    rows = [
        {"request_id": "late", "read_ns": 20, "write_ns": [30], "end_ns": 40},
        {"request_id": "cut", "read_ns": 5, "write_ns": [], "end_ns": None},
        {"request_id": "early", "read_ns": 10, "write_ns": [15, 25], "end_ns": 50},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [row.request_id for row in read_truth(path)] == ["early", "late"]
