"""Log probabilities with the answers (`--keep-output`): asked for where the server gives them.

They tell a near tie from a wrong answer. A server that refuses the fields would refuse every
request, so one short request asks first, before anything is measured.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

import msgspec

from kvengine.counters import counter, snapshot
from kvengine.server import Server
from kvload.settings import Api
from kvpipe.jsonl import NOT_JSON

CANDIDATES = 5
"""Likeliest tokens at each place: the most that OpenAI's completions give."""
ANSWER_S = 600.0
COUNTED_S = 5.0
"""How long a metrics page may lag behind an answer."""


def fields_of(api: Api, count: int) -> dict[str, Any]:
    """The fields of a request's body that ask for them."""
    if api == "chat":
        return {"logprobs": True, "top_logprobs": count}
    return {"logprobs": count}


async def why_none(server: Server, model: str, api: Api) -> str | None:
    """Why this server gives none, to be shown; None if it does. Raises Unreachable."""
    text = "one two three"
    asked: dict[str, Any] = {"messages": [{"role": "user", "content": text}]}
    if api == "completions":
        asked = {"prompt": text}
    path = "/v1/chat/completions" if api == "chat" else "/v1/completions"
    body = {"model": model, "max_tokens": 1, "temperature": 0} | asked | fields_of(api, CANDIDATES)
    before = await _prompt_tokens(server)
    answer = await server.post(path, json=body, timeout_s=ANSWER_S)
    if not answer.ok:
        return answer.short(120)
    deadline = time.perf_counter() + COUNTED_S
    while before is not None and await _prompt_tokens(server) == before:
        if time.perf_counter() > deadline:
            break
        await asyncio.sleep(0.05)  # it must not be counted within a round
    try:
        told = msgspec.json.decode(answer.text)
        return None if told["choices"][0]["logprobs"] else "its answers carry none"
    except (LookupError, TypeError, *NOT_JSON):
        return "its answers carry none"


async def _prompt_tokens(server: Server) -> float | None:
    counted = await snapshot(server)
    return None if counted is None else counter(counted, "prompt_tokens")
