"""From where a server can be asked, and which of its doors are open without a key."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from urllib.parse import urlsplit

from kvdoctor.evidence import Reach
from kvengine.server import Server, Unreachable

OTHER_LOOPBACK = "127.0.0.2"
"""Linux answers at all of 127.0.0.0/8: who binds 127.0.0.1 alone refuses here, who binds every
interface does not. Elsewhere there is no such address, and nothing is claimed."""
CONNECT_S = 2.0


async def reach_of(url: str) -> Reach | None:
    """How far away somebody may be who asks this server; null where its name is not known."""
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)
    except OSError:
        return None
    addresses = [ipaddress.ip_address(str(info[4][0]).partition("%")[0]) for info in found]
    if any(address.is_global for address in addresses):
        return "public"
    if not all(address.is_loopback for address in addresses):
        return "private"
    return "every_interface" if await _answers(OTHER_LOOPBACK, port) else "loopback"


async def _answers(host: str, port: int) -> bool:
    try:
        async with asyncio.timeout(CONNECT_S):
            _, writer = await asyncio.open_connection(host, port)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True


async def open_routes(url: str, kind: str) -> tuple[str, ...]:
    """Routes that change or betray something and answer without a key; none is really used."""
    probes = ROUTES.get(kind, ())
    found = []
    async with Server(url) as bare:
        for shown, path, telling in probes:
            try:
                answer = await bare.get(path)
            except Unreachable:
                return ()
            if answer.status in telling:
                found.append(shown)
    return tuple(found)


ROUTES: dict[str, tuple[tuple[str, str, tuple[int, ...]], ...]] = {
    # GET is not allowed where POST is: 405 shows the route without using it.
    "vllm": (
        ("POST /reset_prefix_cache", "/reset_prefix_cache", (405,)),
        ("POST /sleep", "/sleep", (405,)),
        ("GET /server_info", "/server_info", (200,)),
    ),
    "mooncake": (
        ("POST /api/v1/remove_all", "/metrics", (200,)),
        ("GET /get_all_keys", "/get_all_keys", (200,)),
    ),
    "lmcache": (("DELETE /cache/clear", "/version", (200,)), ("GET /env", "/version", (200,))),
    "lmcache-mp": (("POST /cache/clear", "/status", (200,)),),
}
"""By kind: the route as it is shown, what is asked with GET, and which status shows it open."""
