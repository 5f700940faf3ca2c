"""kvsim's answers, held against every capture of vLLM and of Mooncake.

Only ids, times and texts may differ (and who says it): same keys in the same order, same nulls,
same usage, same framing, same headers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from tests.kvsim.conftest import FAST, Reply, Sim, running, words

CAPTURES = Path(__file__).parents[1] / "data" / "captures"
TEMPLATE = 11
"""Tokens that the chat template adds to a single message; as many as on the recorded model."""

Pairs = tuple[tuple[str, Any], ...]
FREE = {"id", "created", "content", "text", "system_fingerprint", "logprob", "token", "bytes"}
"""Keys whose values may differ: ids, times and texts (logprobs are of the text)."""
LENGTHS = {"prompt_token_ids", "token_ids", "tokens"}
"""Token ids: another tokenizer, but as many."""


@pytest.fixture(scope="module")
def vllm() -> Iterator[Sim]:
    """A node like the one that was recorded."""
    with running(
        *FAST, "--model", "tiny", "--block-tokens", "128", "--max-model-len", "16384"
    ) as sim:
        yield sim


def masked(key: str, value: Any) -> Any:
    if key in FREE and isinstance(value, str | int | float):
        return "" if value == "" else type(value).__name__
    if key == "bytes":
        return "bytes"
    if key in LENGTHS and isinstance(value, list):
        return ("ids", len(value))
    return value


def shape(pairs: list[tuple[str, Any]]) -> Pairs:
    """An object as a tuple: the order of keys counts."""
    return tuple((key, masked(key, value)) for key, value in pairs)


def parsed(text: str) -> Any:
    return json.loads(text, object_pairs_hook=shape)


def stream_shape(body: bytes) -> list[Any]:
    """The stream line by line; each payload by its shape, compactness included."""
    lines: list[Any] = []
    for line in body.decode().rstrip("\n").split("\n"):  # the recordings lost the last one
        payload = line.removeprefix("data: ")
        if payload == line or payload == "[DONE]":
            lines.append(line)
            continue
        compact = json.dumps(json.loads(payload), separators=(",", ":"), ensure_ascii=False)
        lines.append((parsed(payload), payload == compact))
    return lines


def capture(name: str) -> tuple[int, dict[str, str], str]:
    """Status, headers and body of a recorded answer."""
    head, _, body = (CAPTURES / name).read_text().partition("\n")
    told = json.loads(head)
    return told["status"], told["headers"], body.removesuffix("\n")


def chat(sim: Sim, tokens: int, *, start: int = 0, **more: Any) -> Reply:
    body = {
        "model": "tiny", "messages": [{"role": "user", "content": words(tokens - TEMPLATE, start)}],
        "temperature": 0, "ignore_eos": True, **more,
    }  # fmt: skip
    return sim.call("POST", "/v1/chat/completions", body)


def completion(sim: Sim, tokens: int, *, start: int = 0, **more: Any) -> Reply:
    body = {"model": "tiny", "prompt": words(tokens, start), "temperature": 0,
            "ignore_eos": True, **more}  # fmt: skip
    return sim.call("POST", "/v1/completions", body)


USAGE = {"stream": True, "stream_options": {"include_usage": True}}
CONTINUOUS = {
    "stream": True, "stream_options": {"include_usage": True, "continuous_usage_stats": True},
}  # fmt: skip

CHAT_STREAMS: dict[str, tuple[int, dict[str, Any]]] = {
    "cold_usage": (2787, {"max_tokens": 8, **USAGE}),
    "warm_usage": (2787, {"max_tokens": 8, **USAGE}),  # the same prompt again
    "max1": (19, {"max_tokens": 1, **USAGE}),
    "n2": (19, {"max_tokens": 3, "n": 2, "temperature": 1.0, **USAGE}),
    "logprobs": (19, {"max_tokens": 3, "logprobs": True, "top_logprobs": 2, **USAGE}),
    "return_token_ids": (19, {"max_tokens": 3, "return_token_ids": True, **USAGE}),
    "continuous_usage": (19, {"max_tokens": 8, **CONTINUOUS}),
    "no_usage": (19, {"max_tokens": 8, "stream": True}),
}


@pytest.mark.parametrize("name", CHAT_STREAMS)
def test_a_chat_stream_is_the_recorded_one(vllm: Sim, name: str) -> None:
    tokens, more = CHAT_STREAMS[name]
    recorded = (CAPTURES / f"vllm_chat_stream_{name}.sse").read_bytes()
    reply = chat(vllm, tokens, **more)
    assert reply.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert stream_shape(reply.body) == stream_shape(recorded)


def test_a_stream_without_text_is_the_recorded_one(vllm: Sim) -> None:
    chat(vllm, 2740, start=50, max_tokens=1)  # it was recorded warm
    vllm.fault("no_text")
    try:
        reply = chat(vllm, 2740, start=50, max_tokens=8, **USAGE)
    finally:
        vllm.call("DELETE", "/kvsim/fault")
    recorded = (CAPTURES / "vllm_chat_stream_no_text_chunks.sse").read_bytes()
    assert stream_shape(reply.body) == stream_shape(recorded)


@pytest.mark.parametrize(("name", "tokens", "start"), [("cold", 1166, 70), ("warm", 2776, 90)])
def test_a_completion_stream_is_the_recorded_one(
    vllm: Sim, name: str, tokens: int, start: int
) -> None:
    recorded = (CAPTURES / f"vllm_completions_stream_{name}_usage.sse").read_bytes()
    reply = completion(vllm, tokens, start=start, max_tokens=8, **USAGE)
    assert stream_shape(reply.body) == stream_shape(recorded)


def test_a_dead_engine_says_so_byte_by_byte() -> None:
    with running(*FAST, "--fault", "engine_death=1") as sim:
        reply = sim.chat("hello")
        recorded = (CAPTURES / "vllm_enginedead_first_request.sse").read_bytes()
        assert (reply.status, reply.body.rstrip()) == (200, recorded.rstrip())
        after = [sim.call("GET", path).status for path in ("/health", "/v1/models", "/metrics")]
        assert after == [503, 200, 200]


def held_against(reply: Reply, name: str) -> None:
    """Status, headers and body are those of a recorded answer."""
    status, headers, body = capture(name)
    assert reply.status == status
    assert set(reply.headers) == set(headers)
    for key in set(headers) - {"date", "server", "content-length"}:
        assert reply.headers[key] == headers[key], key
    assert reply.headers["server"] == "kvsim"
    assert (reply.headers["content-length"] == "0") == (headers["content-length"] == "0")
    got = reply.body.decode()
    assert (parsed(got) if got else "") == (parsed(body) if body else "")


@pytest.mark.parametrize("name", ["chat_nonstream", "unknown_field"])
def test_a_whole_chat_answer_is_the_recorded_one(vllm: Sim, name: str) -> None:
    more = {"no_such_field": 1} if name == "unknown_field" else {}
    held_against(chat(vllm, 19, max_tokens=4, **more), f"vllm_{name}.json")


def test_a_whole_completion_is_the_recorded_one(vllm: Sim) -> None:
    held_against(completion(vllm, 8, max_tokens=4), "vllm_completions_nonstream.json")


PLAIN = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 1}
LONG = {"messages": [{"role": "user", "content": words(20000)}], "max_tokens": 1}
POST_CHAT = ("POST", "/v1/chat/completions")
EXACT: dict[str, tuple[str, str, Any]] = {
    "err_404_path": ("POST", "/no/such/path", {}),
    "err_405": ("GET", "/v1/chat/completions", None),
    "err_bad_content_type": (*POST_CHAT, b"x"),
    "err_bad_model": (*POST_CHAT, {**PLAIN, "model": "nope"}),
    "err_bad_model_stream": (*POST_CHAT, {**PLAIN, "model": "nope", "stream": True}),
    "err_bad_temperature": (*POST_CHAT, {**PLAIN, "temperature": -1}),
    "err_bad_type": (*POST_CHAT, {**PLAIN, "max_tokens": "x"}),
    "err_empty_salt": (*POST_CHAT, {**PLAIN, "cache_salt": ""}),
    "err_malformed_json": (*POST_CHAT, b'{"model": "tiny", nope'),
    "err_missing_messages": (*POST_CHAT, {"model": "tiny"}),
    "err_too_long": (*POST_CHAT, LONG),
    "err_too_long_stream": (*POST_CHAT, {**LONG, "stream": True}),
    "health": ("GET", "/health", None),
    "version": ("GET", "/version", None),
    "reset_external": ("POST", "/reset_prefix_cache?reset_external=true", None),
    "reset_mm_cache": ("POST", "/reset_mm_cache", None),
    "reset_prefix_cache": ("POST", "/reset_prefix_cache", None),
    "reset_prefix_cache_GET": ("GET", "/reset_prefix_cache", None),
    "reset_running": ("POST", "/reset_prefix_cache?reset_running_requests=true", None),
}


@pytest.mark.parametrize("name", EXACT)
def test_what_needs_no_tokens_is_the_same_byte_by_byte(vllm: Sim, name: str) -> None:
    method, path, body = EXACT[name]
    kind = "text/plain" if name == "err_bad_content_type" else "application/json"
    reply = vllm.call(method, path, body, {"content-type": kind} if body is not None else None)
    held_against(reply, f"vllm_{name}.json")
    assert reply.body.decode() == capture(f"vllm_{name}.json")[2]


def test_a_reset_while_a_request_runs_is_refused() -> None:
    with running(*FAST, "--step-ms", "50") as sim:
        body = {**PLAIN, "max_tokens": 400, "stream": True, "ignore_eos": True}
        connection = Streaming(sim, body)
        sim.wait_for("vllm:num_requests_running", 1)
        held_against(sim.call("POST", "/reset_prefix_cache"), "vllm_reset_while_running.json")
        sure = sim.call("POST", "/reset_prefix_cache?reset_running_requests=true")
        held_against(sure, "vllm_reset_running.json")
        connection.close()
        sim.wait_for("vllm:num_requests_running", 0)  # the client went away
        held_against(sim.call("POST", "/reset_prefix_cache"), "vllm_reset_prefix_cache.json")


class Streaming:
    """A request that is under way."""

    def __init__(self, sim: Sim, body: Any) -> None:
        self._connection = HTTPConnection("127.0.0.1", sim.port, timeout=60)
        headers = {"content-type": "application/json"}
        self._connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
        self._answer = self._connection.getresponse()

    def close(self) -> None:
        self._answer.close()
        self._connection.close()


def test_models_are_the_recorded_ones_but_for_the_owner(vllm: Sim) -> None:
    reply = vllm.call("GET", "/v1/models")
    assert b'"owned_by":"kvsim"' in reply.body
    reply.body = reply.body.replace(b'"kvsim"', b'"vllm"').replace(
        b'"root":"tiny"', b'"root":"/models/tiny"'
    )
    held_against(reply, "vllm_models.json")


def test_tokenize_is_the_recorded_one(vllm: Sim) -> None:
    reply = vllm.call("POST", "/tokenize", {"model": "tiny", "prompt": words(8)})
    held_against(reply, "vllm_tokenize.json")


Families = dict[str, tuple[str, set[tuple[str, ...]]]]


def families(text: str) -> Families:
    """Metrics by name: the type, and the sets of labels that tell series apart."""
    kinds: dict[str, str] = {}
    series: dict[str, set[tuple[str, ...]]] = {}
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split()
            kinds[name] = kind
        elif not line.startswith("#"):
            name, _, inside = line.rpartition(" ")[0].partition("{")
            labels = re.findall(r'(\w+)="([^"]*)"', inside)
            plain = {"engine", "model_name", "handler", "method", "status", "segment"}
            shown = tuple(
                key if key in plain or name in ("vllm:cache_config_info", "python_info")
                else f"{key}={value}"
                for key, value in labels
            )  # fmt: skip
            base = re.sub(r"_(bucket|sum|count)$", "", name)
            family = name if name in kinds else base
            series.setdefault(family, set()).add(shown)
    return {name: (kind, series.get(name, set())) for name, kind in kinds.items()}


@pytest.mark.parametrize("name", ["vllm_metrics.txt", "vllm_metrics_nodeB_mooncakestore.txt"])
def test_every_recorded_metric_is_there(vllm: Sim, name: str) -> None:
    recorded = families((CAPTURES / name).read_text())
    assert len(recorded) > 80
    if "mooncake" not in name:
        chat(vllm, 19, max_tokens=2)
        got = families(vllm.call("GET", "/metrics").body.decode())
    else:
        with (
            running("--role", "store") as store,
            running(*FAST, "--save-delay-ms", "0", "--store", store.url) as sim,
        ):
            sim.chat(words(100))
            store.wait_for("master_key_count", 7 - 1)
            sim.reset()
            assert sim.chat(words(100)).cached == 96
            got = families(sim.call("GET", "/metrics").body.decode())
    for family, (kind, series) in recorded.items():
        assert family in got, family
        assert got[family][0] == kind, family
        missing = series - got[family][1]
        assert not missing, (family, missing)


@pytest.mark.parametrize("moment", ["0_empty", "vllm_1_after_A"])
def test_the_store_has_every_metric_of_a_master(moment: str) -> None:
    recorded = families((CAPTURES / f"mooncake_metrics_{moment}.txt").read_text())
    with running("--role", "store") as store:
        if moment == "0_empty":
            got = families(store.call("GET", "/metrics").body.decode())
        else:
            with running(*FAST, "--save-delay-ms", "0", "--store", store.url) as sim:
                sim.chat(words(100))
                store.wait_for("master_key_count", 6)
                got = families(store.call("GET", "/metrics").body.decode())
    for family, (kind, series) in recorded.items():
        assert family in got, family
        assert got[family] == (kind, series), family


def test_the_masters_answers_have_the_recorded_keys() -> None:
    with (
        running("--role", "store") as store,
        running(*FAST, "--save-delay-ms", "0", "--model", "model", "--store", store.url) as sim,
    ):
        sim.chat(words(100))
        store.wait_for("master_key_count", 6)
        keys = store.call("GET", "/get_all_keys").body.decode().splitlines()
        detail = store.call("GET", "/get_segments_detail").body.decode()
        query = store.call("GET", f"/query_key?key={keys[0]}").body.decode()
    recorded_keys = (CAPTURES / "mooncake_get_all_keys_vllm.txt").read_text().splitlines()
    pattern = {re.sub("[0-9a-f]{64}$", "HASH", key) for key in keys}
    assert pattern == {re.sub("[0-9a-f]{64}$", "HASH", key) for key in recorded_keys}
    for got, name in ((detail, "get_segments_detail"), (query, "query_key")):
        recorded = (CAPTURES / f"mooncake_{name}.json").read_text()
        assert key_order(json.loads(got)) == key_order(json.loads(recorded))


def key_order(value: Any) -> Any:
    """Keys in their order, and the types of what they hold."""
    if isinstance(value, dict):
        return [(key, key_order(inner)) for key, inner in value.items()]
    if isinstance(value, list):
        return [key_order(inner) for inner in value]
    return type(value).__name__


def test_every_capture_of_vllm_is_held_against_something() -> None:
    """A capture that is added must be tested."""
    tested = {f"vllm_chat_stream_{name}.sse" for name in CHAT_STREAMS}
    tested |= {f"vllm_{name}.json" for name in EXACT}
    source = Path(__file__).read_text() + Path(__file__).with_name("test_pd.py").read_text()
    for path in CAPTURES.glob("vllm_*"):
        stem = path.name.removeprefix("vllm_").rpartition(".")[0]
        by_part = re.sub(r"_(cold|warm)_usage$", "", stem)
        assert path.name in tested or path.name in source or stem in source or (
            f"vllm_{by_part}_" in source
        ), path.name  # fmt: skip
