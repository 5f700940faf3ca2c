"""From the engine's tokens to an answer: streamed, or whole."""

import asyncio
import json
import time
from typing import Any

import msgspec

from kvsim import wire
from kvsim.faults import FaultSet
from kvsim.options import NodeOptions
from kvsim.refusals import Refused, error_object
from kvsim.sequence import Job, Output
from kvsim.sse import DONE, Event, SseWriter

_encode = msgspec.json.encode
MIDSTREAM = "Internal server error"


def error_event(message: str) -> Event:
    """vLLM writes this one with Python's json: spaces after the separators."""
    return Event(json.dumps(error_object(500, "InternalServerError", message)).encode())


class Streamer:
    """Makes the events of one streamed answer."""

    def __init__(self, job: Job, options: NodeOptions, faults: FaultSet) -> None:
        self._job = job
        self._options = options
        self._faults = faults
        self._created = int(time.time())
        self._usage = wire.UsageTeller(options, null_details=faults.on("null_details"))
        self._opened = False
        self._open_choices = len(job.sequences)
        self._offsets = [0] * len(job.sequences)
        self._done = 0
        self._fails = faults.every("error_midstream")

    async def run(self, writer: SseWriter) -> None:
        """Writes the whole stream. Raises what the writer raises."""
        if self._faults.on("role_only_early"):
            await writer.send(self._roles())
        while self._open_choices:
            for output in await self._job.outputs.get():
                if output.error or (self._fails and self._done >= 2):
                    await self._end(writer, [error_event(output.error or MIDSTREAM)])
                    return
                if self._faults.on("stall_s") and self._done == 2:
                    await asyncio.sleep(self._faults.number("stall_s"))
                await writer.send([*self._roles(), Event(self._chunk(output), tokens=True)])
        await self._end(writer, self._tail())

    async def _end(self, writer: SseWriter, events: list[Event]) -> None:
        done = [] if self._faults.on("no_done") else [Event(DONE)]
        await writer.send([*events, *done])
        await writer.finish()

    def _roles(self) -> list[Event]:
        """A role chunk for each choice, before the first token; none in completions."""
        if self._opened or not self._job.ask.chat:
            return []
        self._opened = True
        chunks = [
            self._with_usage(wire.role_chunk(self._job, sequence.choice, self._created))
            for sequence in self._job.sequences
        ]
        return [Event(_encode(chunk)) for chunk in chunks]

    def _with_usage(self, chunk: wire.Json) -> wire.Json:
        """``continuous_usage_stats``: usage stands right after the choices."""
        if not self._job.ask.continuous_usage or self._faults.on("drop_usage"):
            return chunk
        usage = self._usage.running(self._job, self._done)
        at = list(chunk).index("choices") + 1
        items = list(chunk.items())
        return dict([*items[:at], ("usage", usage), *items[at:]])

    def _chunk(self, output: Output) -> bytes:
        job, ask = self._job, self._job.ask
        text = "" if self._faults.on("no_text") else wire.text_of(output.token or 0)
        self._done += 1
        if ask.chat:
            chunk = wire.chat_chunk(job, output, self._delta(output, text), self._created)
        else:
            offset = self._offsets[output.choice]
            chunk = wire.completion_chunk(job, output, text, offset, self._created)
            self._offsets[output.choice] += len(text)
        chunk = self._with_usage(chunk)
        if output.finish:
            self._open_choices -= 1
            self._last(chunk)
        return _encode(chunk)

    def _last(self, chunk: wire.Json) -> None:
        """What the finish chunk carries when it is the last one of the stream."""
        if self._faults.on("tool_calls") and self._job.ask.chat:
            chunk["choices"][0]["finish_reason"] = "tool_calls"
        if self._open_choices:
            return
        if self._faults.on("usage_in_last_content_chunk") and self._job.ask.include_usage:
            chunk["usage"] = self._usage.final(self._job)
        if not self._job.ask.include_usage:
            chunk["system_fingerprint"] = self._options.fingerprint

    def _delta(self, output: Output, text: str) -> wire.Json:
        """``delta`` of a chat chunk: content, or what the faults make of it."""
        first_half = output.place <= self._job.ask.max_tokens // 2
        if first_half and self._faults.on("reasoning_both"):
            return {"reasoning": text, "reasoning_content": text}
        for name in ("reasoning", "reasoning_content"):
            if first_half and self._faults.on(name):
                return {name: text}
        if self._faults.on("tool_calls"):
            call: dict[str, Any] = {"index": 0, "function": {"arguments": text}}
            if output.place == 1:
                call["function"] = {"name": "lookup", "arguments": text}
                call |= {"id": f"call_{output.choice}", "type": "function"}
            return {"tool_calls": [call]}
        return {"content": text}

    def _tail(self) -> list[Event]:
        """The chunk without choices that carries the usage."""
        ask = self._job.ask
        if not ask.include_usage or any(
            map(self._faults.on, ("drop_usage", "usage_in_last_content_chunk"))
        ):
            return []
        chunk = {
            **wire.chunk_head(ask, self._created),
            "choices": [],
            "usage": self._usage.final(self._job),
            "system_fingerprint": self._options.fingerprint,
        }
        if self._options.per_request_metrics:
            metrics = wire.timings(self._job, stream=True)
            if metrics is not None:
                chunk["metrics"] = metrics
        return [Event(_encode(chunk))]


async def whole(job: Job, options: NodeOptions, faults: FaultSet) -> bytes:
    """The answer in one piece. Raises Refused when the engine fails."""
    outputs: list[list[Output]] = [[] for _ in job.sequences]
    left = len(outputs)
    fails = faults.every("error_midstream")
    while left:
        for output in await job.outputs.get():
            if output.error or fails:
                raise Refused(500, "InternalServerError", output.error or MIDSTREAM)
            outputs[output.choice].append(output)
            left -= output.finish is not None
    key = next((k for k in ("reasoning", "reasoning_content") if faults.on(k)), "content")
    usage = wire.UsageTeller(options, null_details=faults.on("null_details")).whole(job)
    choices = [wire.whole_choice(job, items, key) for items in outputs]
    answer = wire.whole_answer(job, choices, usage, int(time.time()), options)
    if faults.on("drop_usage"):
        del answer["usage"]
    if faults.on("no_text"):
        for choice in answer["choices"]:
            if job.ask.chat:
                choice["message"]["content"] = ""
            else:
                choice["text"] = ""
    return _encode(answer)
