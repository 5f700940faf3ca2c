"""Where the requests of a run go: one URL taken apart, with the head that all of them share."""

from __future__ import annotations

import base64
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import SplitResult, unquote, urlsplit

from kvengine.urls import api_url, redact
from kvload.http1 import request_head
from kvpipe.process import UsageError

# What kvload decides itself: the framing, the join with its records, and a body that no hop on
# the way may hold back in order to compress it.
_OURS = frozenset(
    {"accept-encoding", "connection", "content-length", "transfer-encoding", "x-request-id"}
)
_PATHS = {"chat": "/chat/completions", "completions": "/completions"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One resource to POST to. `url` is for people, without credentials; `head` holds the key."""

    url: str
    host: str
    port: int
    head: bytes = field(repr=False)
    tls: ssl.SSLContext | None = None

    @property
    def place(self) -> str:
        """`host:port` for messages."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @classmethod
    def parse(
        cls,
        url: str,
        api: Literal["chat", "completions"] = "chat",
        headers: Mapping[str, str] | None = None,
        api_key: str | None = None,
        *,
        tls: ssl.SSLContext | None = None,
    ) -> Target:
        """`url` is the endpoint's, with or without `/v1`.

        A name and password in the URL become Basic authorization, which a key replaces; an
        Authorization among `headers` replaces both. UsageError says what cannot be used.
        """
        parts = urlsplit(api_url(url))
        secure = parts.scheme == "https"
        if secure and tls is None:
            tls = ssl.create_default_context()
            tls.set_alpn_protocols(["http/1.1"])
        host = _ascii_host(parts.hostname or "")
        shown = redact(api_url(url) + _PATHS[api])
        try:
            lines = _merged(_lines(parts, host, api_key), dict(headers or {}))
            head = request_head(parts.path + _PATHS[api], list(lines.items()))
        except ValueError as problem:
            raise UsageError(f"{shown}: {problem}") from None
        return cls(
            url=shown,
            host=host,
            port=parts.port or (443 if secure else 80),
            head=head,
            tls=tls if secure else None,
        )

    def request(self, body: bytes, request_id: str) -> bytes:
        """The whole request. ValueError if the id cannot stand in a header."""
        own = f"Content-Length: {len(body)}\r\nX-Request-Id: {request_id}\r\n\r\n"
        if not request_id.isascii() or not request_id.isprintable():
            raise ValueError(f"a request id must be printable ascii: {request_id!r}")
        return b"".join((self.head, own.encode("ascii"), body))


def _lines(parts: SplitResult, host: str, api_key: str | None) -> dict[str, str]:
    name = f"[{host}]" if ":" in host else host
    return {
        "Host": name if parts.port is None else f"{name}:{parts.port}",
        "User-Agent": "kvload",
        "Content-Type": "application/json",
        "Accept": "text/event-stream",
        "Accept-Encoding": "identity",
        **_authorization(parts, api_key),
    }


def _ascii_host(host: str) -> str:
    try:
        return host if host.isascii() else host.encode("idna").decode("ascii")
    except UnicodeError:
        raise UsageError(f"{host}: not a host name") from None


def _authorization(parts: SplitResult, api_key: str | None) -> dict[str, str]:
    if api_key:
        return {"Authorization": f"Bearer {api_key}"}
    if parts.username is None:
        return {}
    pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return {"Authorization": f"Basic {base64.b64encode(pair.encode()).decode('ascii')}"}


def _merged(lines: dict[str, str], given: dict[str, str]) -> dict[str, str]:
    """`given` replaces a line of the same name, whatever its case."""
    for name in given:
        if name.lower() in _OURS:
            raise ValueError(f"header {name} is set by kvload itself")
    named = {name.lower() for name in given}
    return {name: value for name, value in lines.items() if name.lower() not in named} | given
