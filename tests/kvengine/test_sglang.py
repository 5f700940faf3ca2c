"""SGLang's clears against its answers, made by hand after the source of 0.5.23 and 0.5.5."""

from __future__ import annotations

import pytest
from tests.kvengine.conftest import Reply

from kvengine import sglang
from kvengine.counters import counter, gauge, snapshot_of
from kvengine.engines import split_engine
from kvengine.server import Server

FLUSHED = Reply("Cache flushed.\nPlease check backend logs for more details.\n")
BUSY = Reply("Flush cache failed: 1 running requests, 0 queued requests.\n", status=400)

METRICS = """\
# TYPE sglang:num_running_reqs gauge
sglang:num_running_reqs{model_name="m"} 1
sglang:num_queue_reqs{model_name="m"} 2
sglang:token_usage{model_name="m"} 0.25
# TYPE sglang:prompt_tokens_total counter
sglang:prompt_tokens_total{model_name="m"} 1000
# TYPE sglang:cached_tokens_total counter
sglang:cached_tokens_total{cache_source="device",model_name="m"} 400
sglang:cached_tokens_total{cache_source="host",model_name="m"} 100
sglang:cached_tokens_total{cache_source="storage_mooncake",model_name="m"} 200
"""


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sglang, "BUSY_WAITS_S", (0.0, 0.0, 0.0))


def test_it_is_known_by_its_kind() -> None:
    assert split_engine("sglang=http://a:30000")[0] is sglang.ENGINE


async def test_a_flush_that_says_so(serve) -> None:
    replay = (await serve()).on("POST /flush_cache", FLUSHED)
    async with Server(replay.url) as server:
        outcome = await sglang.flush(server)
    assert (outcome.ok, outcome.retries) == (True, 0)
    assert replay.asked == ["POST /flush_cache?timeout=10"]


async def test_a_refusal_for_running_requests_is_repeated(serve) -> None:
    replay = (await serve()).on("POST /flush_cache", BUSY, BUSY, FLUSHED)
    async with Server(replay.url) as server:
        assert (await sglang.flush(server))[::2] == (True, 2)
        replay.on("POST /flush_cache", BUSY)
        outcome = await sglang.flush(server)
    assert (outcome.ok, outcome.retries) == (False, 3)
    assert "stop the load" in (sglang.advice(outcome) or "")


@pytest.mark.parametrize(
    ("reply", "ok", "says"),
    [
        (Reply(""), None, "only a probe can tell"),
        (Reply('{"error":"Unauthorized"}', status=401), False, "--admin-api-key"),
        (Reply("", status=404), False, "own URL"),
    ],
)
async def test_other_answers_are_not_taken_for_a_flush(serve, reply, ok, says) -> None:
    replay = (await serve()).on("POST /flush_cache", reply)
    async with Server(replay.url) as server:
        outcome = await sglang.flush(server)
    assert outcome.ok is ok and len(replay.asked) == 1
    assert says in (sglang.advice(outcome) or "")


async def test_the_storage_is_cleared_under_its_new_name_else_its_old(serve) -> None:
    new, old = "POST /hicache/storage-backend/clear", "POST /clear_hicache_storage_backend"
    cleared = Reply("Hierarchical cache storage backend cleared.\n")
    replay = (await serve()).on(new, cleared)
    async with Server(replay.url) as server:
        assert (await sglang.clear_storage(server)).ok is None, "said, but that is no evidence"
        assert replay.asked == [new]
        replay.on(new).on(old, cleared)  # 0.5.5
        assert (await sglang.clear_storage(server)).answer.startswith("200")
        assert replay.asked[1:] == [new, old]
        replay.on(new, Reply("", status=400))
        assert (await sglang.clear_storage(server)).ok is False
        assert replay.asked[3:] == [new], "a refusal is no reason to try the other name"
        replay.on(new).on(old)
        assert (await sglang.clear_storage(server)).ok is None


def test_the_storage_may_be_other_peoples_too() -> None:
    found = sglang.storage({}, None)
    assert found is not None and found.shared


def test_its_counters_under_neutral_names() -> None:
    look = snapshot_of(METRICS, 0)
    assert look is not None
    assert [counter(look, name) for name in ("prompt_tokens", "computed_tokens")] == [1000, 300]
    assert [counter(look, name) for name in ("local_tokens", "external_tokens")] == [500, 200]
    assert [gauge(look, name) for name in ("running", "waiting", "kv_usage_ratio")] == [1, 2, 0.25]
    assert counter(look, "requests") is None, "absent, not 0"
    alone = snapshot_of('sglang:cached_tokens_total{cache_source="total"} 7', 0)
    assert alone is not None
    assert counter(alone, "local_tokens") is None and counter(alone, "external_tokens") is None
