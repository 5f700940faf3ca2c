"""The ways to clear that no engine module knows: commands, health, waiting, hooks, metadata."""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit, urlunsplit

from kvclear.account import Account, Stopwatch
from kvclear.order import Hook, Order
from kvengine.server import Answer, Server, Unreachable

HEALTH_LOOKS_S = 1.0
ADMIN_PORT = 9003


async def run_command(command: str, account: Account) -> bool:
    """Run a shell command to its end; what it prints goes to stderr, since stdout is for records.

    A command that fails is a failed step, not the end: what it left behind is still looked at.
    """
    watch = Stopwatch()
    process = await asyncio.create_subprocess_shell(
        command, stdin=asyncio.subprocess.DEVNULL, stdout=2, stderr=2
    )
    try:
        status = await process.wait()
    except asyncio.CancelledError:
        process.terminate()
        raise
    account.step(
        "run command",
        command,
        ok=status == 0,
        seconds=watch.seconds,
        answer=f"exit status {status}",
        advice=None if status == 0 else "see what it printed above",
    )
    return status == 0


async def await_health(url: str, account: Account, timeout_s: float) -> bool:
    """Ask `url` (its `/health` if it has no path) until it answers 200, at most `timeout_s`."""
    watch = Stopwatch()
    origin, path = _split(url)
    if path in ("", "/", "/v1", "/v1/"):
        path = "/health"
    last = "nothing"
    async with Server(origin, timeout_s=10.0) as server:
        while True:
            try:
                answer = await server.get(path)
                last = answer.short(60)
                if answer.status == 200:
                    break
            except Unreachable as error:
                last = str(error).removeprefix(f"{server.shown}: ").partition(";")[0]
            if watch.seconds + HEALTH_LOOKS_S > timeout_s:
                break
            await asyncio.sleep(HEALTH_LOOKS_S)
    healthy = last.startswith("200")
    account.step(
        "wait for health",
        origin + path,
        ok=healthy,
        seconds=watch.seconds,
        answer=last if healthy else f"not healthy within {timeout_s:g} s: {last}",
        advice=None if healthy else "see the server's log; --timeout S waits longer",
    )
    return healthy


async def settle(wait_s: float, account: Account) -> None:
    """Sleep, for saves in flight and for keys that expire."""
    watch = Stopwatch()
    await asyncio.sleep(wait_s)
    account.step("wait", f"{wait_s:g} s", ok=None, seconds=watch.seconds, answer="waited")


async def call_hook(hook: Hook, order: Order, account: Account) -> bool:
    """Send a request of the user's; a 2xx means that it was taken, not that anything is gone."""
    watch = Stopwatch()
    origin, path = _split(hook.url)
    answer = await _ask(Server(origin, headers=dict(order.headers)), hook.method, path)
    taken = isinstance(answer, Answer) and answer.ok
    account.step(
        f"http {hook.method}",
        hook.url,
        ok=None if taken else False,
        seconds=watch.seconds,
        answer=answer.short() if isinstance(answer, Answer) else answer,
    )
    return taken


async def clear_metadata(url: str, account: Account) -> None:
    """POST to the metadata server's `/clear`, as documents say, and tell what that is worth.

    Real Mooncake has no such route, and its metadata server holds addresses of segments, no KV
    objects. So even a 2xx is no evidence here.
    """
    watch = Stopwatch()
    origin, path = _split(url)
    path = path.rstrip("/").removesuffix("/clear") + "/clear"
    answer = await _ask(Server(origin), "POST", path)
    host = urlsplit(url).hostname
    instead = f"use --mooncake http://{host}:{ADMIN_PORT} (the master's admin port)"
    if isinstance(answer, str):
        ok, advice = False, f"nothing was cleared; {instead}"
    elif answer.status in (404, 405):
        ok, advice = False, f"no such API: real Mooncake has none, and {_holds_nothing}; {instead}"
    elif answer.ok:
        ok, advice = None, f"no evidence: {_holds_nothing}; {instead}"
    else:
        ok, advice = False, f"the server refused; {instead}"
    account.step(
        "clear metadata",
        origin + path,
        ok=ok,
        seconds=watch.seconds,
        answer=answer if isinstance(answer, str) else answer.short(),
        advice=advice,
    )


_holds_nothing = "its metadata server holds addresses of segments, no KV objects"


async def _ask(server: Server, method: str, path: str) -> Answer | str:
    """The answer, or in words why there was none."""
    async with server:
        try:
            return await server.request(method, path)
        except Unreachable as error:
            return str(error).removeprefix(f"{server.shown}: ").partition(";")[0]


def _split(url: str) -> tuple[str, str]:
    """Origin and path with query: hooks and health URLs are taken literally, `/v1` and all."""
    parts = urlsplit(url)
    origin = urlunsplit((parts.scheme, parts.netloc, "", "", ""))
    return origin, urlunsplit(("", "", parts.path, parts.query, ""))
