"""LMCache's clears against its answers, made by hand after the source of 0.5.6 and 0.4.7.

What `lmcache server` says of itself is a real answer of 0.5.6.
"""

from __future__ import annotations

import json

import pytest
from tests.kvengine.conftest import Replay, Reply

from kvengine import lmcache
from kvengine.server import Server

CLEAR = "DELETE /cache/clear"
NO_ENGINE = Reply('{"error":"LMCache engine not configured"}', status=503)


def removed(tokens: int) -> Reply:
    return Reply(json.dumps({"status": "success", "num_removed": tokens}))


def meta(worker: int, world: int) -> Reply:
    return Reply(json.dumps({"world_size": world, "worker_id": worker}, indent=2))


async def neighbours(serve) -> tuple[Replay, Replay]:
    """Two servers on ports next to each other, as workers are."""
    while True:
        first = await serve()
        try:
            return first, await serve(int(first.url.rpartition(":")[2]) + 1)
        except OSError:
            continue  # somebody has that port: try with another first


@pytest.mark.parametrize("named", [0, 1])
async def test_every_worker_is_cleared_whichever_is_named(serve, named: int) -> None:
    workers = await neighbours(serve)
    for number, worker in enumerate(workers):
        worker.on("GET /meta", meta(number, 2)).on(CLEAR, removed(768 + 256 * number))
    async with Server(workers[named].url) as server:
        outcome = await lmcache.clear(server)
    assert all(worker.asked.count(CLEAR) == 1 for worker in workers)
    assert (outcome.ok, outcome.servers) == (True, 2)
    assert "1792 tokens in 2 of 2 workers" in outcome.answer


async def test_a_worker_that_does_not_answer_leaves_it_uncleared(serve) -> None:
    first, second = await neighbours(serve)
    first.on("GET /meta", meta(0, 2)).on(CLEAR, removed(256))
    second.on(CLEAR, Reply('{"error":"boom"}', status=500))
    async with Server(first.url) as server:
        outcome = await lmcache.clear(server)
    assert outcome.ok is False
    assert "in 1 of 2 workers" in outcome.answer
    assert "include_index_list" in lmcache.advice(outcome)


async def test_without_metadata_only_the_named_worker_is_cleared_and_it_says_so(serve) -> None:
    replay = (await serve()).on(CLEAR, removed(0))
    async with Server(replay.url) as server:
        outcome = await lmcache.clear(server)
    assert replay.asked[-1] == CLEAR and len(replay.asked) == 2
    assert outcome.ok is True and "--engine lmcache=URL" in outcome.answer


async def test_success_never_speaks_for_what_is_behind_it(serve) -> None:
    replay = (await serve()).on(CLEAR, removed(0))
    async with Server(replay.url) as server:
        said = lmcache.advice(await lmcache.clear(server))
    assert "never clears a disk or a remote tier" in said and "--mooncake" in said


async def test_the_schedulers_port_has_no_cache(serve) -> None:
    replay = (await serve()).on(CLEAR, NO_ENGINE)
    async with Server(replay.url) as server:
        outcome = await lmcache.clear(server)
    assert outcome.ok is False and "worker 0 is one above" in lmcache.advice(outcome)


async def test_an_older_one_or_another_server_has_no_such_route(serve) -> None:
    async with Server((await serve()).url) as server:
        outcome = await lmcache.clear(server)
    assert outcome.ok is False and "0.3.15" in lmcache.advice(outcome)


@pytest.mark.parametrize(
    "text", ["", "[]", '{"status":"error","num_removed":3}', '{"status":"success"}', "<html>"]
)
def test_only_success_with_a_count_is_success(text: str) -> None:
    assert lmcache.removed_tokens(text) is None


@pytest.mark.parametrize(
    "text", ["[]", "null", "{", '{"world_size":2}', '{"world_size":9999999,"worker_id":0}']
)
async def test_metadata_that_makes_no_sense_names_no_ports(serve, text: str) -> None:
    replay = (await serve()).on("GET /meta", Reply(text))
    async with Server(replay.url) as server:
        assert await lmcache.worker_ports(server) is None
