"""A node's way to the store: a few internal routes of kvsim, counted under vLLM's metrics."""

import contextlib
import time
from hashlib import blake2b
from typing import Any

import aiohttp

from kvpipe.process import ToolError
from kvsim.accounting import Accounting
from kvsim.options import NodeOptions


class StoreUnreachable(ToolError):
    """The store did not answer: at the start a reason not to run, later a miss."""


class StoreClient:
    """One node's connection. Mounted segments give the store its room, as in Mooncake."""

    def __init__(self, options: NodeOptions, accounting: Accounting, segment: str) -> None:
        if options.store is None:
            raise ValueError("a store client needs a store")
        self._url = options.store.rstrip("/")
        self._options = options
        self._books = accounting
        self._segment = segment
        self._size = options.block_tokens * options.bytes_per_token
        self._prefix = f"{options.model}@tp_rank:0@pcp0@dcp0@pp_rank:0@group:0@"
        self._session: aiohttp.ClientSession | None = None

    async def _post(self, path: str, body: dict[str, Any]) -> Any:
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10))
        try:
            async with self._session.post(self._url + path, json=body) as answer:
                if answer.status != 200:
                    raise StoreUnreachable(f"{self._url}{path}: status {answer.status}")
                return await answer.json()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise StoreUnreachable(f"{self._url}: {error}") from error

    def _keys(self, names: list[bytes]) -> list[str]:
        seed = self._options.hash_seed
        if seed:
            key = str(seed).encode()
            names = [blake2b(name, digest_size=len(name), key=key).digest() for name in names]
        return [self._prefix + name.hex() for name in names]

    async def mount(self) -> None:
        """Raises StoreUnreachable."""
        await self._post(
            "/kvsim/mount", {"segment": self._segment, "size": self._options.segment_bytes}
        )

    async def _exist(self, names: list[bytes], operation: str) -> list[bool]:
        begun = time.monotonic()
        answer = await self._post("/kvsim/exist", {"keys": self._keys(names)})
        self._count(operation, begun, len(names))
        exists: list[bool] = answer["exists"]
        return exists

    async def lookup(self, names: list[bytes]) -> int:
        exists = await self._exist(names, "lookup_exists")
        return exists.index(False) if False in exists else len(exists)

    async def missing(self, names: list[bytes]) -> list[bytes]:
        exists = await self._exist(names, "save_exists")
        return [name for name, there in zip(names, exists, strict=True) if not there]

    async def get(self, names: list[bytes], begun: float) -> bool:
        """True if every block came."""
        answer = await self._post("/kvsim/get", {"keys": self._keys(names)})
        found = int(answer["found"])
        self._count("load_get", begun, len(names), found * self._size, len(names) - found)
        return found == len(names)

    async def put(self, names: list[bytes], begun: float) -> None:
        body = {"keys": self._keys(names), "size": self._size, "segment": self._segment}
        answer = await self._post("/kvsim/put", body)
        if not answer["mounted"]:  # a new master: real clients mount again, by their heartbeat
            await self.mount()
            answer = await self._post("/kvsim/put", body)
        failed = int(answer["failed"])
        self._count("save_put", begun, len(names), (len(names) - failed) * self._size, failed)

    async def remove_all(self) -> bool:
        answer = await self._post("/api/v1/remove_all?force=true", {})
        return bool(answer["success"])

    async def close(self) -> None:
        """Unmounts: what lay in this node's segment is gone, as with a real one."""
        with contextlib.suppress(StoreUnreachable):  # the store may have stopped first
            await self._post("/kvsim/unmount", {"segment": self._segment})
        if self._session is not None:
            await self._session.close()

    def _count(
        self, operation: str, begun: float, keys: int, size: int = 0, failed: int = 0
    ) -> None:
        self._books.metrics.store_operation(
            operation, seconds=time.monotonic() - begun, keys=keys, size=size, failed=failed
        )
