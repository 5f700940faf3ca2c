"""One server of the control plane: asked seldom, answered whole, complained about in one line.

Every call opens a connection of its own. Servers close idle connections after seconds, so a kept
one would now and then be reset; and several servers hidden behind one URL show themselves only
over fresh connections. The measured path (kvload) has a client of its own.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urljoin, urlsplit, urlunsplit

from kvengine.access import secrets_of, without
from kvengine.urls import base_url, origin, redact, without_credentials
from kvpipe.process import ToolError

if TYPE_CHECKING:
    import aiohttp

# aiohttp is imported where it is first used: it takes a third of a second, which a tool's --help
# must not pay.

TIMEOUT_S = 60.0
REDIRECTS = 5
"""More of them than this lead nowhere."""
SAME_METHOD = (307, 308)


class Unreachable(ToolError):
    """No answer came back: refused, unknown host, time out, hung up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a server said: the whole body as text, and how long it took in seconds."""

    status: int
    text: str
    headers: Mapping[str, str]
    elapsed_s: float

    @property
    def ok(self) -> bool:
        """True for a 2xx, which says nothing about what the body admits."""
        return 200 <= self.status < 300

    def short(self, limit: int = 200) -> str:
        """`404 {"detail":"Not Found"}` on one line, cut to `limit` characters."""
        body = " ".join(self.text.split())
        body = body if len(body) <= limit else body[:limit] + "..."
        return f"{self.status} {body}" if body else f"{self.status} (empty)"


class Server:
    """A base URL (with or without `/v1`) with its key and headers; use it with `async with`."""

    def __init__(
        self,
        url: str,
        api_key: str | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        timeout_s: float = TIMEOUT_S,
        try_path: str = "/v1/models",
    ) -> None:
        self.given = base_url(url)
        """With the credentials that it came with: never to be printed or recorded."""
        self.base, sent = without_credentials(self.given, headers or {})
        self.shown = redact(self.base)
        """The URL as it may be printed and recorded."""
        self._headers = {"Accept-Encoding": "identity", **sent}
        if api_key:
            self._headers["Authorization"] = f"Bearer {api_key}"
        self._secrets = secrets_of(api_key, headers or {}, self.given)
        self._timeout_s = timeout_s
        self._try_path = try_path
        self._session: aiohttp.ClientSession | None = None

    def on_port(self, port: int | None) -> Server:
        """Another server of the same host, asked in the same way; null is this one's own port."""
        parts = urlsplit(self.base)
        host = parts.hostname or ""
        host = f"[{host}]" if ":" in host else host
        netloc = parts.netloc if port is None else f"{host}:{port}"
        return Server(
            urlunsplit((parts.scheme, netloc, parts.path, "", "")),
            headers=self._headers,
            timeout_s=self._timeout_s,
            try_path=self._try_path,
        )

    async def __aenter__(self) -> Self:
        import aiohttp

        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(force_close=True, limit=0),
            headers=self._headers,
            trust_env=False,
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def get(self, path: str, **options: Any) -> Answer:
        """GET `path` below the base URL; options as for `request`. Raises Unreachable."""
        return await self.request("GET", path, **options)

    async def post(self, path: str, **options: Any) -> Answer:
        """POST to `path` below the base URL; options as for `request`. Raises Unreachable."""
        return await self.request("POST", path, **options)

    async def request(
        self,
        method: str,
        path: str,
        *,
        json: object = None,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float | None = None,
    ) -> Answer:
        """Send one request and read the whole answer, whatever its status. Raises Unreachable.

        A redirect is followed within this server only: key and headers are for nobody else.
        """
        import aiohttp

        if self._session is None:
            raise RuntimeError("Server is used outside `async with`")
        limit_s = self._timeout_s if timeout_s is None else timeout_s
        begin = time.perf_counter()
        try:
            async with asyncio.timeout(limit_s):
                url, sent = self.base + path, params
                for _ in range(REDIRECTS + 1):
                    async with self._session.request(
                        method,
                        url,
                        json=json,
                        params=sent,
                        headers=headers,
                        allow_redirects=False,
                        timeout=aiohttp.ClientTimeout(total=limit_s),
                    ) as response:
                        # JSON and metrics are UTF-8, whatever a server says: a name of a
                        # charset may be any word.
                        text = await response.text("utf-8", errors="replace")
                    to = self._redirected(method, response)
                    if to is None:
                        break
                    url, sent = to, None
        except TimeoutError as error:
            raise self._unreachable(f"no answer within {limit_s:g} s") from error
        except aiohttp.ClientError as error:
            raise self._unreachable(describe(error)) from error
        return Answer(
            status=response.status,
            text=text if response.status < 400 else without(text, self._secrets),
            headers=dict(response.headers),
            elapsed_s=time.perf_counter() - begin,
        )

    def _redirected(self, method: str, response: aiohttp.ClientResponse) -> str | None:
        """Where this server sends us to, on itself; null if nowhere. Unreachable if elsewhere."""
        location = response.headers.get("Location")
        if not 300 <= response.status < 400 or response.status == 304 or not location:
            return None
        try:
            to = urljoin(str(response.url), location)
        except ValueError as error:
            raise Unreachable(f"{self.shown}: redirected to what is no URL") from error
        if origin(to) != origin(self.base):
            raise Unreachable(
                f"{self.shown}: redirected to {redact(to)}, which is another server: keys go to"
                " none that was not named; give the final URL"
            )
        # Any other answer to a POST would have it repeated as a GET.
        return to if method in ("GET", "HEAD") or response.status in SAME_METHOD else None

    def _unreachable(self, what: str) -> Unreachable:
        return Unreachable(
            f"{self.shown}: {what}; is the server running? try: curl {self.shown}{self._try_path}"
        )


def describe(error: aiohttp.ClientError) -> str:
    """The cause in a few words: `connection refused`, `unknown host`, `tls error`, ..."""
    import aiohttp

    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "unknown host"
    if isinstance(error, aiohttp.ClientSSLError):
        return f"tls error: {str(error).lower()}"
    if isinstance(error, aiohttp.ClientConnectorError):
        cause = error.os_error
        # asyncio writes `Connect call failed (...)` where the plain words are wanted.
        known = {ConnectionRefusedError: "connection refused", TimeoutError: "timed out"}
        return known.get(type(cause)) or (cause.strerror or str(cause)).lower()
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return "the connection was closed before an answer"
    return (str(error) or type(error).__name__).lower()
