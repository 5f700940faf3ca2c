"""Prefiller, decoder and proxy: who computes, who loads, who sends token 1, and what is counted.

Flow ``vllm`` after vLLM's toy_proxy_server.py, flow ``lmcache`` after LMCache's
disagg_proxy_server.py; metrics and ``kv_transfer_params`` after a vLLM 0.32.0 with NixlConnector.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.kvsim.conftest import FAST, Reply, Sim, running, words

from kvengine.counters import counter, snapshot_of

LINK = ("--load-latency-ms", "100", "--load-ms-per-block", "0")
"""A transfer that takes a tenth of a second, whatever it holds: long beside FAST's steps."""
LENGTH = 320
CAPTURE = Path(__file__).parents[1] / "data/captures/vllm_metrics_nixl_decoder.txt"
BLOCK = 16
TO_DECODER = {"do_remote_decode": True, "do_remote_prefill": False}


@dataclass
class Pair:
    """One prefiller, one decoder, one proxy."""

    prefiller: Sim
    decoder: Sim
    proxy: Sim


@contextmanager
def pair(flow: str, *flags: str) -> Iterator[Pair]:
    with ExitStack() as stack:

        def begin(*more: str) -> Sim:
            return stack.enter_context(running(*more, "--flow", flow))

        halves = [begin("--role", role, *FAST, *LINK, *flags) for role in ("prefill", "decode")]
        urls = ("--prefiller", halves[0].url, "--decoder", f"{halves[1].url}/v1")
        yield Pair(halves[0], halves[1], begin("--role", "proxy", *urls))


@pytest.fixture(scope="module")
def vllm() -> Iterator[Pair]:
    with pair("vllm") as made:
        yield made


@pytest.fixture(scope="module")
def lmcache() -> Iterator[Pair]:
    with pair("lmcache") as made:
        yield made


def told(reply: Reply) -> list[Any]:
    """Events of a proxy's stream, which calls itself application/json."""
    assert reply.headers["content-type"] == "application/json"
    return reply.events


def text_of(events: list[Any]) -> str:
    chunks = [event for event in events if event != "[DONE]" and event["choices"]]
    return "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)


def usage_of(events: list[Any]) -> dict[str, Any]:
    assert events[-1] == "[DONE]"
    usage: dict[str, Any] = events[-2]["usage"]
    return usage


def moved(sim: Sim, ask: Callable[[], object], *names: str) -> list[float]:
    """How much counters rise while something is asked."""
    before = [sim.metric(f"vllm:{name}") for name in names]
    ask()
    return [sim.metric(f"vllm:{name}") - old for name, old in zip(names, before, strict=True)]


def by_source(sim: Sim) -> dict[str, float]:
    name = "vllm:prompt_tokens_by_source_total"
    sources = ("local_compute", "local_cache_hit", "external_kv_transfer")
    return {source: sim.metric(name, source=source) for source in sources}


# --- flow vllm -----------------------------------------------------------------------------------


def test_the_decoder_loads_what_the_prefiller_computed(vllm: Pair) -> None:
    prompt, before = words(LENGTH, 100), by_source(vllm.decoder)
    usage = usage_of(told(vllm.proxy.chat(prompt)))
    after = by_source(vllm.decoder)
    change = {name: after[name] - before[name] for name in after}
    template = usage["prompt_tokens"]
    assert change == {
        "local_compute": 0, "local_cache_hit": 0, "external_kv_transfer": template
    }  # fmt: skip


def test_answers_are_those_of_one_server(vllm: Pair, node: Sim) -> None:
    prompt = words(LENGTH, 200)
    body = {"prompt": prompt, "max_tokens": 5, "temperature": 0, "ignore_eos": True}
    alone = node.call("POST", "/v1/completions", body).json
    apart = vllm.proxy.call("POST", "/v1/completions", body).json
    assert apart["choices"][0]["text"] == alone["choices"][0]["text"]
    assert text_of(told(vllm.proxy.chat(prompt))) == text_of(node.chat(prompt).events)


def test_the_first_token_waits_for_the_transfer(vllm: Pair) -> None:
    headers = {"X-Request-Id": "waits"}
    reply = vllm.proxy.chat(words(LENGTH, 300), headers=headers)
    assert reply.status == 200
    own, there = (
        next(one for one in sim.truth() if one["request_id"] == "waits")
        for sim in (vllm.proxy, vllm.decoder)
    )
    assert there["transfer_s"] >= 0.1
    assert own["first_token_ns"] - own["prefilled_ns"] >= there["transfer_s"] * 1e9
    assert len(own["write_ns"]) == 4, "a stamp for each token"
    first, second = own["write_ns"][:2]
    assert second - first < first - own["prefilled_ns"], "no gap behind token 1 holds it"


def test_a_transfer_is_counted_as_nixl_counts_it(vllm: Pair) -> None:
    names = ("xfer_time_seconds_count", "xfer_time_seconds_sum", "bytes_transferred_sum")
    count, seconds, size = moved(
        vllm.decoder,
        lambda: vllm.proxy.chat(words(LENGTH, 400)),
        *(f"nixl_{name}" for name in names),
    )
    assert count == 1 and seconds >= 0.1
    assert size == -(-(LENGTH + 11) // BLOCK) * BLOCK * 4096
    assert vllm.prefiller.metric("vllm:nixl_xfer_time_seconds_count") == 0


def test_usage_says_what_the_prefiller_had_cached(vllm: Pair) -> None:
    """vLLM since 0.28, where the proxy hands kv_transfer_params on."""
    prompt = words(LENGTH, 500)
    cold, hit = (usage_of(told(vllm.proxy.chat(prompt))) for _ in range(2))
    assert cold["prompt_tokens_details"]["cached_tokens"] == 0
    assert hit["prompt_tokens_details"]["cached_tokens"] == (LENGTH + 11 - 1) // BLOCK * BLOCK


def test_usage_that_is_not_told_reports_the_transfer(vllm: Pair) -> None:
    """As behind proxies that hand less on, and before vLLM 0.28."""
    vllm.proxy.fault("hide_cached")
    try:
        usage = usage_of(told(vllm.proxy.chat(words(LENGTH, 600))))
    finally:
        vllm.proxy.call("DELETE", "/kvsim/fault")
    assert usage["prompt_tokens_details"]["cached_tokens"] == usage["prompt_tokens"]


def test_the_prefiller_computes_one_token_and_lets_its_blocks_go(vllm: Pair) -> None:
    made = moved(
        vllm.prefiller,
        lambda: vllm.proxy.chat(words(LENGTH, 700), min_tokens=4),
        "generation_tokens_total",
    )
    assert made == [1], "max_tokens 1, and no min_tokens"
    vllm.prefiller.reset()


def test_what_nobody_fetches_is_held_then_let_go_and_counted() -> None:
    with pair("vllm", "--kv-hold-s", "1") as made:
        body = {"prompt": words(LENGTH), "max_tokens": 1, "kv_transfer_params": TO_DECODER}
        handoff = made.prefiller.call("POST", "/v1/completions", body).json["kv_transfer_params"]
        assert handoff["do_remote_prefill"] is True
        assert (handoff["remote_num_tokens"], handoff["remote_prefill_cached_tokens"]) == (
            LENGTH,
            0,
        )
        assert made.prefiller.call("POST", "/reset_prefix_cache").json == {"success": False}
        made.prefiller.wait_for("vllm:nixl_num_kv_expired_reqs_total", 1)
        made.prefiller.reset()
        late = made.decoder.call("POST", "/v1/completions", {**body, "kv_transfer_params": handoff})
        assert late.status == 500, "--kv-load-failure-policy fail"
        assert made.decoder.metric("vllm:nixl_num_failed_transfers_total") == 1


def test_a_refusal_of_the_prefiller_is_a_bare_500_and_of_the_decoder_a_cut(vllm: Pair) -> None:
    body = {"prompt": "a", "max_tokens": 4}
    assert vllm.proxy.call("POST", "/v1/completions", {**body, "temperature": -1}).status == 500
    refused = vllm.proxy.call("POST", "/v1/completions", {**body, "max_tokens": 10**9})
    assert (refused.status, refused.whole, refused.body) == (200, False, b"")


def transfer_series(page: str) -> set[str]:
    """Names and labels of NixlConnector's series, without the values, and without the model."""
    lines = [line.rpartition(" ")[0] for line in page.splitlines() if line.startswith("vllm:nixl")]
    return {re.sub(r'model_name="[^"]*"', "", line) for line in lines}


def test_the_series_are_those_of_a_real_decoder(vllm: Pair) -> None:
    """vLLM 0.32.0 with nixl 1.5.1: the same names, labels and buckets."""
    real = CAPTURE.read_text(encoding="utf-8")
    for half in (vllm.prefiller, vllm.decoder):
        own = half.call("GET", "/metrics").body.decode()
        assert transfer_series(own) == transfer_series(real)


def test_our_tools_read_a_real_decoders_transfers() -> None:
    found = snapshot_of(CAPTURE.read_text(encoding="utf-8"), 0)
    assert found is not None
    assert (counter(found, "transfer_count"), counter(found, "external_tokens")) == (4, 4592)
    assert counter(found, "transfer_sum_s") == pytest.approx(0.0375, abs=1e-4)


# --- flow lmcache --------------------------------------------------------------------------------


def test_token_1_leaves_before_the_transfer(lmcache: Pair) -> None:
    headers = {"X-Request-Id": "early"}
    events = told(lmcache.proxy.chat(words(LENGTH, 100), headers=headers))
    [own] = [one for one in lmcache.proxy.truth() if one["request_id"] == "early"]
    [there] = [one for one in lmcache.decoder.truth() if one["request_id"] == "early"]
    first, second = own["write_ns"][:2]
    assert first < there["head_ns"], "the decoder has not been asked yet"
    assert second - first >= 0.1e9, "the transfer stands in the first gap"
    assert len(own["write_ns"]) == 4 and text_of(events).count(" ") == 4


def test_usage_is_the_decoders(lmcache: Pair) -> None:
    """One prompt token more, one completion token less, and hits that nobody reused."""
    prompt = words(LENGTH, 200)
    before = by_source(lmcache.decoder)["external_kv_transfer"]
    usage = usage_of(told(lmcache.proxy.chat(prompt)))
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (LENGTH + 11 + 1, 3)
    moved_tokens = by_source(lmcache.decoder)["external_kv_transfer"] - before
    assert usage["prompt_tokens_details"]["cached_tokens"] == moved_tokens
    assert moved_tokens == (LENGTH + 11) // BLOCK * BLOCK


def test_it_counts_no_nixl_transfers_and_keeps_salts_apart(lmcache: Pair) -> None:
    prompt = words(LENGTH, 300)
    assert b"nixl" not in lmcache.decoder.call("GET", "/metrics").body
    for salt in ("one", "two"):
        lmcache.proxy.chat(prompt, cache_salt=salt)
    traces = lmcache.prefiller.truth()[-2:]
    assert [one["cached_local"] for one in traces if one["path"] == "/v1/completions"][-1] == 0


def test_completions_are_not_converted_and_one_token_needs_no_decoder(lmcache: Pair) -> None:
    body = {"prompt": words(LENGTH, 400), "temperature": 0, "ignore_eos": True, "max_tokens": 3}
    events = told(lmcache.proxy.call("POST", "/v1/completions", body))
    chunks = [event for event in events if event != "[DONE]"]
    assert [chunk["object"] for chunk in chunks] == 3 * ["text_completion"]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None, None, "length"]
    body["max_tokens"] = 1
    [only, done] = told(lmcache.proxy.call("POST", "/v1/completions", body))
    assert only["choices"][0]["finish_reason"] == "length" and done == "[DONE]"


def test_max_tokens_must_be_there(lmcache: Pair) -> None:
    assert lmcache.proxy.call("POST", "/v1/completions", {"prompt": "a"}).status == 500


# --- both ----------------------------------------------------------------------------------------


def test_a_proxy_says_who_is_behind_it(vllm: Pair) -> None:
    [card] = vllm.proxy.call("GET", "/v1/models").json["data"]
    assert card["owned_by"] == "kvsim"
    assert vllm.proxy.call("GET", "/health").status == 200
    assert vllm.proxy.call("GET", "/healthcheck").json == {
        "status": "ok", "prefill_instances": 1, "decode_instances": 1,
    }  # fmt: skip
    assert vllm.proxy.call("GET", "/metrics").status == 404
    for half in (vllm.prefiller, vllm.decoder):
        assert half.metric("kvsim_info", simulated="true") == 1


def test_two_prefillers_are_taken_in_turn(kvsim: Callable[..., Sim]) -> None:
    prefillers = [kvsim("--role", "prefill", *FAST) for _ in range(2)]
    decoder = kvsim("--role", "decode", *FAST)
    urls = [part for one in prefillers for part in ("--prefiller", one.url)]
    proxy = kvsim("--role", "proxy", *urls, "--decoder", decoder.url)
    for start in range(4):
        proxy.chat(words(40, start))
    assert [one.metric("vllm:request_success_total") for one in prefillers] == [2, 2]
    assert decoder.metric("vllm:request_success_total") == 4


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ("--role proxy", "--prefiller URL and --decoder URL"),
        ("--prefiller http://127.0.0.1:1", "of a proxy"),
        ("--role decode --store http://127.0.0.1:1", "no store behind"),
        ("--role prefill --flat", "times of its own"),
        ("--fault hide_cached", "no such fault"),
    ],
)
def test_what_cannot_be(flags: str, says: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "kvsim", *flags.split()],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2 and says in done.stderr
    assert not done.stdout


def test_a_fault_of_the_proxy_is_switched_while_it_runs(vllm: Pair) -> None:
    vllm.proxy.fault("hide_cached")
    listed = vllm.proxy.call("GET", "/kvsim/fault").body
    assert json.loads(listed) == {"faults": {"hide_cached": ""}}
    vllm.proxy.call("DELETE", "/kvsim/fault")
    listed = vllm.proxy.call("GET", "/kvsim/fault").body
    assert json.loads(listed) == {"faults": {}}


def test_a_real_proxy_lists_no_models(vllm: Pair) -> None:
    vllm.proxy.fault("no_models")
    asked = [vllm.proxy.call("GET", path).status for path in ("/v1/models", "/version")]
    vllm.proxy.call("DELETE", "/kvsim/fault")
    assert asked == [404, 404]
