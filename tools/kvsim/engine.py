"""The engine: continuous batching in steps, over a prefix cache, with a store behind it.

The order of things follows vLLM's scheduler: who runs goes first, then the queue in order of
arrival; a long prompt is prefilled in chunks; blocks are findable from the moment they are
scheduled; tokens leave at the end of a step. So TTFT comes from what is *not* cached, gaps are
steps, and queues form by themselves.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from kvsim.accounting import Accounting
from kvsim.cache import BlockPool
from kvsim.faults import FaultSet
from kvsim.holdings import Holdings
from kvsim.node_metrics import State
from kvsim.options import NodeOptions
from kvsim.pacing import Pacer
from kvsim.prompt import Ask
from kvsim.receiver import Receiver
from kvsim.sender import Sender
from kvsim.sequence import Job, Output, Sequence
from kvsim.store_client import StoreClient
from kvsim.transfers import Transfers

DEAD = "EngineCore encountered an issue. See stack trace (above) for the root cause."
LOAD_FAILED = "Internal server error"


@dataclass(slots=True)
class Step:
    """Who computes how many tokens in one step: (sequence, its epoch, tokens)."""

    budget: int
    parts: list[tuple[Sequence, int, int]] = field(default_factory=list)

    def add(self, sequence: Sequence, tokens: int) -> None:
        self.parts.append((sequence, sequence.epoch, tokens))
        self.budget -= tokens

    def without(self, victim: Sequence) -> None:
        self.budget += sum(count for seq, _, count in self.parts if seq is victim)
        self.parts = [part for part in self.parts if part[0] is not victim]


class Engine:
    """Takes jobs, gives tokens. ``run`` is the loop; the rest is called between its steps."""

    def __init__(
        self,
        options: NodeOptions,
        faults: FaultSet,
        accounting: Accounting,
        client: StoreClient | None = None,
        address: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._options = options
        self._faults = faults
        self._books = accounting
        self._clock = clock
        self._random = Random(options.seed)
        self._pacer = Pacer(options.pace, faults, self._random)
        self.pool = BlockPool(options.blocks)
        self._holdings = Holdings(self.pool, options.block_tokens, faults, self._random)
        self._transfers: Transfers | Receiver | None = None
        if client:
            self._transfers = Transfers(client, self.pool, self._pacer, faults)
        self.receiver: Receiver | None = None
        if options.role == "decode":
            self._transfers = self.receiver = Receiver(options, self._pacer, accounting)
        self.sender: Sender | None = None
        if options.role == "prefill":
            self.sender = Sender(options, self.pool, self._pacer, accounting, address)
        self._running: list[Sequence] = []
        self._waiting: list[Sequence] = []
        self._loading: set[Sequence] = set()
        self._wake = asyncio.Event()
        self.dead = False

    # Jobs

    def submit(self, ask: Ask) -> Job:
        """Queues a request; its tokens arrive on ``job.outputs``."""
        job = Job(ask, self._clock())
        if self._faults.once("restart"):
            self._books.restart()
            self.reset_prefix_cache(reset_running=True)
        self._pacer.request_arrived()
        prompts = [prompt for prompt in ask.prompts for _ in range(ask.n)]
        job.sequences += [self._sequence(job, *item) for item in enumerate(prompts)]
        self.dead = self.dead or self._faults.once("engine_death")
        if self.dead:
            self._die(job)
            return job
        self._waiting += job.sequences
        self._wake.set()
        return job

    def _sequence(self, job: Job, choice: int, prompt: tuple[int, ...]) -> Sequence:
        sequence = Sequence(job, choice, prompt, self._options.block_tokens)
        if self._faults.on("ignore_salt"):
            sequence.salt = None
        if self._faults.on("near_tie"):
            sequence.tie_at = max(1, int(self._faults.number("near_tie")))
        chance = job.ask.temperature > 0 and job.ask.seed is None
        if chance or self._faults.on("nondeterministic"):
            sequence.reseed(self._random.getrandbits(64))
        return sequence

    def abort(self, job: Job) -> None:
        """The client went away."""
        for sequence in job.sequences:
            self._drop(sequence)

    def _die(self, new: Job) -> None:
        jobs = {id(s.job): s.job for s in (*self._running, *self._waiting, *self._loading)}
        for job in (*jobs.values(), new):
            self._fail(job, DEAD)

    def _fail(self, job: Job, message: str) -> None:
        job.outputs.put_nowait([Output(0, error=message)])
        for sequence in job.sequences:
            self._drop(sequence)

    # Resets

    def reset_prefix_cache(self, *, reset_running: bool = False) -> bool:
        """False, and nothing cleared, while a running request, a load or a save holds a block."""
        if reset_running:
            for sequence in list(reversed(self._running)):
                self._preempt(sequence)
        return self.pool.clear()

    async def reset_external(self) -> bool:
        """Waits for saves under way, then clears the store by force; no store: nothing to do."""
        return await self._transfers.remove_all() if self._transfers else True

    def state(self) -> State:
        return State(
            running=len(self._running),
            waiting=len(self._waiting),
            loading=len(self._loading),
            usage=self.pool.used / (self.pool.capacity - 1),
        )

    # The loop

    async def run(self) -> None:
        """Steps for ever. A step's planned end is the next one's start, so that late timers of
        the event loop do not slow the engine down."""
        planned = self._clock()
        while True:
            step = await self._schedule()
            if not step.parts:
                await self._rest()
                planned = self._clock()
                continue
            now = self._clock()
            planned = planned if now - planned < 0.02 else now
            sizes = [(s.computed, count, s.prefilled and count == 1) for s, _, count in step.parts]
            planned += self._pacer.step_s(sizes)
            await asyncio.sleep(max(0.0, planned - self._clock()))
            self._finish_step(step)

    async def close(self) -> None:
        if self._transfers:
            await self._transfers.close()
        if self.sender:
            await self.sender.close()

    async def _rest(self) -> None:
        """Until something arrives; but when something waits for room, look again soon."""
        self._wake.clear()
        if not self._waiting:
            await self._wake.wait()
        else:
            await asyncio.sleep(0.001)

    async def _schedule(self) -> Step:
        step = Step(self._options.max_num_batched_tokens)
        preempted = False
        for sequence in list(self._running):
            count = min(len(sequence.tokens) - sequence.computed, step.budget)
            if count <= 0 or sequence not in self._running:
                continue  # no budget left, or preempted for the sake of an earlier one
            while not self._holdings.grow(sequence, count):
                preempted = True
                victim = self._running[-1]
                self._preempt(victim)
                step.without(victim)
                if victim is sequence:
                    break
            else:
                step.add(sequence, count)
        if not preempted:
            await self._admit(step)
        return step

    async def _admit(self, step: Step) -> None:
        """Takes up waiting requests in order while there are budget, places and blocks."""
        most = self._options.max_num_seqs
        while self._waiting and step.budget > 0 and len(self._running) + len(self._loading) < most:
            if not await self._take_up(self._waiting[0], step):
                self._unlock(step)
                break

    async def _take_up(self, sequence: Sequence, step: Step) -> bool:
        """The head of the queue begins to load or to run; False: no room."""
        if not sequence.blocks:
            remote = await self._remote_blocks(sequence)
            if not self._waiting or self._waiting[0] is not sequence:
                return True  # gone while the store was asked
            if not self._take_cached(sequence, remote, step.budget):
                return False
            if sequence.loading:
                return True
        count = min(len(sequence.tokens) - sequence.computed, step.budget)
        if not self._holdings.grow(sequence, count):
            return False
        self._waiting.remove(sequence)
        self._running.append(sequence)
        sequence.scheduled_s = sequence.scheduled_s or self._clock()
        step.add(sequence, count)
        return True

    def _unlock(self, step: Step) -> None:
        """No room. If nobody runs who will make some, loaded requests give theirs back."""
        if not self._running and not step.parts:
            for sequence in self._waiting:
                self._holdings.let_go(sequence)

    async def _remote_blocks(self, sequence: Sequence) -> int:
        """How many blocks the store has beyond those that the cache has; asked once while a
        request waits for room."""
        if self._transfers is None or sequence.admitted:
            return 0
        local = self._holdings.local(sequence)
        if sequence.reach is None or local < sequence.reach[0]:
            found = await self._transfers.lookup(sequence, sequence.findable()[local:])
            sequence.reach = (local, local + found)
        return max(0, sequence.reach[1] - self._holdings.local(sequence))

    def _take_cached(self, sequence: Sequence, remote: int, budget: int) -> bool:
        """Holds what the cache has, starts to load what the store has; False: no room yet."""
        found = self._holdings.find(sequence, remote)
        if not self._holdings.take(sequence, found, budget):
            return False
        local = len(found.local)
        if not sequence.admitted:
            size = self._options.block_tokens
            remote = found.remote * size
            if found.remote and sequence.given:
                remote = sequence.given - local * size
            self._admitted(sequence, (local + found.hidden) * size, remote)
        if found.remote:
            self._load(sequence, sequence.findable()[local : local + found.remote])
        return True

    def _admitted(self, sequence: Sequence, local: int, remote: int) -> None:
        sequence.admitted = True
        sequence.cached_local, sequence.cached_remote = local, remote
        if self._faults.on("fake_hits"):
            sequence.cached_local, sequence.cached_remote = 0, sequence.prompt_len - 1
        if self._faults.on("extra_tokens") and local + remote:
            sequence.limit = max(1, sequence.limit - 1)
        asked = self._transfers is not None or self._options.nixl
        self._books.admitted(sequence, asked)

    def _load(self, sequence: Sequence, names: list[bytes]) -> None:
        if self._transfers is None:
            raise AssertionError("a load without a store")
        sequence.loading = True
        if not self.receiver:  # vLLM schedules a request when its KV has come over the link
            sequence.scheduled_s = self._clock()
        self._waiting.remove(sequence)
        self._loading.add(sequence)
        self._transfers.load(sequence, names, self._options.block_tokens, self._loaded)

    def _loaded(self, sequence: Sequence, found: bool) -> None:
        if sequence not in self._loading:
            return  # aborted meanwhile
        self._loading.remove(sequence)
        sequence.loading = False
        if not found and self._options.load_failure == "fail":
            self._books.failed()
            self._fail(sequence.job, LOAD_FAILED)
            return
        if found:
            self._holdings.loaded(sequence)
        self._waiting.insert(0, sequence)
        self._wake.set()

    def _preempt(self, sequence: Sequence) -> None:
        """Back to the head of the queue, to be computed anew."""
        self._running.remove(sequence)
        self._holdings.let_go(sequence)
        sequence.preemptions += 1
        self._waiting.insert(0, sequence)
        self._books.preempted()
        self._wake.set()

    def _drop(self, sequence: Sequence) -> None:
        """Out of the engine, whatever its state."""
        if sequence.finished:
            return
        sequence.finished = True
        for group in (self._running, self._waiting):
            if sequence in group:
                group.remove(sequence)
        self._loading.discard(sequence)
        self._holdings.let_go(sequence)
        self._wake.set()

    def _finish_step(self, step: Step) -> None:
        now = self._clock()
        self._books.stepped(sum(count for _, _, count in step.parts))
        outputs: dict[int, tuple[Job, list[Output]]] = {}
        for sequence, epoch, count in step.parts:
            if sequence.epoch != epoch:
                continue  # dropped or preempted while the step ran
            sequence.computed += count
            if sequence.computed == len(sequence.tokens):
                job = sequence.job
                outputs.setdefault(id(job), (job, []))[1].append(self._emit(sequence, now))
        for job, items in outputs.values():
            job.outputs.put_nowait(items)

    def _emit(self, sequence: Sequence, now: float) -> Output:
        output = sequence.next_token()
        if not sequence.prefilled:
            sequence.prefilled = True
            sequence.first_s = now
            self._books.first_token(sequence, now)
            if self._transfers:
                self._transfers.save(sequence, self._options.block_tokens)
        self._books.token(sequence, now)
        sequence.last_s = now
        if output.finish:
            if self.sender:
                self.sender.finished(sequence)
            self._drop(sequence)
            self._books.finished(sequence, output.finish, now)
        return output
