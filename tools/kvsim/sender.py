"""A prefiller's side of the link: it keeps the blocks of a prompt until the decoder has them.

Flow `vllm` (NixlConnector): the answer says where the blocks are, the decoder fetches them, and
what nobody fetches is let go after a while. Flow `lmcache`: the prefiller pushes them to the
decoder by itself, and tells the proxy when they have arrived.
"""

import asyncio
import secrets
import time
from collections.abc import Mapping
from typing import Any

from kvsim.accounting import Accounting
from kvsim.cache import Block, BlockPool
from kvsim.options import NodeOptions
from kvsim.pacing import Pacer
from kvsim.peers import Peers, PeerUnreachable
from kvsim.sequence import Job, Sequence

SINCE_CACHED_TOLD = (0, 28)
"""`remote_prefill_cached_tokens` is absent from 0.27.1 and there in 0.32."""


class Sender:
    """Blocks that decoders are to have, held so that nobody evicts them."""

    def __init__(
        self,
        options: NodeOptions,
        pool: BlockPool,
        pacer: Pacer,
        books: Accounting,
        address: str,
    ) -> None:
        self._options = options
        self._pool = pool
        self._pacer = pacer
        self._books = books
        self._host, _, port = address.rpartition(":")
        self._port = int(port or 0)
        self._engine_id = secrets.token_hex(16)
        self._held: dict[str, tuple[list[Block], asyncio.TimerHandle]] = {}
        self._pushes: set[asyncio.Task[None]] = set()
        self._peers = Peers()

    def finished(self, sequence: Sequence) -> None:
        """The only token of a prompt is made: what the decoder needs is kept and told."""
        kv = sequence.job.ask.kv
        if sequence.choice:
            return  # a proxy asks for one choice
        if self._options.flow == "vllm" and kv.get("do_remote_decode"):
            sequence.job.handoff = self._hold(sequence)
        elif self._options.flow == "lmcache" and kv.get("ret_first_tok"):
            sequence.job.handoff = {"first_tok": sequence.tokens[sequence.prompt_len]}
            self._push(sequence, kv.get("disagg_spec") or {})

    def _blocks(self, sequence: Sequence) -> list[Block]:
        """Those of the prompt, the begun one too."""
        blocks = sequence.blocks[: -(-sequence.prompt_len // self._options.block_tokens)]
        self._pool.take(blocks)
        return blocks

    def _hold(self, sequence: Sequence) -> dict[str, Any]:
        """Keys and their order as in vLLM 0.32's NixlConnector."""
        blocks, name = self._blocks(sequence), sequence.job.ask.request_id
        self._let_go(name)  # a client that uses one id twice
        timer = asyncio.get_running_loop().call_later(self._options.kv_hold_s, self._expire, name)
        self._held[name] = (blocks, timer)
        told = {
            "do_remote_prefill": True,
            "do_remote_decode": False,
            "remote_block_ids": [[block.number for block in blocks]],
            "remote_engine_id": self._engine_id,
            "remote_request_id": name,
            "remote_host": self._host,
            "remote_port": self._port,
            "tp_size": 1,
            "remote_num_tokens": sequence.prompt_len,
        }
        if self._options.vllm_version >= SINCE_CACHED_TOLD:
            told["remote_prefill_cached_tokens"] = _cached(sequence.job)
        return told

    def fetched(self, name: str) -> bool:
        """A decoder has read the blocks; False: they are not here any more."""
        return self._let_go(name)

    def _let_go(self, name: str) -> bool:
        held = self._held.pop(name, None)
        if held is None:
            return False
        blocks, timer = held
        timer.cancel()
        self._pool.release(blocks)
        return True

    def _expire(self, name: str) -> None:
        if self._let_go(name):
            self._books.kv_expired()

    def _push(self, sequence: Sequence, spec: Mapping[str, Any]) -> None:
        blocks = self._blocks(sequence)
        size = self._options.block_tokens
        names = [sequence.digest(at).hex() for at in range(sequence.prompt_len // size)]

        async def work() -> None:
            begun = time.monotonic()
            try:
                await asyncio.sleep(self._pacer.load_s(len(blocks), size))
                seconds = time.monotonic() - begun
                told = {"names": names, "seconds": seconds}
                await self._peers.post(_receiver(spec) + "/kvsim/receive", told)
                await self._peers.post(
                    f"http://{spec['notify']}/kvsim/kv_ready", {"req_id": spec["req_id"]}
                )
            except (PeerUnreachable, KeyError):
                return  # as with a real pair: the proxy goes on waiting
            finally:
                self._pool.release(blocks)

        task = asyncio.get_running_loop().create_task(work())
        self._pushes.add(task)
        task.add_done_callback(self._pushes.discard)

    async def close(self) -> None:
        for _, timer in self._held.values():
            timer.cancel()
        for task in self._pushes:
            task.cancel()
        await asyncio.gather(*self._pushes, return_exceptions=True)
        await self._peers.close()


def _cached(job: Job) -> int:
    return job.cached_local + job.cached_remote


def _receiver(spec: Mapping[str, Any]) -> str:
    """LMCache names the decoder's ports by rank; there is one rank here."""
    return f"http://{spec['receiver_host']}:{spec['receiver_init_port'][0]}"
