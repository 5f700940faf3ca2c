"""A proxy before prefillers and decoders, in one of two flows.

``vllm`` is vLLM's toy_proxy_server.py (tests/v1/kv_connector/nixl_integration): the prefiller is
asked for one token, its ``kv_transfer_params`` go into the whole request, the decoder fetches the
KV and streams. Token 1 is the decoder's, so TTFT holds the transfer.

``lmcache`` is LMCache's disagg_proxy_server.py (examples/disagg_prefill): the prefiller's token
goes to the client at once, the decoder is asked when the KV has arrived there. TTFT does not hold
the transfer, the first gap does; and ``usage`` is the decoder's: one prompt token more, one
completion token less.

Both call their streams ``application/json``. Unlike both it keeps the client's X-Request-Id and
key, and passes /v1/models, /version and /tokenize on, which the real ones lack.
"""

import asyncio
import itertools
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import msgspec
from aiohttp import web

from kvpipe.jsonl import NOT_JSON
from kvsim.faults import FaultSet
from kvsim.node import fault_answer, switch_fault
from kvsim.options import ProxyOptions
from kvsim.relay import Relay, head_events
from kvsim.serving import Routes, empty_answer, json_answer, text_answer
from kvsim.truth import Trace, TruthLog, new_trace

ARRIVAL_S = 60.0
"""How long KV may take to arrive; LMCache's own waits for ever."""
_ASKED = {
    "do_remote_decode": True, "do_remote_prefill": False, "remote_engine_id": None,
    "remote_block_ids": None, "remote_host": None, "remote_port": None,
}  # fmt: skip
Body = dict[str, Any]


class Broken(Exception):
    """A server behind the proxy refused or went away; the real ones answer a bare 500."""


class Proxy:
    """Routes of one proxy."""

    def __init__(self, options: ProxyOptions, faults: FaultSet) -> None:
        self._options = options
        self.faults = faults
        self.truth = TruthLog(options.truth)
        self._prefillers = itertools.cycle(options.prefillers)
        self._decoders = itertools.cycle(options.decoders)
        self._counter = itertools.count(1)
        self._arrived: dict[str, asyncio.Event] = {}
        self._session: aiohttp.ClientSession | None = None
        self._routes: Routes = {
            "/v1/chat/completions": {"POST": self._generate},
            "/v1/completions": {"POST": self._generate},
            "/v1/models": {"GET": self._passed_on},
            "/version": {"GET": self._passed_on},
            "/tokenize": {"POST": self._passed_on},
            "/health": {"GET": self._health},
            "/healthcheck": {"GET": self._healthcheck},
            "/kvsim/kv_ready": {"POST": self._kv_ready},
            "/kvsim/truth": {"GET": self._truth},
            "/kvsim/fault": {
                "GET": self._fault, "POST": self._fault, "DELETE": self._fault,
            },
        }  # fmt: skip

    async def start(self) -> None:
        """No limit of connections and of time, as in both of the real ones."""
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=None)
        )

    async def stop(self) -> None:
        if self._session is not None:
            await self._session.close()
        self.truth.close()

    async def entry(self, request: web.Request) -> web.StreamResponse:
        """Every request comes in here."""
        methods = self._routes.get(request.path)
        if methods is None:
            return json_answer(b'{"detail":"Not Found"}', 404)
        handler = methods.get(request.method)
        if handler is None:
            return json_answer(b'{"detail":"Method Not Allowed"}', 405)
        try:
            return await handler(request)
        except (Broken, aiohttp.ClientError, KeyError, *NOT_JSON):
            return text_answer("Internal Server Error", "text/plain; charset=utf-8", 500)

    # Generation

    async def _generate(self, request: web.Request) -> web.StreamResponse:
        trace = new_trace("POST", request.path, request.headers.get("X-Request-Id"))
        body = msgspec.json.decode(await request.read(), type=Body)
        trace.read_ns = time.perf_counter_ns()
        trace.status = 500
        headers = {"X-Request-Id": trace.request_id or secrets.token_hex(16)}
        if key := request.headers.get("Authorization"):
            headers["Authorization"] = key
        flow = self._vllm if self._options.flow == "vllm" else self._lmcache
        try:
            return await flow(request, body, headers, trace)
        finally:
            trace.end_ns = time.perf_counter_ns()
            self.truth.add(trace)

    async def _vllm(
        self, request: web.Request, body: Body, headers: dict[str, str], trace: Trace
    ) -> web.StreamResponse:
        ahead = {**body, "kv_transfer_params": _ASKED, "stream": False, "max_tokens": 1}
        if "max_completion_tokens" in ahead:
            ahead["max_completion_tokens"] = 1
        for name in ("stream_options", "min_tokens", "min_completion_tokens"):
            ahead.pop(name, None)  # not for a prefiller
        told = await self._ask(next(self._prefillers) + request.path, ahead, headers)
        trace.prefilled_ns = time.perf_counter_ns()
        if handoff := told.get("kv_transfer_params"):
            if self.faults.on("hide_cached"):
                handoff.pop("remote_prefill_cached_tokens", None)
            body["kv_transfer_params"] = handoff
        relay = Relay(request, trace)
        response = await relay.open()
        await self._decode(relay, next(self._decoders) + request.path, body, headers)
        return response

    async def _lmcache(
        self, request: web.Request, body: Body, headers: dict[str, str], trace: Trace
    ) -> web.StreamResponse:
        """Tokens to the prefiller, its first one to the client, the rest from the decoder."""
        chat = request.path.endswith("/chat/completions")
        limit = int(body["max_tokens"])
        prefiller, decoder = next(self._prefillers), next(self._decoders)
        asked: Body = {key: body[key] for key in ("messages", "prompt") if key in body}
        tokens = await self._ask(prefiller + "/tokenize", asked, headers)
        name = str(next(self._counter))
        options = body.pop("stream_options", None)
        body.pop("messages", None)
        host, _, port = decoder.removeprefix("http://").rpartition(":")
        spec = {
            "req_id": name, "receiver_host": host, "receiver_init_port": [int(port)],
            "receiver_alloc_port": [int(port)], "notify": self._options.address,
        }  # fmt: skip
        body |= {
            "prompt": tokens["tokens"], "max_tokens": 1, "stream": False,
            "kv_transfer_params": {"ret_first_tok": True, "disagg_spec": spec},
        }  # fmt: skip
        arrived = self._arrived[name] = asyncio.Event()
        try:
            told = await self._ask(prefiller + "/v1/completions", body, headers)
            trace.prefilled_ns = time.perf_counter_ns()
            first = told["kv_transfer_params"]["first_tok"]
            relay = Relay(request, trace)
            response = await relay.open()
            await relay.send(head_events(told, chat=chat, last=limit == 1), tokens=True)
            if limit == 1:  # LMCache's asks the decoder for 0 tokens, and breaks
                await relay.finish()
                return response
            try:
                await asyncio.wait_for(arrived.wait(), ARRIVAL_S)
            except TimeoutError:
                relay.cut()
                return response
        finally:
            del self._arrived[name]
        del body["kv_transfer_params"]
        body |= {"prompt": [*tokens["tokens"], first], "max_tokens": limit - 1, "stream": True}
        if "max_completion_tokens" in body:
            body["max_completion_tokens"] = limit - 1
        if options is not None:
            body["stream_options"] = options
        await self._decode(relay, decoder + "/v1/completions", body, headers, chat=chat)
        return response

    async def _decode(
        self, relay: Relay, url: str, body: Body, headers: dict[str, str], *, chat: bool = False
    ) -> None:
        """The decoder's answer, as it comes. Its refusal finds our 200 sent, so we are cut."""
        try:
            async with self._posted(url, body, headers) as answer:
                if answer.status == 200:
                    await relay.passed(answer.content, chat=chat)
                    return
        except (aiohttp.ClientError, ConnectionError):
            pass
        relay.cut()

    # What stands behind

    @asynccontextmanager
    async def _posted(
        self, url: str, body: Body, headers: dict[str, str]
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        if self._session is None:
            raise Broken("not started")
        async with self._session.post(url, json=body, headers=headers) as answer:
            yield answer

    async def _ask(self, url: str, body: Body, headers: dict[str, str]) -> Body:
        """Raises Broken."""
        async with self._posted(url, body, headers) as answer:
            raw = await answer.read()
            if answer.status != 200:
                raise Broken(f"{url}: status {answer.status}")
            return msgspec.json.decode(raw, type=Body)

    async def _passed_on(self, request: web.Request) -> web.Response:
        """What only says who is there: the first decoder's answer."""
        if self.faults.on("no_models"):
            return json_answer(b'{"detail":"Not Found"}', 404)
        if self._session is None:
            raise Broken("not started")
        url = self._options.decoders[0] + request.path
        headers = {
            name: request.headers[name]
            for name in ("Authorization", "Content-Type")
            if name in request.headers
        }
        raw = await request.read()
        async with self._session.request(
            request.method, url, data=raw or None, headers=headers
        ) as answer:
            return json_answer(await answer.read(), answer.status)

    async def _health(self, request: web.Request) -> web.Response:
        """200 if every server behind is well, else 503."""
        if self._session is None:
            return empty_answer(503)
        for url in (*self._options.prefillers, *self._options.decoders):
            try:
                async with self._session.get(url + "/health") as answer:
                    if answer.status != 200:
                        return empty_answer(503)
            except aiohttp.ClientError:
                return empty_answer(503)
        return empty_answer()

    async def _healthcheck(self, request: web.Request) -> web.Response:
        """The toy proxy's own."""
        told = {
            "status": "ok",
            "prefill_instances": len(self._options.prefillers),
            "decode_instances": len(self._options.decoders),
        }
        return json_answer(msgspec.json.encode(told))

    # Of kvsim itself

    async def _kv_ready(self, request: web.Request) -> web.Response:
        """A prefiller has pushed the KV of a request; over ZMQ in LMCache."""
        body = msgspec.json.decode(await request.read(), type=Body)
        arrived = self._arrived.get(str(body.get("req_id")))
        if arrived is not None:
            arrived.set()
        return empty_answer()

    async def _truth(self, request: web.Request) -> web.Response:
        return text_answer(self.truth.lines().decode(), "application/jsonl")

    async def _fault(self, request: web.Request) -> web.Response:
        if request.method == "POST":
            return switch_fault(self.faults, await request.read())
        if request.method == "DELETE":
            self.faults.switch_off(request.query.get("name"))
        return fault_answer(self.faults)
