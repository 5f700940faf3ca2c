"""The flat mode and the truth log: the instrument that clients are held against."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.kvsim.conftest import FAST, Sim, stop, words

Start = Callable[..., Sim]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_flat_times_are_constant_whatever_is_asked(kvsim: Start, path: str) -> None:
    sim = kvsim("--flat", "--ttft-ms", "100", "--itl-ms", "10")
    body = {
        "messages": [{"role": "user", "content": words(3000)}], "prompt": words(3000),
        "max_tokens": 11, "stream": True, "stream_options": {"include_usage": True},
    }  # fmt: skip
    with ThreadPoolExecutor(4) as pool:
        replies = list(pool.map(lambda _: sim.call("POST", path, body), range(8)))
    for reply in replies:
        texts = [
            choice["delta"].get("content") if "chat" in path else choice["text"]
            for event in reply.events
            if event != "[DONE]"
            for choice in event["choices"]
        ]
        assert len([text for text in texts if text]) == 11
        assert reply.usage["completion_tokens"] == 11
        assert reply.events[-1] == "[DONE]"
    for trace in sim.truth():
        assert len(trace["write_ns"]) == 11
        late_ns = [stamp - trace["read_ns"] for stamp in trace["write_ns"]]
        assert all(late > (99 + 10 * at) * 1e6 for at, late in enumerate(late_ns))
        assert trace["complete"]
    assert sim.metric("vllm:generation_tokens_total") == 88


def test_flat_answers_whole_too(kvsim: Start) -> None:
    sim = kvsim("--flat", "--ttft-ms", "1", "--itl-ms", "0")
    answer = sim.chat("hello", stream=False, max_tokens=3).json
    assert answer["choices"][0]["message"]["content"] == " flat flat flat"
    assert answer["object"] == "chat.completion"
    one = sim.chat("hello", max_tokens=1)
    assert [e["choices"][0]["finish_reason"] for e in one.events[:2]] == [None, "length"]


def test_the_truth_is_on_the_clients_clock_and_in_order(kvsim: Start, tmp_path: Path) -> None:
    path = tmp_path / "truth.jsonl"
    sim = kvsim(*FAST, "--truth", str(path))
    stamps = []
    for name in ("one", "two"):
        begun = time.perf_counter_ns()
        sim.chat(words(50), max_tokens=6, headers={"X-Request-Id": name})
        stamps.append((begun, time.perf_counter_ns()))
    whole = sim.chat(words(50), stream=False, max_tokens=6)
    assert whole.status == 200
    stop(sim)
    traces = [json.loads(line) for line in path.read_text().splitlines()]
    assert [trace["request_id"] for trace in traces] == ["one", "two", None]
    assert [len(trace["write_ns"]) for trace in traces] == [6, 6, 1]
    assert [trace["cached_local"] for trace in traces] == [0, 48, 48]
    assert all(trace["prompt_tokens"] == 61 for trace in traces)
    assert all(trace["output_tokens"] == 6 for trace in traces)
    assert all((trace["status"], trace["complete"]) == (200, True) for trace in traces)
    for trace, (begun, ended) in zip(traces, stamps, strict=False):
        order = [begun, trace["head_ns"], trace["read_ns"], *trace["write_ns"], trace["end_ns"]]
        assert order == sorted(order)
        assert trace["first_token_ns"] == trace["write_ns"][0]
        assert trace["write_ns"][-1] < ended


def test_remote_hits_are_in_the_truth(kvsim: Start) -> None:
    store = kvsim("--role", "store")
    a, b = (kvsim(*FAST, "--save-delay-ms", "0", "--store", store.url) for _ in "ab")
    a.chat(words(100))
    store.wait_for("master_key_count", 6)
    b.chat(words(100))
    assert (b.truth()[0]["cached_local"], b.truth()[0]["cached_remote"]) == (0, 96)
