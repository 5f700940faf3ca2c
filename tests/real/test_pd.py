"""A real prefiller and a real decoder: vLLM's NixlConnector on CPU, behind kvsim's proxy.

The proxy has the flow of vLLM's toy proxy, and nothing behind it is simulated. stack/nodes.py
--connector nixl starts it; stack/install.sh --with-nixl installs what it needs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.real.conftest import check
from tests.real.engine import Node, call, random_prompt, samples, stack_up, usage_of, whole_blocks
from tests.real.pipeline import Done, measure

pytestmark = [pytest.mark.real, pytest.mark.usefixtures("installed_stack")]

LENGTH = 400
SENTINELS = 2
REQUESTS = 4
SHAPE = (
    f"--scenario cold_start --requests {REQUESTS} --sentinels {SENTINELS} --context-tokens 400"
    " --output-tokens 6 --pause 0 --warmup 0"
)
NO_DOUBT = {"client_limited", "drift"}
"""What a busy machine may add."""


@dataclass(frozen=True, kw_only=True)
class Pd:
    prefiller: Node
    decoder: Node
    proxy: Node

    @property
    def watched(self) -> str:
        return f"--metrics-url prefill={self.prefiller.url} --metrics-url decode={self.decoder.url}"

    def transfers(self) -> float:
        name = "vllm:nixl_xfer_time_seconds_count"
        return sum(samples(f"{self.decoder.url}/metrics", name).values())


@pytest.fixture(scope="module")
def pd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pd]:
    check("--connector", "nixl")
    with stack_up(tmp_path_factory.mktemp("nixl"), "--connector", "nixl") as up:
        prefiller, decoder, proxy = (
            Node(url=url, model=up["model"]) for url in (*up["nodes"], up["proxy"])
        )
        yield Pd(prefiller=prefiller, decoder=decoder, proxy=proxy)


@pytest.fixture(scope="module")
def done(pd: Pd, tmp_path_factory: pytest.TempPathFactory) -> Done:
    """Cold and hit through the proxy, with the counters of both halves."""
    folder = tmp_path_factory.mktemp("measured")
    return measure(folder, f"kvload -q --url {pd.proxy.url} {SHAPE} {pd.watched}")


def answer(node: Node, prompt: list[int], **more: Any) -> dict[str, Any]:
    body = {"model": node.model, "prompt": prompt, "max_tokens": 8, "temperature": 0}
    told = call(f"{node.url}/v1/completions", body | {"ignore_eos": True} | more)
    assert isinstance(told, dict)
    return told


def test_the_decoder_goes_on_where_the_prefiller_ended(pd: Pd) -> None:
    """The KV that came over is the KV that was computed: the answers are one server's own."""
    prompt, before = random_prompt("pd", LENGTH), pd.transfers()
    apart = answer(pd.proxy, prompt, return_token_ids=True)
    alone = answer(pd.prefiller, prompt, return_token_ids=True)
    assert apart["choices"][0]["token_ids"] == alone["choices"][0]["token_ids"]
    assert pd.transfers() == before + 1
    assert usage_of(apart).cached_tokens == 0
    assert usage_of(answer(pd.proxy, prompt)).cached_tokens == whole_blocks(LENGTH)


def test_the_phases_come_from_real_counters(pd: Pd, done: Done) -> None:
    for arm in ("cold", "hit"):
        one = done.round_of(arm)
        phases = one.stats["phases"]
        assert (phases["flow"]["name"], phases["flow"]["how"]) == ("vllm", "tokens")
        for name in ("queue_s", "prefill_s", "transfer_s", "decode_s"):
            phase = phases[name]
            assert (phase["how"], phase["n"]) == ("measured", REQUESTS + SENTINELS), name
            assert phase["mean"] > 0
        assert phases["transfer_s"]["counter"] == "vllm:nixl_xfer_time_seconds"
        assert phases["decode_s"]["per_request"]["n"] == REQUESTS + SENTINELS
        inside = phases["prefill_s"]["mean"] + phases["transfer_s"]["mean"]
        ttfts = [one["first_token_ns"] - one["sent_ns"] for one in one.requests]
        assert inside <= sum(ttfts) / len(ttfts) / 1e9, "TTFT holds both"
    cold, hit = (done.round_of(arm).stats["phases"] for arm in ("cold", "hit"))
    assert hit["prefill_s"]["mean"] < 0.7 * cold["prefill_s"]["mean"] + 0.05


def test_cold_and_hit_are_the_prefillers_and_proven(done: Done) -> None:
    """vLLM 0.32 hands on what the prefiller had cached, so that no sentinel is a fake hit."""
    cold, hit = done.round_of("cold"), done.round_of("hit")
    assert (cold.stats["cold_proof"], hit.stats["tier_served"]) == ("proven", "local")
    assert cold.run["simulated"] is False and cold.run["engine"] == "vllm"
    for one in (cold, hit):
        assert [each["cached_tokens"] for each in one.of("sentinel")] == SENTINELS * [0]
        assert one.findings().keys() <= NO_DOUBT, one.findings()
    assert all(one["cached_local_tokens"] == one["cached_tokens"] > 0 for one in hit.own)


def test_a_decoder_that_is_not_told_reports_fake_hits_and_is_found_out(
    pd: Pd, tmp_path: Path
) -> None:
    """The same pair behind a proxy that keeps the prefiller's count to itself."""
    call(f"{pd.proxy.url}/kvsim/fault", {"name": "hide_cached"})
    try:
        done = measure(tmp_path, f"kvload -q --url {pd.proxy.url} {SHAPE} {pd.watched} --rounds 1")
    finally:
        call(f"{pd.proxy.url}/kvsim/fault", method="DELETE")
    cold = done.round_of("cold")
    assert cold.findings()["pd_transfer"] == "warning"
    assert cold.stats["hit_ratio"] > 0.9, "of prompts that nobody had sent before"
    assert cold.stats["cold_proof"] == "proven", "by the prefiller's counters"
    assert cold.stats["served"]["computed"] == sum(one["prompt_tokens"] for one in cold.requests)
