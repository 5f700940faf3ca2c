"""A server on loopback that replays recorded answers."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from aiohttp import web

CAPTURES = Path(__file__).parents[1] / "data" / "captures"


def capture(name: str) -> str:
    return (CAPTURES / name).read_text(encoding="utf-8")


@dataclass
class Reply:
    """A recorded answer: status and body, or a body alone with 200."""

    text: str
    status: int = 200

    @classmethod
    def recorded(cls, name: str) -> Reply:
        head, _, body = capture(name).partition("\n")
        return cls(text=body.strip("\n"), status=json.loads(head)["status"])


@dataclass
class Replay:
    """Answers by `METHOD /path`; a list is used up one by one and its last one stays."""

    url: str = ""
    replies: dict[str, list[Reply]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    bodies: list[str] = field(default_factory=list)

    def on(self, route: str, *replies: Reply) -> Replay:
        self.replies[route] = list(replies)
        return self

    async def handle(self, request: web.Request) -> web.Response:
        self.asked.append(f"{request.method} {request.rel_url}")
        self.bodies.append(await request.text())
        queue = self.replies.get(f"{request.method} {request.path}")
        if not queue:
            return web.Response(status=404, text='{"detail":"Not Found"}')
        reply = queue.pop(0) if len(queue) > 1 else queue[0]
        return web.Response(status=reply.status, text=reply.text)


@pytest.fixture
async def serve() -> AsyncIterator[Callable[..., Awaitable[Replay]]]:
    """Call it for one more server, on a port of its own or on one named; all stop at the end."""
    runners: list[web.AppRunner] = []

    async def start(port: int = 0) -> Replay:
        replay = Replay()
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", replay.handle)
        runner = web.AppRunner(app)
        await runner.setup()
        runners.append(runner)
        await web.TCPSite(runner, "127.0.0.1", port).start()
        port = runner.addresses[0][1]
        replay.url = f"http://127.0.0.1:{port}"
        return replay

    yield start
    for runner in runners:
        await runner.cleanup()
