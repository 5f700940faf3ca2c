"""The clears of `lmcache server` against answers of 0.5.6, and of 0.4.7 by its source.

A real 0.5.6 answers in the same words: tests/real/test_lmcache.py. What cannot be had from it at
will (objects in use, a server that is not ready) is made by hand.
"""

from __future__ import annotations

import json
import re

import pytest
from tests.kvengine.conftest import Reply, capture

from kvengine import lmcache_mp
from kvengine.server import Server

NEW, OLD, STATUS = "POST /cache/clear", "POST /clear-cache", "GET /status"
CLEARED = Reply('{"status":"ok","cleared":{"tier":"l1"}}')
FULL = capture("lmcache_mp_status_end.json")
EMPTY = re.sub(r'"total_object_count":\d+', '"total_object_count":0', FULL)


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lmcache_mp, "LEFT_WAITS_S", (0.0, 0.0))


async def test_l1_is_cleared_and_counted(serve) -> None:
    replay = (await serve()).on(NEW, CLEARED).on(STATUS, Reply(EMPTY))
    async with Server(replay.url) as server:
        outcome = await lmcache_mp.clear(server)
    assert (outcome.ok, outcome.retries) == (True, 0)
    assert "0 objects left" in outcome.answer
    assert json.loads(replay.bodies[0]) == {"tier": "l1", "force": False}
    assert outcome.answer.endswith("it has no L2") and lmcache_mp.advice(outcome) is None


async def test_a_second_level_is_not_cleared(serve) -> None:
    with_l2 = EMPTY.replace('"num_l2_adapters":0', '"num_l2_adapters":1')
    replay = (await serve()).on(NEW, CLEARED).on(STATUS, Reply(with_l2))
    async with Server(replay.url) as server:
        outcome = await lmcache_mp.clear(server)
    assert outcome.ok is True
    assert "its L2 is not cleared" in (lmcache_mp.advice(outcome) or "")


async def test_objects_in_use_stay_although_it_says_ok(serve) -> None:
    replay = (await serve()).on(NEW, CLEARED).on(STATUS, Reply(FULL), Reply(EMPTY))
    async with Server(replay.url) as server:
        assert (await lmcache_mp.clear(server))[::2] == (True, 1)
        replay.on(STATUS, Reply(FULL))
        outcome = await lmcache_mp.clear(server)
    assert (outcome.ok, outcome.retries) == (False, 2)
    assert "61 objects left" in outcome.answer and "stop the load" in lmcache_mp.advice(outcome)


async def test_an_older_server_has_another_route(serve) -> None:
    replay = (await serve()).on(OLD, Reply('{"status":"ok"}'))
    async with Server(replay.url) as server:
        outcome = await lmcache_mp.clear(server)
    assert replay.asked == [NEW, OLD, STATUS]
    assert outcome.ok is True and "left" not in outcome.answer, "it does not tell its count"


@pytest.mark.parametrize(
    ("reply", "ok", "says"),
    [
        (Reply('{"status":"error","reason":"engine not initialized"}', status=503), False, "again"),
        (Reply('{"status":"error"}', status=400), False, "log"),
        (Reply('{"status":"ok","cleared":{"tier":"l2"}}'), False, "log"),
        (Reply(""), None, "log"),
    ],
)
async def test_other_answers_are_no_clear(serve, reply, ok, says) -> None:
    replay = (await serve()).on(NEW, reply)
    async with Server(replay.url) as server:
        outcome = await lmcache_mp.clear(server)
    assert outcome.ok is ok and says in lmcache_mp.advice(outcome)
    assert replay.asked == [NEW]


async def test_another_server_at_that_port(serve) -> None:
    async with Server((await serve()).url) as server:
        outcome = await lmcache_mp.clear(server)
    assert outcome.ok is False and "metadata server" in lmcache_mp.advice(outcome)


def test_the_count_of_a_real_status_page() -> None:
    assert lmcache_mp.objects(FULL) == 61
    assert lmcache_mp.objects("{}") is None and lmcache_mp.objects("nonsense") is None
