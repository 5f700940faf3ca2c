"""Two simulated engines as the data-parallel ranks of one server, which vLLM's API server is.

One metrics page with a series for each `engine`, a reset that goes to every rank, and the header
X-data-parallel-rank; without it prompts go round. Made by hand after vLLM 0.33's behaviour.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator

import aiohttp
from aiohttp import web
from tests.kvclear.stand_ins import serving


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
    with serving([web.route("*", "/{path:.*}", front.handle)]) as url:
        yield url
