"""A node's HTTP API: vLLM's routes, and kvsim's own under /kvsim."""

import asyncio
import json
import time
from random import Random

import msgspec
from aiohttp import web

from kvsim.accounting import Accounting
from kvsim.delivery import Streamer, whole
from kvsim.engine import DEAD, Engine
from kvsim.faults import FaultError, FaultSet
from kvsim.flat import Flat
from kvsim.intake import read_ask, read_body
from kvsim.openapi import document
from kvsim.options import NodeOptions
from kvsim.questions import Questions
from kvsim.refusals import Refused
from kvsim.sequence import Job
from kvsim.serving import (
    METRICS_TYPE,
    Connections,
    Handler,
    Routes,
    empty_answer,
    json_answer,
    reset_connection,
    text_answer,
)
from kvsim.sse import CutShort, SseWriter
from kvsim.store_client import StoreClient
from kvsim.truth import Trace, TruthLog, new_trace

_GUARDED = ("/v1", "/v2", "/inference", "/cohere")
"""What an API key protects; resets, metrics and health are open to everybody."""


class Node:
    """All parts of one node, and its routes."""

    def __init__(self, options: NodeOptions, client_segment: str) -> None:
        self.options = options
        self.faults = FaultSet(options.faults)
        self.books = Accounting(options)
        self.client = StoreClient(options, self.books, client_segment) if options.store else None
        self.engine = Engine(options, self.faults, self.books, self.client, client_segment)
        self.flat = Flat(options, self.books) if options.flat else None
        self.truth = TruthLog(options.truth)
        self._random = Random(options.seed)
        self._connections = Connections()
        self._created = int(time.time())
        self._loop_task: asyncio.Task[None] | None = None
        self._routes = self._all_routes()

    async def start(self) -> None:
        """Raises StoreUnreachable."""
        if self.client is not None:
            await self.client.mount()
        self._loop_task = asyncio.get_running_loop().create_task(self.engine.run())

    async def stop(self) -> None:
        if self._loop_task is not None:
            self._loop_task.cancel()
            await asyncio.gather(self._loop_task, return_exceptions=True)
        await self.engine.close()
        self.truth.close()

    def _all_routes(self) -> Routes:
        routes: Routes = {
            "/v1/chat/completions": {"POST": self._chat},
            "/v1/completions": {"POST": self._completions},
            **Questions(self.options).routes(),
            "/health": {"GET": self._health},
            "/ping": {"GET": self._health, "POST": self._health},
            "/version": {"GET": self._version},
            "/openapi.json": {"GET": self._openapi},
            "/metrics": {"GET": self._metrics},
            "/kvsim/truth": {"GET": self._truth},
            "/kvsim/fault": {
                "GET": self._fault_get, "POST": self._fault_on, "DELETE": self._fault_off,
            },
        }  # fmt: skip
        if self.engine.sender is not None:
            routes["/kvsim/fetched"] = {"POST": self._fetched}
        if self.engine.receiver is not None:
            routes["/kvsim/receive"] = {"POST": self._receive}
        if self.options.dev_mode:
            routes["/reset_prefix_cache"] = {"POST": self._reset_prefix_cache}
            routes["/reset_mm_cache"] = {"POST": self._reset_nothing}
            routes["/reset_encoder_cache"] = {"POST": self._reset_nothing}
        return routes

    async def entry(self, request: web.Request) -> web.StreamResponse:
        """Every request comes in here."""
        trace = new_trace(request.method, request.path, request.headers.get("X-Request-Id"))
        reused = self._connections.begin(request)
        if reused and self.faults.every("reset_connection"):
            reset_connection(request)
            return empty_answer(500)
        request["trace"] = trace
        methods = self._routes.get(request.path)
        begun = time.monotonic()
        try:
            response = await self._answer(request, methods)
        except Refused as refused:
            response = json_answer(refused.body(), refused.status)
        finally:
            if self.faults.on("idle_close_s"):
                self._connections.end(request, self.faults.number("idle_close_s"))
        self.books.metrics.http(
            request.path if methods else "none", request.method, response.status,
            request.content_length or 0, response.content_length or 0, time.monotonic() - begun,
        )  # fmt: skip
        if trace.status is None:
            trace.status = response.status
        return response

    async def _answer(
        self, request: web.Request, methods: dict[str, Handler] | None
    ) -> web.StreamResponse:
        key = self.options.api_key
        told = request.headers.get("Authorization")
        if key and request.path.startswith(_GUARDED) and told != f"Bearer {key}":
            return json_answer(b'{"error":"Unauthorized"}', 401)
        if methods is None:
            return json_answer(b'{"detail":"Not Found"}', 404)
        handler = methods.get(request.method)
        if handler is None:
            allow = {"allow": ", ".join(methods)}
            return json_answer(b'{"detail":"Method Not Allowed"}', 405, allow)
        return await handler(request)

    # Generation

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        return await self._generate(request, chat=True)

    async def _completions(self, request: web.Request) -> web.StreamResponse:
        return await self._generate(request, chat=False)

    async def _generate(self, request: web.Request, *, chat: bool) -> web.StreamResponse:
        raw = await request.read()
        trace: Trace = request["trace"]
        trace.read_ns = time.perf_counter_ns()
        body = read_body(raw, request.headers.get("content-type", ""))
        if self.faults.every("http_error", part=1):
            status = int(self.faults.number("http_error"))
            raise Refused(status, "InternalServerError", "simulated failure")
        if self.flat is not None:
            try:
                return await self.flat.generate(request, body, trace, chat=chat)
            finally:
                self.truth.add(trace)
        ask = read_ask(body, chat, self.options, trace.request_id)
        if self.engine.dead and not ask.stream:
            raise Refused(500, "InternalServerError", DEAD)
        if self.options.pace.overhead_s:
            await asyncio.sleep(self.options.pace.overhead_s)
        job = self.engine.submit(ask)
        try:
            if ask.stream:
                return await self._stream(request, job, trace)
            answer = await whole(job, self.options, self.faults)
            trace.stamp()
            trace.status, trace.complete = 200, True
            return json_answer(answer)
        except Refused as refused:
            trace.status = refused.status
            raise
        finally:
            self.engine.abort(job)
            self._record(trace, job)

    async def _stream(self, request: web.Request, job: Job, trace: Trace) -> web.StreamResponse:
        writer = SseWriter(request, self.faults, self._random, trace)
        response = await writer.open()
        try:
            await Streamer(job, self.options, self.faults).run(writer)
            trace.complete = True
        except (CutShort, ConnectionResetError):
            return response
        return response

    def _record(self, trace: Trace, job: Job) -> None:
        trace.end_ns = time.perf_counter_ns()
        trace.cached_local = job.cached_local
        trace.cached_remote = job.cached_remote
        trace.transfer_s = job.transfer_s
        trace.prompt_tokens = job.ask.prompt_tokens
        trace.output_tokens = job.generated
        self.truth.add(trace)

    # State

    async def _health(self, request: web.Request) -> web.Response:
        return empty_answer(503 if self.engine.dead else 200)

    async def _version(self, request: web.Request) -> web.Response:
        return json_answer(msgspec.json.encode({"version": self.options.version}))

    async def _openapi(self, request: web.Request) -> web.Response:
        return json_answer(msgspec.json.encode(document(self.options)))

    async def _metrics(self, request: web.Request) -> web.Response:
        if self.faults.on("no_metrics"):
            return json_answer(b'{"detail":"Not Found"}', 404)
        return text_answer(self.books.metrics.render(self.engine.state()), METRICS_TYPE)

    # Resets

    async def _reset_prefix_cache(self, request: web.Request) -> web.Response:
        success = await self._reset(
            _flag(request, "reset_running_requests"), _flag(request, "reset_external")
        )
        if self.options.vllm_version < (0, 27):
            return empty_answer()  # whatever happened
        return json_answer(b'{"success":true}' if success else b'{"success":false}')

    async def _reset(self, running: bool, external: bool) -> bool:
        if self.faults.first("reset_busy") is not None:
            return False
        if self.faults.on("reset_lies"):
            return True
        if running and self.engine.state().loading:  # a RuntimeError in vLLM's scheduler
            raise Refused(500, "InternalServerError", "blocks wait for a remote transfer")
        cleared = self.engine.reset_prefix_cache(reset_running=running)
        return (await self.engine.reset_external() if external else True) and cleared

    async def _reset_nothing(self, request: web.Request) -> web.Response:
        """There is neither a multi-modal nor an encoder cache to reset."""
        return empty_answer()

    # Of kvsim itself

    async def _fetched(self, request: web.Request) -> web.Response:
        """A decoder has read the blocks that a prefiller held for it."""
        body = await request.json()
        sender = self.engine.sender
        found = sender is not None and sender.fetched(str(body.get("request_id")))
        return empty_answer(200 if found else 404)

    async def _receive(self, request: web.Request) -> web.Response:
        """A prefiller pushes the blocks of a prompt."""
        body = await request.json()
        if self.engine.receiver is not None:
            self.engine.receiver.received(map(bytes.fromhex, body["names"]))
        return empty_answer()

    async def _truth(self, request: web.Request) -> web.Response:
        return text_answer(self.truth.lines().decode(), "application/jsonl")

    async def _fault_get(self, request: web.Request) -> web.Response:
        return fault_answer(self.faults)

    async def _fault_on(self, request: web.Request) -> web.Response:
        return switch_fault(self.faults, await request.read())

    async def _fault_off(self, request: web.Request) -> web.Response:
        self.faults.switch_off(request.query.get("name"))
        return fault_answer(self.faults)


def _flag(request: web.Request, name: str) -> bool:
    return request.query.get(name, "false").lower() in ("true", "1", "yes", "on", "t", "y")


def fault_answer(faults: FaultSet) -> web.Response:
    return json_answer(msgspec.json.encode({"faults": faults.active()}))


def switch_fault(faults: FaultSet, raw: bytes) -> web.Response:
    """``{"name": ..., "arg": ...}`` switches one on."""
    try:
        body = json.loads(raw)
        name, argument = body["name"], body.get("arg")
        faults.switch_on(str(name) if argument is None else f"{name}={argument}")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        text = str(error) if isinstance(error, FaultError) else 'expected {"name": ..., "arg": ...}'
        return json_answer(msgspec.json.encode({"error": text}), 400)
    return fault_answer(faults)
