"""Two simulated engines as the data-parallel ranks of one server, which vLLM's API server is.

One metrics page with a series for each `engine`, a reset that goes to every rank, and the header
X-data-parallel-rank; without it prompts go round. Made by hand after vLLM 0.33's behaviour.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import threading
from collections.abc import Iterator

import aiohttp
from aiohttp import web


class Front:
    """The server in front of the ranks."""

    def __init__(self, ranks: list[str], honours_header: bool, resets: list[int]) -> None:
        self.ranks = ranks
        self.honours_header = honours_header
        self.resets = resets
        self.turns = itertools.cycle(range(len(ranks)))

    async def handle(self, request: web.Request) -> web.Response:
        body = await request.read()
        if request.path == "/metrics":
            return web.Response(text=await self.metrics())
        if request.path == "/reset_prefix_cache":
            answers = [await self.forward(request, body, rank) for rank in self.resets]
            return answers[-1]
        wanted = request.headers.get("X-data-parallel-rank")
        if wanted is None or not self.honours_header:
            return await self.forward(request, body, next(self.turns))
        return await self.forward(request, body, int(wanted))

    async def forward(self, request: web.Request, body: bytes, rank: int) -> web.Response:
        async with (
            aiohttp.ClientSession() as session,
            session.request(
                request.method,
                self.ranks[rank] + str(request.rel_url),
                data=body,
                headers={"Content-Type": request.headers.get("Content-Type", "text/plain")},
            ) as answer,
        ):
            return web.Response(
                status=answer.status, body=await answer.read(), content_type=answer.content_type
            )

    async def metrics(self) -> str:
        lines: list[str] = []
        async with aiohttp.ClientSession() as session:
            for number, url in enumerate(self.ranks):
                async with session.get(url + "/metrics") as answer:
                    page = (await answer.text()).splitlines()
                lines += [
                    line.replace('engine="0"', f'engine="{number}"')
                    for line in page
                    if number == 0 or line.startswith(("vllm:", "# TYPE vllm:"))
                ]
        return "\n".join(lines) + "\n"


@contextlib.contextmanager
def one_server_of(
    ranks: list[str], *, honours_header: bool = True, resets: list[int] | None = None
) -> Iterator[str]:
    """The URL of one server with these engines as its ranks."""
    front = Front(ranks, honours_header, list(range(len(ranks))) if resets is None else resets)
    loop = asyncio.new_event_loop()
    started: list[str] = []
    ready = threading.Event()

    async def start() -> web.AppRunner:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", front.handle)
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
