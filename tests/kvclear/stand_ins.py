"""Servers that answer as SGLang, llama.cpp and Dynamo do, with a prompt cache that is real enough.

Their clears are those of the engines' sources (see tests/kvengine); what is cached is whole
prompts by their longest common prefix of words. Made by hand: no real engine of these ran here.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import Iterator
from itertools import takewhile
from typing import Any

from aiohttp import web

TOKENS_PER_WORD = 2


class StandIn:
    """A prompt cache and a way to be asked; each engine adds how it is cleared."""

    owner = ""

    def __init__(self, *, head: int = 0) -> None:
        self.head = ["template"] * head
        """Words that stand at the head of every prompt, which no /tokenize tells."""
        self.cached: list[list[str]] = []
        self.behind: list[list[str]] = []
        """What a tier behind it keeps, where there is one."""
        self.asked: list[str] = []

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/v1/models", self.models),
            web.post("/v1/completions", self.complete),
            web.get("/", self.found),
        ]

    async def found(self, request: web.Request) -> web.Response:
        return web.Response(text="ok")

    async def models(self, request: web.Request) -> web.Response:
        card = {"id": "tiny", "owned_by": self.owner, "max_model_len": 16384}
        return web.json_response({"object": "list", "data": [card]})

    async def complete(self, request: web.Request) -> web.Response:
        words = [*self.head, *(await request.json())["prompt"].split()]
        hit = max((shared(words, other) for other in [*self.cached, *self.behind]), default=0)
        self.keep(words)
        return web.json_response(self.answer(len(words), min(hit, len(words) - 1)))

    def keep(self, words: list[str]) -> None:
        self.cached.append(words)

    def answer(self, words: int, hit: int) -> dict[str, Any]:
        details = {"cached_tokens": TOKENS_PER_WORD * hit}
        tokens = TOKENS_PER_WORD * words
        return {"usage": {"prompt_tokens": tokens, "prompt_tokens_details": details}}


def shared(one: list[str], other: list[str]) -> int:
    pairs = zip(one, other, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


class SGLang(StandIn):
    """0.5.23: busy once, then flushed; its storage, if it has one, is cleared by itself."""

    owner = "sglang"

    def __init__(self, *, storage: bool = False, head: int = 0) -> None:
        super().__init__(head=head)
        self.storage = storage
        self.busy = 1

    def routes(self) -> list[web.RouteDef]:
        return [
            *super().routes(),
            web.post("/flush_cache", self.flush),
            web.post("/hicache/storage-backend/clear", self.clear_storage),
        ]

    def keep(self, words: list[str]) -> None:
        super().keep(words)
        if self.storage:
            self.behind.append(words)

    async def flush(self, request: web.Request) -> web.Response:
        self.asked.append("flush")
        self.busy -= 1
        if self.busy >= 0:
            return web.Response(status=400, text="Flush cache failed: 1 running requests\n")
        self.cached.clear()
        return web.Response(text="Cache flushed.\n")

    async def clear_storage(self, request: web.Request) -> web.Response:
        self.asked.append("storage")
        if not self.storage:
            return web.Response(status=400, text="Hierarchical cache is not enabled.\n")
        self.behind.clear()
        return web.Response(text="Hierarchical cache storage backend cleared.\n")


class LlamaCpp(StandIn):
    """Two slots, and with `cache_ram` a prompt cache that an erase does not touch."""

    owner = "llamacpp"

    def __init__(self, *, cache_ram: bool) -> None:
        super().__init__()
        self.cache_ram = cache_ram

    def routes(self) -> list[web.RouteDef]:
        return [
            *super().routes(),
            web.post("/tokenize", self.tokenize),
            web.get("/slots", self.slots),
            web.post("/slots/{slot}", self.erase),
        ]

    def keep(self, words: list[str]) -> None:
        self.cached = [*self.cached, words][-2:]
        if self.cache_ram:
            self.behind.append(words)

    def answer(self, words: int, hit: int) -> dict[str, Any]:
        return {
            "usage": {"prompt_tokens": TOKENS_PER_WORD * words},
            "timings": {"cache_n": TOKENS_PER_WORD * hit},
        }

    async def tokenize(self, request: web.Request) -> web.Response:
        words = (await request.json()).get("content", "").split()
        tokens = [hash(word) % 32000 for word in words for _ in range(TOKENS_PER_WORD)]
        return web.json_response({"tokens": [1, *tokens] if words else []})

    async def slots(self, request: web.Request) -> web.Response:
        return web.json_response([{"id": 0}, {"id": 1}])

    async def erase(self, request: web.Request) -> web.Response:
        slot = int(request.match_info["slot"])
        erased = len(self.cached.pop(0)) if self.cached else 0
        return web.json_response({"id_slot": slot, "n_erased": erased})


class Dynamo(StandIn):
    """A front end with so many workers; here each of them keeps what any of them was asked."""

    owner = "nvidia"

    def __init__(self, *, workers: int) -> None:
        super().__init__()
        self.workers = workers

    def routes(self) -> list[web.RouteDef]:
        return [*super().routes(), web.post("/clear_kv_blocks", self.clear)]

    async def clear(self, request: web.Request) -> web.Response:
        self.cached.clear()
        response = json.dumps({"status": "success", "message": "KV cache cleared"})
        names = [f"dynamo/backend-instance-{number}" for number in range(self.workers)]
        done = [{"name": name, "status": "Successfully", "response": response} for name in names]
        return web.json_response({"cleared_workers": done, "failed_workers": []})


@contextlib.contextmanager
def serving(app_routes: list[web.RouteDef]) -> Iterator[str]:
    """The URL at which these routes are served, by a thread of its own."""
    loop = asyncio.new_event_loop()
    started: list[str] = []
    ready = threading.Event()

    async def start() -> web.AppRunner:
        app = web.Application()
        app.router.add_routes(app_routes)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        started.append(f"http://127.0.0.1:{runner.addresses[0][1]}")
        return runner

    def serve() -> None:
        runner = loop.run_until_complete(start())
        ready.set()
        loop.run_forever()
        loop.run_until_complete(runner.cleanup())
        loop.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        assert ready.wait(30)
        yield started[0]
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(30)
