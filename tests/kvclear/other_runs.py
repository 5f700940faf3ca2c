"""Runs of kvclear on stand-ins for the engines that cannot run here."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

from aiohttp import web
from tests.kvclear.runs import Run, kvclear
from tests.kvclear.stand_ins import Dynamo, LlamaCpp, SGLang, StandIn, serving
from tests.simulated import cluster


def on_a_stand_in(kind: str, stand_in: Callable[[], StandIn], *flags: str) -> Callable[[], Run]:
    def run() -> Run:
        server = stand_in()
        with serving(server.routes()) as url:
            return kvclear("--engine", f"{kind}={url}", *flags, asked=server.asked)

    return run


def behind_lmcache(*, clears: bool) -> Callable[[], Run]:
    """A node that loads from an LMCache server, which here is a simulated store."""

    def run() -> Run:
        with cluster() as (store, a, _b):

            async def clear(request: web.Request) -> web.Response:
                if clears:
                    await asyncio.to_thread(store.post, "/api/v1/remove_all?force=true")
                return web.json_response({"status": "ok", "cleared": {"tier": "l1"}})

            routes = [web.post("/cache/clear", clear)]
            with serving(routes) as url:
                return kvclear("--vllm", a.url, "--engine", f"lmcache-mp={url}")

    return run


OTHER_RUNS: dict[str, Callable[[], Run]] = {
    "sglang": on_a_stand_in("sglang", SGLang),
    "sglang, storage kept": on_a_stand_in("sglang", partial(SGLang, storage=True)),
    "sglang, storage too": on_a_stand_in("sglang", partial(SGLang, storage=True), "--global"),
    "head not told": on_a_stand_in("sglang", partial(SGLang, head=40)),
    "llama.cpp": on_a_stand_in("llamacpp", partial(LlamaCpp, cache_ram=False)),
    "llama.cpp, cache in ram": on_a_stand_in("llamacpp", partial(LlamaCpp, cache_ram=True)),
    "dynamo, one worker": on_a_stand_in("dynamo", partial(Dynamo, workers=1)),
    "dynamo, two workers": on_a_stand_in("dynamo", partial(Dynamo, workers=2)),
    "lmcache cleared": behind_lmcache(clears=True),
    "lmcache, its L2 kept": behind_lmcache(clears=False),
}
