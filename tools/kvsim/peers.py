"""How prefiller, decoder and proxy speak to one another beside the API: small JSON posts.

Real ones use side channels of their own (NIXL's handshake, LMCache's ZMQ); these are kvsim's.
"""

from typing import Any

import aiohttp


class PeerUnreachable(Exception):
    """The other side did not answer 200."""


class Peers:
    """One session for all of them, opened with its first use."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    async def post(self, url: str, body: dict[str, Any]) -> None:
        """Raises PeerUnreachable."""
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10))
        try:
            async with self._session.post(url, json=body) as answer:
                if answer.status != 200:
                    raise PeerUnreachable(f"{url}: status {answer.status}")
        except (aiohttp.ClientError, TimeoutError) as error:
            raise PeerUnreachable(f"{url}: {error}") from error

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
