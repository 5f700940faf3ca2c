"""A decoder's side of the link: the KV of a prompt comes from a prefiller.

Flow `vllm`: it is fetched when the request comes, by what the prefiller's answer said. Flow
`lmcache`: it was pushed here before the proxy sends the request. To the engine both are a cache
behind its own, and so they look in its counters and in its usage: hits that nobody reused.
"""

import asyncio
import time
from collections.abc import Callable, Iterable

from kvsim.accounting import Accounting
from kvsim.options import NodeOptions
from kvsim.pacing import Pacer
from kvsim.peers import Peers, PeerUnreachable
from kvsim.sequence import Sequence

MOST_RECEIVED = 1 << 18
"""Blocks that were pushed and not asked for; the oldest are forgotten beyond."""


class Receiver:
    """What a decoder knows of KV elsewhere; to the engine it is what a store is to a node."""

    def __init__(self, options: NodeOptions, pacer: Pacer, books: Accounting) -> None:
        self._options = options
        self._size = options.block_tokens
        self._pacer = pacer
        self._books = books
        self._received: dict[bytes, None] = {}
        self._loads: set[asyncio.Task[None]] = set()
        self._peers = Peers()

    async def lookup(self, sequence: Sequence, names: list[bytes]) -> int:
        """How many blocks, from the first that the cache lacks, a prefiller has ready."""
        local = len(sequence.findable()) - len(names)
        if self._options.flow == "lmcache":
            found = 0
            while found < len(names) and names[found] in self._received:
                found += 1
            return found
        kv = sequence.job.ask.kv
        if sequence.choice or not kv.get("do_remote_prefill"):
            return 0
        sequence.given = min(int(kv.get("remote_num_tokens") or 0), sequence.prompt_len)
        return max(0, -(-sequence.given // self._size) - local)

    def received(self, names: Iterable[bytes]) -> None:
        """A prefiller has pushed these blocks."""
        self._received.update(dict.fromkeys(names))
        while len(self._received) > MOST_RECEIVED:
            del self._received[next(iter(self._received))]

    def load(
        self,
        sequence: Sequence,
        names: list[bytes],
        size: int,
        done: Callable[[Sequence, bool], None],
    ) -> None:
        """Brings the blocks into the engine; ``done`` hears whether they were still there."""

        async def fetch() -> None:
            begun = time.monotonic()
            count = -(-sequence.given // size) - len(sequence.findable()) + len(names)
            count = max(count, len(names))
            await asyncio.sleep(self._pacer.load_s(count, size))
            found = await self._fetched(sequence)
            sequence.job.transfer_s = time.monotonic() - begun
            self._books.transferred(sequence.job.transfer_s, count, found=found)
            done(sequence, found)

        async def take() -> None:
            for name in names:
                self._received.pop(name, None)
            await asyncio.sleep(0)
            done(sequence, True)

        task = asyncio.get_running_loop().create_task(
            take() if self._options.flow == "lmcache" else fetch()
        )
        self._loads.add(task)
        task.add_done_callback(self._loads.discard)

    async def _fetched(self, sequence: Sequence) -> bool:
        kv = sequence.job.ask.kv
        url = f"http://{kv.get('remote_host')}:{kv.get('remote_port')}/kvsim/fetched"
        try:
            await self._peers.post(url, {"request_id": kv.get("remote_request_id")})
        except PeerUnreachable:
            return False
        return True

    def save(self, sequence: Sequence, size: int) -> None:
        """A decoder stores nothing."""

    async def remove_all(self) -> bool:
        """As with NixlConnector: there is nothing to clear, and that is a success."""
        return True

    async def close(self) -> None:
        tasks = list(self._loads)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._peers.close()
