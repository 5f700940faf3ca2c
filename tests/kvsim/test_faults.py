"""Every fault does what its line in the table says, and is gone when it is switched off."""

from __future__ import annotations

import json
import re
import socket
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, RemoteDisconnected
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from tests.kvsim.conftest import FAST, Sim, words

from kvsim.faults import FAULTS, FaultError, FaultSet

Start = Callable[..., Sim]
SOURCE = "".join(
    Path(__file__).with_name(name).read_text(encoding="utf-8")
    for name in ("test_faults.py", "test_pd.py")
)


@contextmanager
def fault(sim: Sim, name: str, arg: object = None) -> Iterator[None]:
    sim.fault(name, arg)
    try:
        yield
    finally:
        assert sim.call("DELETE", f"/kvsim/fault?name={name}").status == 200


def deltas(events: list[Any]) -> list[dict[str, Any]]:
    return [
        choice["delta"]
        for event in events
        if isinstance(event, dict)
        for choice in event.get("choices", [])
        if choice["delta"] and "role" not in choice["delta"]
    ]


def http_chunks(sim: Sim, **more: Any) -> list[bytes]:
    """A stream as the server wrote it: one item a chunk of the transfer encoding."""
    body = json.dumps({
        "messages": [{"role": "user", "content": "hello"}], "max_tokens": 4, "ignore_eos": True,
        "stream": True, "stream_options": {"include_usage": True}, **more,
    }).encode()  # fmt: skip
    head = (f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n")  # fmt: skip
    data = b""
    with socket.create_connection(("127.0.0.1", sim.port), timeout=60) as client:
        client.sendall(head.encode() + body)
        while part := client.recv(65536):
            data += part
    rest = data.partition(b"\r\n\r\n")[2]
    chunks = []
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        chunks.append(rest[: int(size, 16)])
        rest = rest[int(size, 16) + 2 :]
    assert chunks.pop() == b""
    return chunks


PROMPT = words(100, 40)


def test_a_salt_that_is_ignored_isolates_nothing(node: Sim) -> None:
    with fault(node, "ignore_salt"):
        assert [node.chat(PROMPT, cache_salt=salt).cached for salt in "ab"] == [0, 96]
    assert node.chat(PROMPT, cache_salt="c").cached == 0


def test_a_persistent_cache_survives_resets_and_salts(kvsim: Start) -> None:
    sim = kvsim(*FAST, "--fault", "persistent")
    assert sim.chat(PROMPT).cached == 0
    assert sim.call("POST", "/reset_prefix_cache").json == {"success": True}
    assert sim.chat(PROMPT, cache_salt="new").cached == 96
    sim.call("DELETE", "/kvsim/fault")
    assert sim.chat(PROMPT, cache_salt="other").cached == 0


def test_evicted_blocks_do_not_hit(node: Sim) -> None:
    text = words(100, 60)
    node.chat(text)
    with fault(node, "evict"):
        reply = node.chat(text)
        assert reply.cached == 0
        assert reply.usage["prompt_tokens_details"]["created_cache_tokens"] == 96
    assert node.chat(text).cached == 96


def test_what_is_never_saved_is_never_in_the_store(kvsim: Start) -> None:
    store = kvsim("--role", "store")
    a = kvsim(*FAST, "--save-delay-ms", "0", "--store", store.url, "--fault", "save_never")
    b = kvsim(*FAST, "--save-delay-ms", "0", "--store", store.url)
    a.chat(PROMPT)
    b.chat(words(50))  # saved, so that there is something to wait for
    store.wait_for("master_key_count", 3)
    assert b.chat(PROMPT).cached == 0


def test_fake_hits_report_all_but_one_token(kvsim: Start) -> None:
    sim = kvsim(*FAST, "--fault", "fake_hits")
    assert sim.chat(PROMPT).cached == 110
    name = "vllm:prompt_tokens_by_source_total"
    assert sim.metric(name, source="external_kv_transfer") == 110
    assert sim.metric(name) == sim.metric("vllm:prompt_tokens_total") == 111


def test_details_may_be_null_and_usage_may_be_absent(node: Sim) -> None:
    with fault(node, "null_details"):
        assert node.chat(PROMPT).usage["prompt_tokens_details"] is None
        assert node.chat(PROMPT, stream=False).usage["prompt_tokens_details"] is None
    with fault(node, "drop_usage"):
        assert node.chat(PROMPT).usage is None
        assert node.chat(PROMPT, stream=False).usage is None
    assert node.chat(PROMPT).usage is not None


def test_metrics_may_be_missing(node: Sim) -> None:
    with fault(node, "no_metrics"), pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(f"{node.url}/metrics", timeout=30)
    assert node.metric("vllm:prompt_tokens_total") is not None


def test_resets_lie(node: Sim) -> None:
    node.chat(PROMPT)
    with fault(node, "reset_lies"):
        assert node.call("POST", "/reset_prefix_cache").json == {"success": True}
        assert node.chat(PROMPT).cached == 96
    node.call("POST", "/reset_prefix_cache")
    assert node.chat(PROMPT).cached == 0


def test_resets_are_busy_for_a_while(node: Sim) -> None:
    with fault(node, "reset_busy", 2):
        answers = [node.call("POST", "/reset_prefix_cache").json["success"] for _ in range(4)]
    assert answers == [False, False, True, True]


def test_a_store_may_ignore_what_it_confirms(kvsim: Start) -> None:
    store = kvsim("--role", "store", "--fault", "store_reset_ignored")
    sim = kvsim(*FAST, "--save-delay-ms", "0", "--store", store.url)
    sim.chat(PROMPT)
    store.wait_for("master_key_count", 6)
    answer = store.call("POST", "/api/v1/remove_all?force=true").json
    assert answer == {"success": True, "removed_count": 6}
    assert store.metric("master_key_count") == 6


def test_usage_may_come_with_the_last_token(node: Sim) -> None:
    with fault(node, "usage_in_last_content_chunk"):
        last, done = node.chat(PROMPT).events[-2:]
    assert done == "[DONE]"
    assert last["choices"][0]["finish_reason"] == "length"
    assert last["usage"]["completion_tokens"] == 4


def test_the_role_may_come_long_before_the_first_token(kvsim: Start) -> None:
    sim = kvsim("--overhead-ms", "0", "--prefill-tps", "1000")

    def wait_s(**more: Any) -> tuple[float, float]:
        """Seconds to the role chunk, and to the end."""
        begun = time.monotonic()
        connection = HTTPConnection("127.0.0.1", sim.port, timeout=60)
        body = {"messages": [{"role": "user", "content": words(1000, more["start"])}],
                "max_tokens": 1, "stream": True}  # fmt: skip
        kind = {"content-type": "application/json"}
        connection.request("POST", "/v1/chat/completions", json.dumps(body), kind)
        answer = connection.getresponse()
        assert b"assistant" in answer.readline()
        role_s = time.monotonic() - begun
        answer.read()
        connection.close()
        return role_s, time.monotonic() - begun

    role_s, end_s = wait_s(start=0)
    assert role_s > end_s * 0.7
    with fault(sim, "role_only_early"):
        role_s, end_s = wait_s(start=50)
    assert role_s < end_s * 0.7


@pytest.mark.parametrize("name", ["reasoning", "reasoning_content", "reasoning_both"])
def test_the_first_half_may_be_reasoning(node: Sim, name: str) -> None:
    plain = deltas(node.chat(PROMPT).events)
    with fault(node, name):
        found = deltas(node.chat(PROMPT).events)
    keys = {"reasoning_both": ["reasoning", "reasoning_content"]}.get(name, [name])
    assert [list(delta) for delta in found] == [keys, keys, ["content"], ["content"]]
    texts = [next(iter(delta.values())) for delta in found]
    assert texts == [delta["content"] for delta in plain]


def test_tokens_may_be_a_tool_call(node: Sim) -> None:
    with fault(node, "tool_calls"):
        events = node.chat(PROMPT).events
    calls = [delta["tool_calls"][0] for delta in deltas(events)]
    assert calls[0]["function"]["name"] == "lookup"
    assert all(call["function"]["arguments"] for call in calls)
    assert events[-3]["choices"][0]["finish_reason"] == "tool_calls"


def test_tokens_may_have_no_text(node: Sim) -> None:
    with fault(node, "no_text"):
        reply = node.chat(PROMPT)
        assert [delta["content"] for delta in deltas(reply.events)] == [""] * 4
        assert reply.usage["completion_tokens"] == 4
        whole = node.chat(PROMPT, stream=False)
    assert whole.json["choices"][0]["message"]["content"] == ""


def test_done_may_be_missing(node: Sim) -> None:
    with fault(node, "no_done"):
        reply = node.chat(PROMPT)
    assert reply.whole
    assert b"[DONE]" not in reply.body


def test_a_stream_may_be_cut_short(node: Sim) -> None:
    with fault(node, "truncate", 2):
        reply = node.chat(PROMPT)
    assert not reply.whole
    assert len(deltas(reply.events)) == 2
    assert node.truth()[-1]["complete"] is False


def test_a_stream_may_be_one_write(node: Sim) -> None:
    assert len(http_chunks(node)) == 7  # role, four tokens, usage, [DONE]
    with fault(node, "buffered"):
        assert len(http_chunks(node)) == 1


def test_a_stream_may_be_compressed_though_nobody_asked(node: Sim) -> None:
    plain = b"".join(http_chunks(node, temperature=0))
    with fault(node, "compressed"):
        packed = b"".join(http_chunks(node, temperature=0))
        head = node.chat("hello", headers={"accept-encoding": "identity"}).headers
    told = zlib.decompress(packed, wbits=31)
    assert told.count(b"data: ") == plain.count(b"data: ") == 7
    assert head["content-encoding"] == "gzip"


def test_events_may_share_a_write(node: Sim) -> None:
    with fault(node, "merged", 3):
        chunks = http_chunks(node)
    assert [chunk.count(b"data: ") for chunk in chunks] == [3, 3, 1]


def test_events_may_be_split_anywhere(node: Sim) -> None:
    plain = b"".join(http_chunks(node, temperature=0))
    with fault(node, "split"):
        chunks = http_chunks(node, temperature=0)
    assert len(chunks) > 14
    assert any(not chunk.startswith(b"data: ") for chunk in chunks)

    def same(data: bytes) -> bytes:
        return re.sub(rb'"id":"[^"]*"|"created":\d+', b"", data)

    assert same(b"".join(chunks)) == same(plain)


def test_lines_may_end_in_cr_lf_and_have_comments_between(node: Sim) -> None:
    with fault(node, "crlf"):
        reply = node.chat(PROMPT)
    assert reply.body.count(b"\r\n") == reply.body.count(b"\n") == 14
    with fault(node, "comments"):
        commented = node.chat(PROMPT)
    assert commented.body.count(b": keep-alive\n\n") == 7
    assert len(commented.events) == len(reply.events) == 7


def test_a_stream_may_call_itself_json(node: Sim) -> None:
    with fault(node, "content_type_json"):
        reply = node.chat(PROMPT)
    assert reply.headers["content-type"] == "application/json"
    assert reply.body.endswith(b"data: [DONE]\n\n")


def test_every_nth_stream_may_end_in_an_error(node: Sim) -> None:
    with fault(node, "error_midstream", 2):
        first, second = node.chat(PROMPT), node.chat(PROMPT)
        assert node.chat(PROMPT, stream=False).status == 200
        whole = node.chat(PROMPT, stream=False)
    assert "error" not in first.body.decode()
    assert second.status == 200
    error, done = second.events[-2:]
    assert (error["error"]["code"], done) == (500, "[DONE]")
    assert len(deltas(second.events)) == 2
    assert whole.status == 500


def test_every_nth_request_may_be_an_http_error(node: Sim) -> None:
    with fault(node, "http_error", "503,3"):
        statuses = [node.chat(PROMPT).status for _ in range(6)]
    assert statuses == [200, 200, 503, 200, 200, 503]


def test_the_engine_may_die_under_running_requests(kvsim: Start) -> None:
    sim = kvsim(*FAST, "--fault", "engine_death=2")
    assert sim.chat(PROMPT).events[-1] == "[DONE]"
    dead = sim.chat(PROMPT)
    assert (dead.status, "error" in dead.events[0]) == (200, True)
    assert sim.call("GET", "/health").status == 503
    assert sim.chat(PROMPT, stream=False).status == 500


def test_a_reused_connection_may_be_reset_before_any_byte(node: Sim) -> None:
    body = json.dumps({"prompt": "hello", "max_tokens": 1})
    kind = {"content-type": "application/json"}
    with fault(node, "reset_connection"):
        connection = HTTPConnection("127.0.0.1", node.port, timeout=60)
        connection.request("POST", "/v1/completions", body, kind)
        assert connection.getresponse().read()
        with pytest.raises((ConnectionResetError, RemoteDisconnected, BrokenPipeError)) as error:
            connection.request("POST", "/v1/completions", body, kind)
            connection.getresponse()
        assert not isinstance(error.value, RemoteDisconnected), "closed, not reset"
        connection.close()
        assert node.call("POST", "/v1/completions", json.loads(body)).status == 200


def closed_within(sim: Sim, seconds: float) -> bool:
    """Whether an idle connection is closed by the server in that time."""
    with socket.create_connection(("127.0.0.1", sim.port), timeout=seconds) as client:
        client.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.recv(1000).startswith(b"HTTP/1.1 200")
        try:
            return client.recv(1000) == b""
        except TimeoutError:
            return False


def test_idle_connections_may_be_closed_early(node: Sim) -> None:
    with fault(node, "idle_close_s", 0.2):
        assert closed_within(node, 30)
    assert not closed_within(node, 1)


def test_idle_connections_are_closed_after_the_time_that_was_asked_for(kvsim: Start) -> None:
    assert closed_within(kvsim("--keep-alive-s", "0.2"), 30)


def test_a_restart_begins_anew(kvsim: Start) -> None:
    sim = kvsim(*FAST)
    sim.chat(PROMPT)
    before = sim.metric("process_start_time_seconds")
    sim.fault("restart", 2)
    assert sim.chat(PROMPT).cached == 96
    assert sim.chat(PROMPT).cached == 0
    assert sim.metric("process_start_time_seconds") > before
    assert sim.metric("vllm:prompt_tokens_total") == 111


def spans(sim: Sim, count: int, **more: Any) -> list[float]:
    """Seconds from read to first token of requests that are all the same."""
    before = len(sim.truth())
    for _ in range(count):
        sim.chat("hello", max_tokens=1, **more)
    return [(one["first_token_ns"] - one["read_ns"]) / 1e9 for one in sim.truth()[before:]]


def test_steps_may_be_slow_drift_and_swing(kvsim: Start) -> None:
    sim = kvsim("--overhead-ms", "0", "--step-ms", "20")
    plain = min(spans(sim, 5))
    with fault(sim, "slow", 10):
        slowed = min(spans(sim, 2))
    assert slowed > max(0.2, 2 * plain)
    with fault(sim, "drift", 2):
        drifted = spans(sim, 6)
    assert drifted[-1] > 20e-3 * 2**6
    with fault(sim, "warmup_slow", 3):
        swinging = spans(sim, 4)
    assert swinging[0] > 0.08
    assert swinging[2] > 0.06
    assert min(spans(sim, 5)) < 0.06 + plain  # it is over


def test_a_stream_may_stall(node: Sim) -> None:
    with fault(node, "stall_s", 1):
        node.chat(PROMPT)
    writes = node.truth()[-1]["write_ns"]
    gaps = [(two - one) / 1e9 for one, two in pairwise(writes)]
    assert gaps.index(max(gaps)) == 1
    assert max(gaps) > 0.99


def test_answers_may_differ(node: Sim) -> None:
    with fault(node, "nondeterministic"):
        bodies = {str(deltas(node.chat(PROMPT).events)) for _ in range(3)}
    assert len(bodies) == 3


def test_a_hit_may_take_the_other_of_two_tokens_as_likely(node: Sim) -> None:
    """Both say so: the first tokens are equal, the tied ones lie close, the rest is another."""
    text = words(100, 260)
    with fault(node, "near_tie", 2):
        cold, hit = (
            [
                choice["logprobs"]["content"][0]
                for event in node.chat(text, logprobs=True, top_logprobs=2).events
                if isinstance(event, dict)
                for choice in event["choices"]
                if choice["logprobs"]
            ]
            for _ in "ch"
        )
    assert cold[0] == hit[0] and cold[2]["token"] != hit[2]["token"]
    for one, other in ((cold[1], hit[1]), (hit[1], cold[1])):
        first, second = one["top_logprobs"]
        assert (one["token"], second["token"]) == (first["token"], other["token"])
        assert 0 < first["logprob"] - second["logprob"] < 0.02


def test_blocks_may_come_damaged_out_of_the_store(kvsim: Start) -> None:
    """Whoever loads them, or finds them in its cache later, answers something else."""
    store = kvsim("--role", "store")
    a, b = (
        kvsim(*FAST, "--save-delay-ms", "0", "--store", store.url, *flags)
        for flags in ((), ("--fault", "corrupt_load"))
    )
    cold = deltas(a.chat(PROMPT).events)
    store.wait_for("master_key_count", 6)
    loaded, found = deltas(b.chat(PROMPT).events), deltas(b.chat(PROMPT).events)
    assert loaded == found != cold
    assert deltas(a.chat(PROMPT).events) == cold
    assert deltas(b.chat(words(100, 300)).events) == deltas(a.chat(words(100, 300)).events)


def test_a_hit_may_get_another_number_of_tokens(node: Sim) -> None:
    text = words(100, 140)
    with fault(node, "extra_tokens"):
        counts = [node.chat(text).usage["completion_tokens"] for _ in "ch"]
    assert counts == [4, 3]


def test_faults_are_listed_switched_and_refused_by_name(node: Sim) -> None:
    node.fault("slow", 1)
    assert node.call("GET", "/kvsim/fault").json == {"faults": {"slow": "1"}}
    assert node.call("DELETE", "/kvsim/fault").json == {"faults": {}}
    unknown = node.call("POST", "/kvsim/fault", {"name": "no_such"})
    assert unknown.status == 400
    assert "no_such" in unknown.json["error"]
    assert node.call("POST", "/kvsim/fault", b"[]").status == 400


@pytest.mark.parametrize(
    "text", ["none", "slow=fast", "slow=-1", "crlf=1", "store_reset_ignored", "http_error=500,x"]
)
def test_a_fault_that_cannot_be_is_an_error(text: str) -> None:
    with pytest.raises(FaultError):
        FaultSet((text,))


def test_every_fault_has_a_test() -> None:
    missing = [name for name in FAULTS if f'"{name}' not in SOURCE]
    assert missing == []
