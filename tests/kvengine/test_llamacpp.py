"""llama.cpp's slots against answers after its own documentation (tools/server at 00dc8057)."""

from __future__ import annotations

import json

import pytest
from tests.kvengine.conftest import Reply

from kvengine import llamacpp
from kvengine.server import Server

SLOTS = Reply(json.dumps([{"id": 0, "n_ctx": 4096}, {"id": 1, "n_ctx": 4096}]))
UNSUPPORTED = Reply(
    '{"error":{"code":501,"message":"This server does not support slots action. Start it with '
    '`--slot-save-path`","type":"not_supported_error"}}',
    status=501,
)


def erased(slot: int, tokens: int) -> Reply:
    return Reply(json.dumps({"id_slot": slot, "n_erased": tokens}))


async def test_every_slot_is_erased_and_what_survives_is_said(serve) -> None:
    replay = (await serve()).on("GET /slots", SLOTS)
    replay.on("POST /slots/0", erased(0, 1745)).on("POST /slots/1", erased(1, 0))
    async with Server(replay.url) as server:
        outcome = await llamacpp.clear(server)
    assert replay.asked == [
        *("GET /slots", "POST /slots/0?action=erase", "POST /slots/1?action=erase")
    ]
    assert outcome.ok is True and "2 slots erased, 1745 tokens" in outcome.answer
    assert "--cache-ram 0" in llamacpp.advice(outcome)


async def test_one_slot_that_was_not_erased_is_a_failure(serve) -> None:
    replay = (await serve()).on("GET /slots", SLOTS)
    replay.on("POST /slots/0", erased(0, 3)).on("POST /slots/1", Reply('{"error":{}}', status=500))
    async with Server(replay.url) as server:
        outcome = await llamacpp.clear(server)
    assert outcome.ok is False and "(slot 1)" in outcome.answer


@pytest.mark.parametrize("route", ["GET /slots", "POST /slots/0"])
async def test_without_its_flags_they_are_named(serve, route: str) -> None:
    replay = (await serve()).on("GET /slots", Reply('[{"id":0}]')).on(route, UNSUPPORTED)
    async with Server(replay.url) as server:
        outcome = await llamacpp.clear(server)
    assert outcome.ok is False
    assert "--slot-save-path" in llamacpp.advice(outcome)


@pytest.mark.parametrize("text", ["[]", "{}", "nonsense", '[{"n_ctx":1}]'])
async def test_no_slots_is_no_clear(serve, text: str) -> None:
    replay = (await serve()).on("GET /slots", Reply(text))
    async with Server(replay.url) as server:
        assert (await llamacpp.clear(server)).ok is False


async def test_another_server_has_no_slots(serve) -> None:
    async with Server((await serve()).url) as server:
        outcome = await llamacpp.clear(server)
    assert outcome.ok is False and "own server" in llamacpp.advice(outcome)


def test_an_answer_of_another_slot_is_none() -> None:
    assert llamacpp.erased_tokens('{"id_slot":1,"n_erased":4}', 0) is None
    assert llamacpp.erased_tokens('{"id_slot":0,"n_erased":4}', 0) == 4
