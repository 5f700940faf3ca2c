"""The probes against recorded answers, and against servers that no engine would be."""

from __future__ import annotations

from tests.fakeserver import Close, FakeServer, Hang, Pause, Received, chunked_answer, sized_answer
from tests.kvengine.conftest import capture

from kvdoctor.probes.acquaintance import meet
from kvdoctor.probes.stores import meet_store
from kvdoctor.probes.wire import stream_once, watch_idle
from kvengine.engines import ENGINES
from kvengine.server import Server

STREAM = capture("vllm_completions_stream_cold_usage.sse").encode()
EVENTS = STREAM.count(b"data: ")
TOKENS = 8
MISSING = sized_answer(b'{"detail":"Not Found"}', status="404 Not Found")


async def stream(server: FakeServer):  # type: ignore[no-untyped-def]
    return await stream_once(server.url, {"X-Team": "a"}, "/v1/completions", {"stream": True})


async def test_a_stream_event_by_event_is_as_many_reads() -> None:
    with FakeServer(chunked_answer(STREAM, pause_s=0.01)) as server:
        seen = await stream(server)
    assert (seen.status, seen.tokens, seen.encoding) == (200, TOKENS, None)
    assert EVENTS // 2 <= seen.reads <= EVENTS + 2
    assert server.received[0].headers["x-team"] == "a"


async def test_a_stream_at_once_is_one_read_and_its_tokens_are_known() -> None:
    with FakeServer(chunked_answer(STREAM, at_once=True)) as server:
        seen = await stream(server)
    assert (seen.tokens, seen.reads <= 2) == (TOKENS, True)


async def test_a_stream_that_breaks_off_is_what_came_of_it() -> None:
    half = b"".join(part for part in chunked_answer(STREAM) if isinstance(part, bytes))[:900]
    with FakeServer([half, Close()]) as server:
        seen = await stream(server)
    assert (seen.status, seen.tokens) == (200, None)


async def test_nobody_there_is_no_evidence() -> None:
    with FakeServer([Close()]) as server:
        assert await stream(server) is None
        url = server.url
    assert await stream_once(url, {}, "/v1/completions", {}) is None
    assert await watch_idle(url, {}, 0.2) is None


async def test_an_idle_connection_is_watched_until_it_is_closed() -> None:
    with FakeServer([*sized_answer(b"{}"), Pause(0.2), Close()]) as server:
        seen = await watch_idle(server.url, {}, 20)
    assert seen is not None and seen.closed_s is not None
    assert 0.15 < seen.closed_s < 20
    with FakeServer([*sized_answer(b"{}"), Hang()]) as server:
        seen = await watch_idle(server.url, {}, 0.3)
    assert seen is not None and seen.closed_s is None


def vllm(request: Received):  # type: ignore[no-untyped-def]
    """Recorded answers of a vLLM in development mode, on CPU."""
    path = request.line.split()[1].partition("?")[0]
    if path == "/v1/models":
        return sized_answer(capture("vllm_models.json").partition("\n")[2].strip().encode())
    if path == "/metrics":
        return sized_answer(capture("vllm_metrics_nodeB_mooncakestore.txt").encode())
    if path == "/reset_prefix_cache":
        return sized_answer(b"{}", status="405 Method Not Allowed")
    return sized_answer(b"", status="200 OK") if path == "/health" else MISSING


async def test_a_recorded_vllm_is_understood() -> None:
    with FakeServer(vllm) as fake:
        async with Server(fake.url) as server:
            seen = await meet(server, None, endpoint=True)
    assert seen.trouble is None
    assert (seen.kind, seen.metrics, seen.several, seen.running) == ("vllm", True, None, 0.0)
    held = seen.config
    assert (held.block_tokens, held.cache_tokens) == (128, 262144)
    assert (held.prefix_caching, held.hash_algorithm, held.cache_dtype) == (True, "sha256", "auto")
    assert (held.dtype, held.connector) == (None, None), "no /server_info: not told"
    assert (seen.reset_status, seen.health) == (405, 200)
    assert seen.open_routes == ("POST /reset_prefix_cache",)
    assert seen.reach == "loopback"
    assert (seen.head, seen.floor_tokens) == (None, None)


async def test_a_recorded_lmcache_tells_its_chunk() -> None:
    status = capture("lmcache_mp_status_end.json").encode()

    def answer(request: Received):  # type: ignore[no-untyped-def]
        return sized_answer(status) if "/status" in request.line else MISSING

    with FakeServer(answer) as fake:
        async with Server(fake.url) as server:
            seen = await meet_store(ENGINES["lmcache-mp"], server)
    assert (seen.trouble, seen.chunk_tokens) == (None, 256)
    assert seen.open_routes == ("POST /cache/clear",)


async def test_what_is_no_store_is_told() -> None:
    with FakeServer(MISSING) as fake:
        async with Server(fake.url) as server:
            seen = await meet_store(ENGINES["mooncake"], server)
    assert seen.trouble is not None and "admin port, 9003" in seen.trouble
