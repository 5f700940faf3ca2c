"""Dynamo's clear against answers made by hand after its source at 06cb9b3b."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.kvengine.conftest import Reply

from kvengine import dynamo
from kvengine.engine import Outcome
from kvengine.server import Server

CLEAR = "POST /clear_kv_blocks"


def done(number: int, status: str = "success") -> dict[str, Any]:
    return {
        "name": f"dynamo/backend-instance-{number}",
        "endpoint": "dynamo/backend/clear_kv_blocks",
        "status": "Successfully cleared kv blocks for instance",
        "response": json.dumps({"status": status, "message": "KV cache cleared"}),
    }


def failed(number: int) -> dict[str, Any]:
    return {
        "name": f"dynamo/backend-instance-{number}",
        "endpoint": "dynamo/backend/clear_kv_blocks",
        "status": "Failed to send request for instance",
        "error": "no responders",
    }


async def cleared(serve, value: dict[str, Any]) -> Outcome:
    replay = (await serve()).on(CLEAR, Reply(json.dumps(value)))
    async with Server(replay.url) as server:
        return await dynamo.clear(server)


async def test_every_worker_that_was_cleared_is_counted(serve) -> None:
    outcome = await cleared(serve, {"cleared_workers": [done(1), done(2)], "failed_workers": []})
    assert (outcome.ok, outcome.servers) == (True, 2)


async def test_one_worker_that_failed_is_a_failure_and_is_named(serve) -> None:
    outcome = await cleared(serve, {"cleared_workers": [done(1)], "failed_workers": [failed(2)]})
    assert (outcome.ok, outcome.servers) == (False, 2)
    assert "backend-instance-2: no responders" in outcome.answer


async def test_an_error_inside_a_success_is_a_failure(serve) -> None:
    value = {"cleared_workers": [done(1), done(2, "error")], "failed_workers": []}
    outcome = await cleared(serve, value)
    assert (outcome.ok, outcome.servers) == (False, 2)
    assert "1 workers cleared, 1 failed" in outcome.answer


@pytest.mark.parametrize(
    "value",
    [
        {"message": "No active worker groups found"},
        {"message": "Distributed runtime not available"},
        {"cleared_workers": [], "failed_workers": []},
    ],
)
async def test_a_200_that_cleared_nobody_is_a_failure(serve, value) -> None:
    outcome = await cleared(serve, value)
    assert (outcome.ok, outcome.servers) == (False, None)
    assert dynamo.advice(outcome)


async def test_another_server_has_no_such_route(serve) -> None:
    async with Server((await serve()).url) as server:
        outcome = await dynamo.clear(server)
    assert outcome.ok is False and "front end" in (dynamo.advice(outcome) or "")
