"""Resets and removals against real answers."""

import pytest
from tests.kvengine.conftest import Reply, capture

from kvengine import mooncake, vllm
from kvengine.engines import ENGINES, split_engine
from kvengine.server import Server
from kvpipe.process import UsageError

KEYS = capture("mooncake_get_all_keys_vllm.txt")


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm, "BUSY_WAITS_S", (0.0, 0.0, 0.0))


def test_a_module_with_an_engine_is_found() -> None:
    assert {"vllm", "mooncake"} <= set(ENGINES)
    engine, url = split_engine("vllm=http://a:8000/?x=y")
    assert (engine.kind, url) == ("vllm", "http://a:8000/?x=y")


@pytest.mark.parametrize("text", ["redis=http://a", "http://a", "vllm=", "vllm"])
def test_an_unknown_kind_lists_the_known(text: str) -> None:
    with pytest.raises(UsageError, match=r"known: .*mooncake.*vllm|write KIND=URL"):
        split_engine(text)


async def test_a_reset_that_says_so(serve) -> None:
    replay = await serve()
    replay.on("POST /reset_prefix_cache", Reply.recorded("vllm_reset_prefix_cache.json"))
    async with Server(replay.url) as server:
        ok, answer, retries, _ = await vllm.reset_local(server)
    assert (ok, answer, retries) == (True, '200 {"success":true}', 0)
    assert replay.asked == ["POST /reset_prefix_cache"], "nothing external is asked for"


async def test_busy_is_repeated(serve) -> None:
    busy = Reply.recorded("vllm_reset_while_running.json")
    replay = await serve()
    replay.on("POST /reset_prefix_cache", busy, busy, Reply('{"success":true}'))
    async with Server(replay.url) as server:
        assert (await vllm.reset_local(server))[::2] == (True, 2)
        replay.on("POST /reset_prefix_cache", busy)
        outcome = await vllm.reset_local(server)
    assert (outcome.ok, outcome.retries) == (False, 3)
    assert "stop the load" in (vllm.advice(outcome) or "")


async def test_an_empty_200_is_no_evidence(serve) -> None:
    replay = (await serve()).on("POST /reset_prefix_cache", Reply(""))
    async with Server(replay.url) as server:
        outcome = await vllm.reset_local(server)
    assert outcome.ok is None
    assert "0.25" in (vllm.advice(outcome) or "")


async def test_without_dev_mode_the_way_out_is_named(serve) -> None:
    async with Server((await serve()).url) as server:
        outcome = await vllm.reset_local(server)
    assert outcome.ok is False
    assert "VLLM_SERVER_DEV_MODE=1" in (vllm.advice(outcome) or "")


async def test_the_other_caches_of_a_vllm_prove_nothing(serve) -> None:
    """0.32.0 answers an empty 200; a version without the route a 404, which does no harm."""
    replay = await serve()
    replay.on("POST /reset_mm_cache", Reply.recorded("vllm_reset_mm_cache.json"))
    async with Server(replay.url) as server:
        outcomes = [await other.clear(server) for other in vllm.ENGINE.beside]
        replay.on("POST /reset_mm_cache", Reply("", status=500))
        broken = await vllm.ENGINE.beside[0].clear(server)
    assert replay.asked[:2] == ["POST /reset_mm_cache", "POST /reset_encoder_cache"]
    assert [outcome.ok for outcome in outcomes] == [None, None]
    assert outcomes[1].answer.startswith("404")
    assert broken.ok is False


STORE = 'vllm:mooncake_store_operation_time_seconds_count{operation="save_put"}'
OFFLOAD = "vllm:kv_offload_load_bytes_total"
LMCACHE_MP = "vllm:lmcache_mp_lookup_duration_seconds_count"
SHARED = {STORE, LMCACHE_MP}


@pytest.mark.parametrize(
    ("series", "version", "name"),
    [
        ({STORE: 1.0}, "0.32.0", "MooncakeStoreConnector"),
        ({STORE: 1.0}, "0.25.1+cpu", "MooncakeStoreConnector"),
        ({STORE: 1.0}, "0.22.1", None),  # the connector was there, its reset was not
        ({STORE: 1.0}, None, None),
        ({OFFLOAD: 1.0}, "0.33.0", "OffloadingConnector"),
        ({OFFLOAD: 1.0, STORE: 1.0}, "0.33.0", "MooncakeStoreConnector"),  # one reset for both
        ({LMCACHE_MP: 3.0}, "0.32.0", "LMCacheMPConnector"),
        ({"lmcache:num_hit_tokens_total": 1.0}, "0.33.0", None),  # it says success, and ignores it
        ({}, "0.33.0", None),
    ],
)
def test_an_external_reset_is_sent_only_where_it_acts(series, version, name) -> None:
    found = vllm.external(series, version)
    assert (found.name if found else None) == name
    assert found is None or found.shared is bool(SHARED & set(series))


async def test_an_external_reset_is_never_evidence(serve) -> None:
    replay = (await serve()).on("POST /reset_prefix_cache", Reply('{"success":true}'))
    async with Server(replay.url) as server:
        assert (await vllm.reset_external(server)).ok is None
        replay.on("POST /reset_prefix_cache", Reply('{"success":false}'))
        assert (await vllm.reset_external(server)).ok is False
    assert replay.asked[0] == "POST /reset_prefix_cache?reset_external=true"


async def test_a_store_counted_and_emptied(serve) -> None:
    replay = await serve()
    replay.on("GET /metrics", Reply(capture("mooncake_metrics_vllm_1_after_A.txt")))
    replay.on("GET /get_all_keys", Reply(KEYS))
    replay.on("POST /api/v1/remove_all", Reply('{"success":true,"removed_count":21}'))
    async with Server(replay.url) as server:
        found = await mooncake.keys(server)
        assert found is not None
        assert len(found) == await mooncake.key_count(server) == 21
        assert (await mooncake.remove_all(server, force=True)).ok is True
    assert replay.asked[-1] == "POST /api/v1/remove_all?force=true"


async def test_an_older_master_or_the_metadata_server_has_no_such_api(serve) -> None:
    async with Server((await serve()).url) as server:
        outcome = await mooncake.remove_all(server, force=True)
        assert await mooncake.keys(server) is None
        assert await mooncake.key_count(server) is None
    assert outcome.ok is False
    assert "9003" in (mooncake.advice(outcome) or "")


def test_whose_a_key_is() -> None:
    key = KEYS.splitlines()[0]
    assert mooncake.is_of(key, ["/somewhere/model"])
    assert mooncake.is_of("ns@" + key, ["model"])
    assert not mooncake.is_of(key, ["other", ""])
    assert mooncake.is_of("vllm@Qwen/Qwen2.5-7B@1@0@3bb7", ["Qwen/Qwen2.5-7B"])
    assert not mooncake.is_of("a/plain/key", ["Qwen/Qwen2.5-7B"])
