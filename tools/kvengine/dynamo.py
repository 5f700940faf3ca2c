"""NVIDIA Dynamo's front end: it clears the blocks of every worker behind it.

It hands prompts to workers of its choice, so a prompt that misses proves nothing unless exactly
one worker was cleared. Facts are from the source (`lib/llm/src/http/service/clear_kv_blocks.rs`
at 06cb9b3b); never run against a real Dynamo. Its status is 200 whatever happened, and a worker's
success is that of the engine's reset, whose own result it does not read.
"""

from __future__ import annotations

from typing import Any

from kvengine.engine import Engine, Outcome
from kvengine.server import Server
from kvpipe.jsonl import json_object


async def clear(server: Server) -> Outcome:
    """Clear every worker's blocks; true only if some were and none failed. Raises Unreachable."""
    answer = await server.post("/clear_kv_blocks")
    value = json_object(answer.text) if answer.ok else {}
    done, failed = _list(value, "cleared_workers"), _list(value, "failed_workers")
    failed += [
        worker for worker in done if json_object(worker.get("response")).get("status") == "error"
    ]
    if not done and not failed:
        return Outcome(False, answer.short(), 0)
    told = [f"{worker.get('name')}: {_trouble(worker)}" for worker in failed]
    good = len(done) - sum(worker in failed for worker in done)
    shown = "; ".join([f"{answer.status} {good} workers cleared, {len(failed)} failed", *told])
    return Outcome(not failed, shown, 0, servers=good + len(failed))


def _trouble(worker: dict[str, Any]) -> str:
    return str(worker.get("error") or worker.get("response") or worker.get("status"))


def _list(value: dict[str, Any], key: str) -> list[dict[str, Any]]:
    found = value.get(key)
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


def advice(outcome: Outcome) -> str | None:
    """What to do when not every worker was cleared."""
    if outcome.ok:
        return None
    if outcome.answer.startswith(("404", "405")):
        return "no such route: name Dynamo's front end"
    if "No active worker groups" in outcome.answer:
        return "no worker offers it: workers must be up, of an engine that can be cleared"
    return "stop the load, try again, or restart the workers with --command"


ENGINE = Engine(
    kind="dynamo",
    tier="engine",
    clears="clear KV blocks",
    request="POST /clear_kv_blocks",
    clear=clear,
    advice=advice,
    counters={},
    gauges={},
    frontend=True,
)
