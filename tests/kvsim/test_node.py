"""A node: what it caches, what it counts, what it refuses, how it ends."""

from __future__ import annotations

import json
import re
import signal
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest
from tests.kvsim.conftest import FAST, Sim, words

Start = Callable[..., Sim]


def test_it_says_that_it_is_simulated(node: Sim) -> None:
    assert set(node.ready) == {"record", "url", "role", "port"}
    assert node.ready["record"] == "kvsim"
    models = node.call("GET", "/v1/models")
    assert models.json["data"][0]["owned_by"] == "kvsim"
    assert node.call("GET", "/version").headers["server"] == "kvsim"
    assert node.metric("kvsim_info", simulated="true") == 1
    assert node.chat("hello").events[-2]["system_fingerprint"].startswith("kvsim-")


@pytest.mark.parametrize("tokens", [15, 16, 17, 31, 32, 33, 500])
def test_whole_blocks_are_cached_but_never_the_last_token(node: Sim, tokens: int) -> None:
    prompt = list(range(1000 * tokens % 70000, 1000 * tokens % 70000 + tokens))
    body = {"prompt": prompt, "max_tokens": 1, "temperature": 0}
    first, second = (node.call("POST", "/v1/completions", body) for _ in "12")
    assert (first.cached, second.cached) == (0, (tokens - 1) // 16 * 16)
    assert first.usage["prompt_tokens"] == tokens


def test_blocks_that_decoding_filled_are_cached_too(node: Sim) -> None:
    prompt = words(29, 7)
    body = {"prompt": prompt, "max_tokens": 40, "temperature": 0, "ignore_eos": True,
            "return_token_ids": True}  # fmt: skip
    first = node.call("POST", "/v1/completions", body).json
    ids = first["choices"][0]["prompt_token_ids"] + first["choices"][0]["token_ids"]
    assert len(ids) == 69
    again = node.call("POST", "/v1/completions", {"prompt": ids, "max_tokens": 1})
    assert again.cached == 64


def test_a_salt_isolates(node: Sim) -> None:
    text = words(100, 200)
    cached = [node.chat(text, cache_salt=salt).cached for salt in ("a", "a", "b", "b")]
    assert cached == [0, 96, 0, 96]


def test_the_same_prompt_gives_the_same_answer_at_temperature_0(node: Sim) -> None:
    def answer(text: str, **more: object) -> str:
        reply = node.chat(text, stream=False, max_tokens=20, **more)
        return str(reply.json["choices"][0]["message"]["content"])

    text = words(40, 90)
    assert answer(text) == answer(text)
    assert answer(text) != answer(words(40, 91))
    assert answer(text, temperature=1.0, seed=1) == answer(text, temperature=1.0, seed=1)
    assert answer(text, temperature=1.0, seed=1) != answer(text, temperature=1.0, seed=2)
    assert answer(text, temperature=1.0) != answer(text, temperature=1.0)
    assert len(answer(text).split()) == 20


def test_it_stops_by_itself_unless_told_not_to(node: Sim) -> None:
    text = words(20, 5)
    free = node.chat(text, stream=False, max_tokens=1000, ignore_eos=False).json
    assert free["choices"][0]["finish_reason"] == "stop"
    assert 128 <= free["usage"]["completion_tokens"] <= 640
    forced = node.chat(text, stream=False, max_tokens=1000).json
    assert forced["choices"][0]["finish_reason"] == "length"
    assert forced["usage"]["completion_tokens"] == 1000
    least = node.chat(text, stream=False, max_tokens=1000, ignore_eos=False, min_tokens=900)
    assert 900 <= least.usage["completion_tokens"] <= 901


def test_tokenize_and_detokenize_agree_with_the_prompt(node: Sim) -> None:
    messages = [{"role": "user", "content": "A question, 42 times?"}]
    told = node.call("POST", "/tokenize", {"messages": messages, "return_token_strs": True}).json
    reply = node.call("POST", "/v1/chat/completions", {"messages": messages, "max_tokens": 1})
    assert reply.usage["prompt_tokens"] == told["count"] == len(told["tokens"])
    assert len(told["token_strs"]) == told["count"]
    text = "Back and forth: ÄÖÜ 123."
    ids = node.call("POST", "/tokenize", {"prompt": text}).json["tokens"]
    assert node.call("POST", "/detokenize", {"tokens": ids}).json == {"prompt": text}


def test_the_clients_request_id_becomes_the_answers(node: Sim) -> None:
    reply = node.chat("hello", headers={"X-Request-Id": "mine-1"})
    assert reply.events[0]["id"] == "chatcmpl-mine-1"
    body = {"prompt": "hello", "max_tokens": 1}
    reply = node.call("POST", "/v1/completions", body, {"X-Request-Id": "mine-2"})
    assert reply.json["id"] == "cmpl-mine-2"


def test_several_prompts_and_choices_are_one_request(node: Sim) -> None:
    body = {"prompt": [words(40, 11), words(50, 17)], "n": 2, "max_tokens": 3,
            "ignore_eos": True}  # fmt: skip
    answer = node.call("POST", "/v1/completions", body).json
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3]
    assert answer["usage"]["prompt_tokens"] == 90
    assert answer["usage"]["completion_tokens"] == 12


def test_counters_are_consistent(kvsim: Start) -> None:
    sim = kvsim(*FAST)
    replies = [sim.chat(words(100, at % 3), max_tokens=5) for at in range(7)]
    prompt = sum(reply.usage["prompt_tokens"] for reply in replies)
    cached = sum(reply.cached for reply in replies)
    assert cached == 4 * 96
    assert sim.metric("vllm:prompt_tokens_total") == prompt
    assert sim.metric("vllm:prefix_cache_queries_total") == prompt
    assert sim.metric("vllm:prefix_cache_hits_total") == cached
    assert sim.metric("vllm:prompt_tokens_cached_total") == cached
    name = "vllm:prompt_tokens_by_source_total"
    assert sim.metric(name) == prompt
    assert sim.metric(name, source="local_compute") == prompt - cached
    assert sim.metric("vllm:generation_tokens_total") == 35
    assert sim.metric("vllm:request_success_total", finished_reason="length") == 7
    for histogram in ("time_to_first_token_seconds", "e2e_request_latency_seconds"):
        assert sim.metric(f"vllm:{histogram}_count") == 7
    assert sim.metric("vllm:inter_token_latency_seconds_count") == 28
    config = next(
        line for line in sim.call("GET", "/metrics").body.decode().splitlines()
        if line.startswith("vllm:cache_config_info")
    )  # fmt: skip
    assert 'block_size="16"' in config
    assert 'num_gpu_blocks="16384"' in config


def test_time_comes_from_what_is_not_cached(kvsim: Start) -> None:
    sim = kvsim("--prefill-tps", "4000", "--overhead-ms", "0")
    text = words(4000)
    for _ in "ch":
        sim.chat(text)
    cold, hit = sim.truth()
    assert (cold["cached_local"], hit["cached_local"]) == (0, 4000)
    cold_ns, hit_ns = (one["first_token_ns"] - one["read_ns"] for one in (cold, hit))
    assert cold_ns > 1e9  # 4,011 tokens at 4,000 a second: it cannot be less
    assert hit_ns < cold_ns / 3


def test_waiting_requests_queue(kvsim: Start) -> None:
    sim = kvsim(*FAST, "--max-num-seqs", "1", "--step-ms", "5")
    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(lambda at: sim.chat(words(50, at), max_tokens=20), range(4)))
    assert all(reply.usage["completion_tokens"] == 20 for reply in done)
    spans = sorted((t["first_token_ns"], t["write_ns"][-1]) for t in sim.truth())
    assert all(one[1] <= two[0] for one, two in pairwise(spans))


def test_concurrent_requests_hit_blocks_that_are_being_computed(kvsim: Start) -> None:
    sim = kvsim("--overhead-ms", "0", "--prefill-tps", "2000")
    with ThreadPoolExecutor(4) as pool:
        replies = list(pool.map(lambda _: sim.chat(words(4000)), range(4)))
    assert sorted(reply.cached for reply in replies)[1:] == [4000, 4000, 4000]


def test_a_small_cache_evicts_and_preempts_and_answers_all_the_same(kvsim: Start) -> None:
    sim = kvsim(*FAST, "--capacity-blocks", "20")
    assert sim.call("GET", "/v1/models").json["data"][0]["max_model_len"] == 19 * 16
    with ThreadPoolExecutor(6) as pool:
        replies = list(pool.map(lambda at: sim.chat(words(60, at * 7), max_tokens=120), range(6)))
    assert all(reply.usage["completion_tokens"] == 120 for reply in replies)
    assert sim.metric("vllm:num_preemptions_total") > 0
    assert sim.metric("vllm:kv_cache_usage_perc") == 0
    assert sim.metric("vllm:request_success_total", finished_reason="length") == 6
    sim.chat(words(200))
    sim.chat(words(200, 60))
    assert sim.chat(words(200)).cached < 192  # some of it had to go


def test_a_client_that_leaves_frees_its_blocks(kvsim: Start) -> None:
    sim = kvsim("--step-ms", "20")
    body = json.dumps({"prompt": "hello", "max_tokens": 5000, "stream": True, "ignore_eos": True})
    with socket.create_connection(("127.0.0.1", sim.port), timeout=60) as client:
        head = ("POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                f"Content-Length: {len(body)}\r\n\r\n")  # fmt: skip
        client.sendall((head + body).encode())
        assert client.recv(100).startswith(b"HTTP/1.1 200")
        sim.wait_for("vllm:num_requests_running", 1)
    sim.wait_for("vllm:num_requests_running", 0)
    sim.wait_for("vllm:kv_cache_usage_perc", 0)
    assert sim.metric("vllm:request_success_total") == 0
    assert sim.truth()[0]["complete"] is False


def test_an_api_key_guards_v1_and_nothing_else(kvsim: Start) -> None:
    sim = kvsim("--api-key", "secret")
    refused = sim.call("GET", "/v1/models")
    assert (refused.status, refused.body) == (401, b'{"error":"Unauthorized"}')
    assert sim.call("GET", "/v1/models", None, {"Authorization": "Bearer secret"}).status == 200
    assert sim.call("POST", "/reset_prefix_cache").status == 200
    assert sim.call("GET", "/metrics").status == 200


def test_without_dev_mode_resets_do_not_exist(kvsim: Start) -> None:
    sim = kvsim("--no-dev-mode")
    for path in ("/reset_prefix_cache", "/reset_mm_cache", "/reset_encoder_cache"):
        assert sim.call("POST", path).status == 404


def test_an_old_version_hides_a_true_zero_and_answers_resets_with_nothing(kvsim: Start) -> None:
    sim = kvsim(*FAST, "--vllm-version", "0.22")
    assert sim.call("GET", "/version").json == {"version": "0.22"}
    text = words(50)
    first = sim.chat(text, stream=False)
    assert first.usage["prompt_tokens_details"] is None
    second = sim.chat(text)
    assert second.usage["prompt_tokens_details"] == {"cached_tokens": 48}
    reset = sim.call("POST", "/reset_prefix_cache")
    assert (reset.status, reset.body) == (200, b"")
    assert "prompt_tokens_details" not in sim.chat(text).usage


def test_cached_tokens_may_not_be_told_at_all(kvsim: Start) -> None:
    sim = kvsim(*FAST, "--no-prompt-tokens-details")
    text = words(50)
    sim.chat(text)
    assert "prompt_tokens_details" not in sim.chat(text).usage
    assert sim.chat(text, stream=False).usage["prompt_tokens_details"] is None


def test_the_engine_tells_its_times_on_request(kvsim: Start) -> None:
    sim = kvsim(*FAST, "--per-request-metrics")
    keys = ["time_to_first_token_ms", "generation_time_ms", "queue_time_ms", "mean_itl_ms",
            "tokens_per_second"]  # fmt: skip
    assert list(sim.chat("hello").events[-2]["metrics"]) == keys
    whole = sim.chat("hello", stream=False, max_tokens=1).json["metrics"]
    assert list(whole) == [*keys, "speculative_decoding"]
    assert whole["mean_itl_ms"] is None
    assert sim.chat("hello", stream=False, n=2).json["metrics"] is None


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGINT])
def test_it_dies_of_the_signal(kvsim: Start, end: signal.Signals) -> None:
    sim = kvsim()
    sim.process.send_signal(end)
    assert sim.process.wait(60) == -end


def test_context_length_includes_the_output(node: Sim) -> None:
    limit = 131072
    body = {"prompt": [1000] * (limit - 4), "max_tokens": 5}
    refused = node.call("POST", "/v1/completions", body)
    assert refused.status == 400
    assert f"maximum context length is {limit} tokens" in refused.json["error"]["message"]


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"n": 0}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"top_p": 2}, "top_p"),
        ({"min_tokens": 9, "max_tokens": 3}, "min_tokens"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"prompt": [10**9]}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"temperature": "warm"}, "body.temperature"),
        ({"stream": "x"}, "body.stream"),
    ],
)
def test_what_cannot_be_is_refused_by_name(
    node: Sim, change: dict[str, object], param: str
) -> None:
    reply = node.call("POST", "/v1/completions", {"prompt": "hello", **change})
    assert reply.status == 400
    assert reply.json["error"]["param"] == param


def test_a_template_may_begin_with_the_date(kvsim: Callable[..., Sim]) -> None:
    sim = kvsim(*FAST, "--dated-template")
    body = {"model": "sim", "messages": [{"role": "user", "content": "alpha"}]}
    tokens = sim.call("POST", "/tokenize", body).json["tokens"]
    text = sim.call("POST", "/detokenize", {"model": "sim", "tokens": tokens}).json["prompt"]
    assert re.search(r"Now it is \d{4}-\d{2}-\d{2} \d{2}:\d{2}[.]", text)
    assert sim.chat("alpha").usage["prompt_tokens"] == len(tokens)
