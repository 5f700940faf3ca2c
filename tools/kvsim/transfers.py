"""What goes between the cache and the store: saves after a prefill, loads before one."""

import asyncio
import time
from collections.abc import Callable, Coroutine

from kvsim.cache import BlockPool
from kvsim.faults import FaultSet
from kvsim.pacing import Pacer
from kvsim.sequence import Sequence
from kvsim.store_client import StoreClient, StoreUnreachable


class Transfers:
    """Loads and saves under way. Both hold their blocks, so that a reset meanwhile fails."""

    def __init__(
        self, client: StoreClient, pool: BlockPool, pacer: Pacer, faults: FaultSet
    ) -> None:
        self._client = client
        self._pool = pool
        self._pacer = pacer
        self._faults = faults
        self._saves: set[asyncio.Task[None]] = set()
        self._loads: set[asyncio.Task[None]] = set()

    async def lookup(self, sequence: Sequence, names: list[bytes]) -> int:
        """How many of these blocks, from the first, the store has."""
        if not names:
            return 0
        try:
            return await self._client.lookup(names)
        except StoreUnreachable:
            return 0

    def load(
        self,
        sequence: Sequence,
        names: list[bytes],
        size: int,
        done: Callable[[Sequence, bool], None],
    ) -> None:
        """Fetches blocks; ``done`` hears whether all of them were still there."""

        async def work() -> None:
            begun = time.monotonic()
            await asyncio.sleep(self._pacer.load_s(len(names), size))
            try:
                found = await self._client.get(names, begun)
            except StoreUnreachable:
                found = False
            done(sequence, found)

        self._start(self._loads, work())

    def save(self, sequence: Sequence, size: int) -> None:
        """Puts the prompt's full blocks into the store, those that it lacks; a local hit too,
        which is how a store that was cleared first fills again."""
        count = sequence.prompt_len // size
        if not count or self._faults.on("save_never"):
            return
        names = [sequence.digest(at) for at in range(count)]
        blocks = sequence.blocks[:count]
        self._pool.take(blocks)

        async def work() -> None:
            try:
                await asyncio.sleep(self._pacer.save_delay_s)
                begun = time.monotonic()
                missing = await self._client.missing(names)
                if missing:
                    await asyncio.sleep(self._pacer.save_s(len(missing), size))
                    await self._client.put(missing, begun)
            except StoreUnreachable:
                return  # as with a real store that went away: serving goes on
            finally:
                self._pool.release(blocks)

        self._start(self._saves, work())

    async def drain(self) -> None:
        """Waits for the saves under way."""
        while self._saves:
            await asyncio.gather(*self._saves)

    async def remove_all(self) -> bool:
        await self.drain()
        try:
            return await self._client.remove_all()
        except StoreUnreachable:
            return False

    async def close(self) -> None:
        tasks = [*self._saves, *self._loads]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._client.close()

    def _start(self, group: set[asyncio.Task[None]], work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        group.add(task)
        task.add_done_callback(group.discard)
