"""Server-sent events on their way to the client, and the ways in which they can be mangled."""

import asyncio
from dataclasses import dataclass
from random import Random

from aiohttp import web

from kvsim.faults import FaultSet
from kvsim.truth import Trace

DONE = b"[DONE]"


class CutShort(Exception):
    """A fault closed the connection."""


@dataclass(frozen=True, slots=True)
class Event:
    """One event; ``tokens`` says that it carries at least one."""

    data: bytes
    tokens: bool = False


class SseWriter:
    """Frames events and writes each on its own, as uvicorn does, unless a fault says otherwise."""

    def __init__(
        self, request: web.Request, faults: FaultSet, random: Random, trace: Trace
    ) -> None:
        self._request = request
        self._faults = faults
        self._random = random
        self._trace = trace
        self._held: list[Event] = []
        self._sent = 0
        kind = "text/event-stream; charset=utf-8"
        if faults.on("content_type_json"):
            kind = "application/json"
        self._response = web.StreamResponse(headers={"content-type": kind})

    async def open(self) -> web.StreamResponse:
        """Sends the head of the answer; HTTP 200 whatever comes later."""
        self._trace.status = 200
        self._response.enable_chunked_encoding()
        if self._faults.on("compressed"):
            self._response.enable_compression(web.ContentCoding.gzip)
        await self._response.prepare(self._request)
        return self._response

    async def send(self, events: list[Event]) -> None:
        """Raises CutShort, and ConnectionResetError if the client has gone."""
        for event in events:
            self._held.append(event)
            if event.tokens:
                self._sent += 1
            if len(self._held) >= self._batch():
                await self._flush()
            if self._faults.on("truncate") and self._sent >= self._faults.number("truncate"):
                await self._flush()
                if self._request.transport is not None:
                    self._request.transport.close()
                raise CutShort

    async def finish(self) -> None:
        await self._flush()
        await self._response.write_eof()

    def _batch(self) -> float:
        if self._faults.on("buffered"):
            return float("inf")
        return self._faults.number("merged", 1)

    def _frame(self, event: Event) -> bytes:
        end = b"\r\n" if self._faults.on("crlf") else b"\n"
        comment = b": keep-alive" + end + end if self._faults.on("comments") else b""
        return comment + b"data: " + event.data + end + end

    async def _flush(self) -> None:
        held, self._held = self._held, []
        if not held:
            return
        data = b"".join(map(self._frame, held))
        tokens = sum(event.tokens for event in held)
        if self._faults.on("split"):
            *parts, data = self._cut(data)
            for part in parts:
                await self._response.write(part)
                await asyncio.sleep(0.001)  # else the kernel joins them again
        if tokens:
            self._trace.stamp(tokens)
        await self._response.write(data)

    def _cut(self, data: bytes) -> list[bytes]:
        cuts = sorted(self._random.randrange(1, len(data)) for _ in range(2))
        return [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)
                if start < end]  # fmt: skip
