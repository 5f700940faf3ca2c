"""Connections as they are: when an idle one is closed, and in how many reads a stream arrives.

These two things only show on a connection that nobody else handles: a client library hides both.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import SplitResult, urlsplit

from kvdoctor.evidence import Idle, Stream
from kvpipe.jsonl import NOT_JSON

CONNECT_S = 10.0
ANSWER_S = 120.0
END_OF_HEAD = b"\r\n\r\n"


class Tap(asyncio.Protocol):
    """Everything that arrives, read by read, and when the other side hung up."""

    def __init__(self) -> None:
        self.data = b""
        self.reads = 0
        """Arrivals with something behind the head."""
        self.ended = asyncio.Event()
        """The answer is complete, or the connection closed."""
        self.closed = asyncio.Event()
        self.closed_at = 0.0

    def data_received(self, data: bytes) -> None:
        self.data += data
        if END_OF_HEAD in self.data:
            self.reads += bool(self.data.partition(END_OF_HEAD)[2])
            if self._is_complete():
                self.ended.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed_at = time.perf_counter()
        self.ended.set()
        self.closed.set()

    def _is_complete(self) -> bool:
        """By the framing; servers may keep the connection though they were asked to close it."""
        if (self.header("transfer-encoding") or "").lower() == "chunked":
            return self.data.endswith(b"0\r\n\r\n")
        length = self.header("content-length") or ""
        rest = self.data.partition(END_OF_HEAD)[2]
        return length.isdigit() and len(rest) >= int(length)

    @property
    def status(self) -> int:
        """0 where no answer came."""
        words = self.data.split(b"\r\n", 1)[0].split()
        return int(words[1]) if len(words) > 1 and words[1].isdigit() else 0

    def header(self, name: str) -> str | None:
        """The value of a header of the answer; null if it has none."""
        for line in self.data.partition(END_OF_HEAD)[0].split(b"\r\n")[1:]:
            key, _, value = line.decode("latin-1").partition(":")
            if key.strip().lower() == name:
                return value.strip()
        return None

    def body(self) -> bytes:
        """The answer's body, without the framing of chunks."""
        rest = self.data.partition(END_OF_HEAD)[2]
        if (self.header("transfer-encoding") or "").lower() != "chunked":
            return rest
        parts = []
        while rest:
            size_line, _, rest = rest.partition(b"\r\n")
            try:
                size = int(size_line.partition(b";")[0], 16)
            except ValueError:
                break
            if not size:
                break
            parts.append(rest[:size])
            rest = rest[size + 2 :]
        return b"".join(parts)


async def _connect(parts: SplitResult) -> tuple[asyncio.Transport, Tap]:
    secure = parts.scheme == "https"
    port = parts.port or (443 if secure else 80)
    context = ssl.create_default_context() if secure else None
    async with asyncio.timeout(CONNECT_S):
        return await asyncio.get_running_loop().create_connection(
            Tap, parts.hostname or "", port, ssl=context
        )


def _request(
    parts: SplitResult, method: str, path: str, headers: Mapping[str, str], body: bytes
) -> bytes:
    host = parts.netloc.rpartition("@")[2]
    lines = [f"{method} {parts.path}{path} HTTP/1.1", f"Host: {host}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    if body:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    return "\r\n".join(lines).encode() + END_OF_HEAD + body


async def watch_idle(base: str, headers: Mapping[str, str], watch_s: float) -> Idle | None:
    """Ask for `/health` and then nothing; null where no connection could be made."""
    parts = urlsplit(base)
    try:
        transport, tap = await _connect(parts)
    except (OSError, TimeoutError):
        return None
    begin = time.perf_counter()
    try:
        transport.write(_request(parts, "GET", "/health", headers, b""))
        async with asyncio.timeout(watch_s):
            await tap.closed.wait()
        return Idle(closed_s=tap.closed_at - begin, watched_s=watch_s)
    except TimeoutError:
        return Idle(closed_s=None, watched_s=watch_s)
    finally:
        transport.abort()


async def stream_once(
    base: str, headers: Mapping[str, str], path: str, body: Mapping[str, Any]
) -> Stream | None:
    """Send one streamed request and note how its answer arrived; null where none came."""
    parts = urlsplit(base)
    try:
        transport, tap = await _connect(parts)
    except (OSError, TimeoutError):
        return None
    once = dict(headers) | {"Connection": "close"}
    try:
        transport.write(_request(parts, "POST", path, once, json.dumps(body).encode()))
        async with asyncio.timeout(ANSWER_S):
            await tap.ended.wait()
    except TimeoutError:
        return None
    finally:
        transport.abort()
    if not tap.status:
        return None
    encoding = tap.header("content-encoding")
    plain = encoding is None or encoding.lower() == "identity"
    return Stream(
        status=tap.status,
        tokens=_tokens(tap.body()) if plain else None,
        reads=tap.reads,
        encoding=None if plain else encoding,
    )


def _tokens(body: bytes) -> int | None:
    """Output tokens by the usage of a stream; null where it has none."""
    found: int | None = None
    for line in body.replace(b"\r\n", b"\n").split(b"\n"):
        if not line.startswith(b"data:"):
            continue
        try:
            event = json.loads(line[len(b"data:") :])
        except NOT_JSON:
            continue
        usage = event.get("usage") if isinstance(event, dict) else None
        told = usage.get("completion_tokens") if isinstance(usage, dict) else None
        found = told if isinstance(told, int) else found
    return found
