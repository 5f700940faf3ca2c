"""The flat mode: constant times and next to no work, for the calibration of clients.

Every token of a request is the same bytes, framed once; a timer writes them on an absolute
schedule. No cache, no tokenizer, no faults. Prompt tokens are a guess (four bytes each).
"""

import asyncio
import json
import secrets
import time
from typing import Any

import msgspec
from aiohttp import web

from kvsim.accounting import Accounting
from kvsim.intake import Body, read_length, read_object
from kvsim.options import NodeOptions
from kvsim.truth import Trace

_TEXT = " flat"


def _frame(event: bytes) -> bytes:
    """An event inside an HTTP/1.1 chunk, ready for the transport."""
    data = b"data: " + event + b"\n\n"
    return b"%x\r\n%s\r\n" % (len(data), data)


class Stream:
    """Writes one answer's tokens; ``done`` is set after the last."""

    def __init__(
        self, transport: asyncio.WriteTransport, trace: Trace, count: int, options: NodeOptions
    ) -> None:
        self.done = asyncio.Event()
        self._transport = transport
        self._trace = trace
        self._left = count
        self._options = options
        self._loop = asyncio.get_running_loop()
        self._due_s = self._loop.time() + options.ttft_s
        self.first = self.middle = self.last = b""
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        self._timer = self._loop.call_at(self._due_s, self._tick)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _tick(self) -> None:
        self._left -= 1
        data = self.first or (self.middle if self._left else self.last)
        self.first = b""
        self._trace.stamp()
        self._transport.write(data)
        if self._left:
            self._due_s += self._options.itl_s
            self._timer = self._loop.call_at(self._due_s, self._tick)
        else:
            self.done.set()


class Flat:
    """Answers generation requests of a flat node."""

    def __init__(self, options: NodeOptions, books: Accounting) -> None:
        self._options = options
        self._books = books

    async def generate(
        self, request: web.Request, body: Body, trace: Trace, *, chat: bool
    ) -> web.StreamResponse:
        """Reads ``max_tokens``, ``stream`` and ``stream_options`` and nothing else. Raises
        Refused."""
        count = read_length(body, self._options)
        read_object(body, "stream_options")
        prompt = max(1, (request.content_length or 4) // 4)
        trace.prompt_tokens, trace.output_tokens = prompt, count
        trace.cached_local = trace.cached_remote = 0
        try:
            if body.get("stream"):
                return await self._stream(request, body, trace, chat)
            await asyncio.sleep(self._options.ttft_s + (count - 1) * self._options.itl_s)
            trace.stamp()
            trace.status, trace.complete = 200, True
            return self._whole(trace, chat)
        finally:
            trace.end_ns = time.perf_counter_ns()
            self._count(prompt, count)

    def _count(self, prompt: int, count: int) -> None:
        metrics = self._books.metrics
        metrics.count("prompt_tokens", prompt)
        metrics.count("prompt_tokens_by_source", prompt, source="local_compute")
        metrics.count("generation_tokens", count)
        metrics.count("request_success", finished_reason="length")

    def _head(self, trace: Trace, chat: bool, *, whole: bool = False) -> dict[str, Any]:
        kind = ("chat.completion" + ("" if whole else ".chunk")) if chat else "text_completion"
        name = trace.request_id or secrets.token_hex(8)
        return {
            "id": ("chatcmpl-" if chat else "cmpl-") + name, "object": kind,
            "created": int(time.time()), "model": self._options.model,
        }  # fmt: skip

    def _usage(self, trace: Trace) -> dict[str, Any]:
        prompt, count = trace.prompt_tokens or 0, trace.output_tokens or 0
        return {
            "prompt_tokens": prompt, "total_tokens": prompt + count, "completion_tokens": count,
            "prompt_tokens_details": {"cached_tokens": 0},
        }  # fmt: skip

    def _whole(self, trace: Trace, chat: bool) -> web.Response:
        text = _TEXT * (trace.output_tokens or 0)
        content = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
        choice = {"index": 0, **content, "finish_reason": "length"}
        answer = {
            **self._head(trace, chat, whole=True), "choices": [choice],
            "system_fingerprint": self._options.fingerprint, "usage": self._usage(trace),
        }  # fmt: skip
        return web.Response(body=json.dumps(answer).encode(), content_type="application/json")

    async def _stream(
        self, request: web.Request, body: Body, trace: Trace, chat: bool
    ) -> web.StreamResponse:
        kind = {"content-type": "text/event-stream; charset=utf-8"}
        response = web.StreamResponse(headers=kind)
        response.enable_chunked_encoding()
        await response.prepare(request)
        trace.status = 200
        if request.transport is None:
            return response
        stream = Stream(request.transport, trace, trace.output_tokens or 1, self._options)
        self._render(stream, trace, chat, bool((body.get("stream_options") or {}).get(
            "include_usage")))  # fmt: skip
        stream.start()
        try:
            await stream.done.wait()
            await response.write_eof()
            trace.complete = True
        finally:
            stream.stop()
        return response

    def _render(self, stream: Stream, trace: Trace, chat: bool, usage: bool) -> None:
        head = self._head(trace, chat)

        def chunk(delta: dict[str, str], finish: str | None) -> bytes:
            inner: dict[str, Any] = {"index": 0}
            inner |= {"delta": delta} if chat else {"text": delta["content"]}
            inner |= {"logprobs": None, "finish_reason": finish}
            return _frame(msgspec.json.encode({**head, "choices": [inner]}))

        stream.middle = chunk({"content": _TEXT}, None)
        stream.last = chunk({"content": _TEXT}, "length")
        if usage:
            tail = {**head, "choices": [], "usage": self._usage(trace),
                    "system_fingerprint": self._options.fingerprint}  # fmt: skip
            stream.last += _frame(msgspec.json.encode(tail))
        stream.last += _frame(b"[DONE]")
        token = stream.middle if (trace.output_tokens or 1) > 1 else stream.last
        stream.first = (chunk({"role": "assistant", "content": ""}, None) if chat else b"") + token
