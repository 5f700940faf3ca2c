"""PD disaggregation from end to end: kvload, kvstats and kvreport on a simulated pair, both flows.

Held against the log of the truth of each server, never against milliseconds.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.family import environment
from tests.simulated import Sim, kvsim

PACE = ("--prefill-tps", "20000", "--step-ms", "4", "--overhead-ms", "2")
LINK = ("--load-latency-ms", "60", "--load-ms-per-block", "0")
"""Fifteen steps: what holds the transfer cannot be mistaken."""
SHAPE = (
    "--scenario long_context_high_reuse --requests 8 --contexts 3 --context-tokens 500"
    " --output-tokens 5 --sentinels 3 --pause 0 --warmup 0"
)


@dataclass(frozen=True)
class Pd:
    prefiller: Sim
    decoder: Sim
    proxy: Sim

    @property
    def watched(self) -> str:
        return f"--metrics-url prefill={self.prefiller.url} --metrics-url decode={self.decoder.url}"


@contextlib.contextmanager
def pair(flow: str, *flags: str) -> Iterator[Pd]:
    with contextlib.ExitStack() as stack:
        halves = [
            stack.enter_context(kvsim("--role", role, "--flow", flow, *PACE, *LINK, *flags))
            for role in ("prefill", "decode")
        ]
        behind = ("--prefiller", halves[0].url, "--decoder", halves[1].url)
        proxy = stack.enter_context(kvsim("--role", "proxy", "--flow", flow, *behind))
        yield Pd(halves[0], halves[1], proxy)


def pipe(command: str) -> list[dict[str, Any]]:
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        capture_output=True, env=environment(), timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{command}\n{done.stderr.decode()}"
    return [json.loads(line) for line in done.stdout.splitlines()]


def measured(pd: Pd, folder: Path, flags: str = "") -> list[dict[str, Any]]:
    """Stats of the rounds; the records stay in ``records.jsonl``."""
    return pipe(
        f"kvload -q --url {pd.proxy.url} {SHAPE} {flags} | tee {folder}/records.jsonl | kvstats"
    )


def codes(stats: dict[str, Any]) -> set[str]:
    return {one["code"] for one in stats["findings"]}


def truth(sim: Sim) -> list[dict[str, Any]]:
    lines = map(json.loads, sim.get("/kvsim/truth").splitlines())
    return [one for one in lines if one["status"] == 200]


@pytest.fixture(scope="module")
def by_vllm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Pd, list[dict[str, Any]]]]:
    with pair("vllm", "--per-request-metrics") as pd:
        yield pd, measured(pd, tmp_path_factory.mktemp("vllm"), pd.watched)


@pytest.fixture(scope="module")
def by_lmcache(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Pd, list[dict[str, Any]]]]:
    with pair("lmcache") as pd:
        yield pd, measured(pd, tmp_path_factory.mktemp("lmcache"), pd.watched)


Measured = tuple[Pd, list[dict[str, Any]]]


def test_the_phases_come_from_the_engines_own_counters(by_vllm: Measured) -> None:
    pd, rounds = by_vllm
    assert [one["phases"]["flow"]["name"] for one in rounds] == ["vllm", "vllm"]
    for stats in rounds:
        for name in ("queue_s", "prefill_s", "transfer_s", "decode_s"):
            phase = stats["phases"][name]
            assert (phase["how"], phase["n"]) == ("measured", 11), name
        assert stats["phases"]["transfer_s"]["counter"] == "vllm:nixl_xfer_time_seconds"
        assert stats["phases"]["decode_s"]["per_request"]["n"] == 11
    moved = [one["transfer_s"] for one in truth(pd.decoder)][-22:]
    told = sum(one["phases"]["transfer_s"]["mean"] * 11 for one in rounds)
    assert told == pytest.approx(sum(moved), rel=0.01)
    cold, hit = rounds
    assert hit["phases"]["prefill_s"]["mean"] < 0.8 * cold["phases"]["prefill_s"]["mean"]


def test_ttft_holds_the_transfer_behind_vllms_proxy(by_vllm: Measured) -> None:
    _, rounds = by_vllm
    for stats in rounds:
        phases, timings = stats["phases"], stats["timings"]
        assert timings["ttft_s"]["mean"] > phases["transfer_s"]["mean"]
        assert timings["second_token_s"]["p50"] < 0.5 * phases["transfer_s"]["mean"]


def test_reuse_is_the_prefillers_and_proven_by_its_counters(by_vllm: Measured) -> None:
    """Sentinels report nothing: this version hands on what the prefiller had cached."""
    _, (cold, hit) = by_vllm
    assert (cold["cold_proof"], hit["tier_served"], hit["efficiency"]) == ("proven", "local", 1.0)
    busy = {"client_limited"}  # of a machine that runs other tests besides
    assert codes(cold) - busy == codes(hit) - busy == {"simulated"}
    assert hit["served"]["external"] == 0 and hit["leaders_served"]["local"] > 0


def test_a_decoders_fake_hits_are_found_by_sentinels(tmp_path: Path) -> None:
    """As behind MooncakeConnector's proxy, and before vLLM 0.28."""
    with pair("vllm", "--vllm-version", "0.27.1") as pd:
        [blind] = measured(pd, tmp_path, "--rounds 1")
        assert codes(blind) >= {"pd_transfer", "cold_not_shown"}
        assert blind["hit_ratio"] > 0.99, "of a round in which nothing was reused before"
        [seen] = measured(pd, tmp_path, f"--rounds 1 {pd.watched}")
    assert codes(seen) - {"client_limited"} == {"pd_transfer", "simulated"}
    assert seen["cold_proof"] == "proven", "by the prefiller's counters"


def test_token_1_before_the_transfer_is_recognised(by_lmcache: Measured) -> None:
    pd, rounds = by_lmcache
    for stats in rounds:
        phases, timings = stats["phases"], stats["timings"]
        assert (phases["flow"]["name"], phases["flow"]["how"]) == ("lmcache", "tokens")
        assert codes(stats) >= {"pd_transfer", "token_first"}
        assert phases["prefill_s"]["how"] == phases["decode_s"]["how"] == "measured"
        assert phases["transfer_s"]["how"] == "estimate"
        assert timings["second_token_s"]["p50"] >= 0.06, "the transfer stands in the first gap"
        assert phases["transfer_s"]["mean"] == pytest.approx(0.06, abs=0.05)
    assert rounds[0]["cold_proof"] == "proven"
    first = [one["first_token_ns"] - one["prefilled_ns"] for one in truth(pd.proxy)]
    assert max(first) < 0.06e9, "token 1 waits for no transfer"


def test_the_flow_is_seen_in_the_gaps_where_tokens_do_not_tell(
    by_lmcache: Measured, tmp_path: Path
) -> None:
    pd, _ = by_lmcache
    only = f"--metrics-url decode={pd.decoder.url} --rounds 1"
    [stats] = measured(pd, tmp_path, only)
    assert stats["phases"]["flow"]["how"] == "timing"
    assert stats["phases"]["flow"]["name"] == "lmcache"
    assert stats["phases"]["prefill_s"]["how"] == "estimate"


def test_the_flag_makes_lmcaches_proxy_measurable_without_any_metrics(
    by_lmcache: Measured, tmp_path: Path
) -> None:
    """Its prefiller refuses min_tokens above one token: they are left out."""
    pd, _ = by_lmcache
    done = subprocess.run(
        f"kvload -q --url {pd.proxy.url} {SHAPE} --rounds 1".split(),
        capture_output=True, env=environment(), timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 1 and b"11 failed" in done.stderr
    [stats] = measured(pd, tmp_path, "--rounds 1 --pd-flow lmcache")
    assert stats["failed_requests"] == 0
    assert stats["phases"]["flow"]["how"] == "asked"
    assert stats["phases"]["prefill_s"]["how"] == "estimate"
    assert stats["phases"]["transfer_s"] is None


def test_a_proxy_that_lists_no_models_is_asked_about_behind_it(
    by_vllm: Measured, tmp_path: Path
) -> None:
    """vLLM's toy proxy and LMCache's have nothing but the two ways to generate."""
    pd, _ = by_vllm
    pd.proxy.fault("no_models")
    [stats] = measured(pd, tmp_path, f"--rounds 1 {pd.watched}")
    run = stats["run"]
    assert (run["model"], run["engine"], run["simulated"]) == ("sim", "kvsim", True)
    assert (run["block_tokens"], stats["cold_proof"]) == (16, "proven")
