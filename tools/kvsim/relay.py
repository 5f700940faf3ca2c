"""One answer on its way through a proxy: bytes as they come, or events made into chat's."""

from collections.abc import Iterable
from typing import Any

import aiohttp
import msgspec
from aiohttp import web

from kvpipe.jsonl import NOT_JSON
from kvsim.truth import Trace

_END = b"\n\n"
Json = dict[str, Any]


def framed(event: bytes) -> bytes:
    return b"data: " + event + _END


def head_events(told: Json, *, chat: bool, last: bool) -> list[Json]:
    """The prefiller's token as the beginning of a stream; `last`: there is no more."""
    choice: Json = told["choices"][0]
    kind = "chat.completion.chunk" if chat else "text_completion"
    head = {
        "id": told["id"], "object": kind, "created": told["created"], "model": told["model"],
    }  # fmt: skip
    finish = "length" if last else None
    if not chat:
        inner = {
            "index": 0, "text": choice["text"], "logprobs": None, "finish_reason": finish,
            "stop_reason": None,
        }  # fmt: skip
        return [{**head, "choices": [inner], "usage": None}]
    deltas: list[Json] = [{"role": "assistant", "content": ""}, {"content": choice["text"]}]
    events = [
        {**head, "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}]}
        for delta in deltas
    ]
    events[-1]["choices"][0]["finish_reason"] = finish
    return events


def as_chat(event: bytes) -> bytes:
    """A completion's chunk in chat's form; what has no choices, usage for one, stays as it is."""
    try:
        told = msgspec.json.decode(event, type=Json)
        choice = told["choices"][0]
        text = choice["text"]
    except (KeyError, IndexError, *NOT_JSON):
        return event
    inner = {
        "index": 0, "delta": {"content": text}, "logprobs": choice.get("logprobs"),
        "finish_reason": choice.get("finish_reason"),
    }  # fmt: skip
    head = {key: told[key] for key in ("id", "created", "model")}
    return msgspec.json.encode({**head, "object": "chat.completion.chunk", "choices": [inner]})


class Relay:
    """Writes to the client what comes from behind."""

    def __init__(self, request: web.Request, trace: Trace) -> None:
        self._request = request
        self._trace = trace
        self._response = web.StreamResponse(headers={"content-type": "application/json"})

    async def open(self) -> web.StreamResponse:
        """The head of the answer: 200 whatever comes later."""
        self._trace.status = 200
        self._response.enable_chunked_encoding()
        await self._response.prepare(self._request)
        return self._response

    async def send(self, events: Iterable[Json], *, tokens: bool) -> None:
        """Each event in a write of its own; the last one carries the token."""
        told = [framed(msgspec.json.encode(event)) for event in events]
        for at, data in enumerate(told, 1):
            if tokens and at == len(told):
                self._trace.stamp()
            await self._response.write(data)

    async def passed(self, content: aiohttp.StreamReader, *, chat: bool) -> None:
        """Everything that comes, to its end. Raises what reading and writing raise."""
        if chat:
            await self._converted(content)
        else:
            async for data in content.iter_any():
                self._stamp(data)
                await self._response.write(data)
        self._trace.complete = True
        await self._response.write_eof()

    async def _converted(self, content: aiohttp.StreamReader) -> None:
        async for line in content:
            event = line.strip().removeprefix(b"data: ")
            if not event:
                continue
            if event != b"[DONE]":
                event = as_chat(event)
                self._stamp(event)
            await self._response.write(framed(event))

    def _stamp(self, data: bytes) -> None:
        """Chunks with tokens in what is written now; on a busy machine several come at once."""
        tokens = data.count(b'"choices":[{') - data.count(b'"role":"assistant"')
        if tokens > 0:
            self._trace.stamp(tokens)

    async def finish(self) -> None:
        self._trace.complete = True
        await self._response.write(framed(b"[DONE]"))
        await self._response.write_eof()

    def cut(self) -> None:
        """The connection ends in the middle, as an exception in a real one ends it."""
        if self._request.transport is not None:
            self._request.transport.close()
