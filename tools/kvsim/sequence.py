"""One answer being made: its tokens, its blocks, and the stamps of its life. No clock."""

import asyncio
from dataclasses import dataclass, field
from typing import Any

from kvsim.answers import alternative_at, answer_seed, token_at
from kvsim.cache import ROOT, Block, chain, chain_all
from kvsim.prompt import Ask
from kvsim.tokens import EOS

_DAMAGE = 0xDA3A6ED  # bits that make another answer's seed of one's own
_OTHER_WAY = 0x073E12


@dataclass(slots=True)
class Output:
    """One token, or the end of one choice, or the error that ends the whole request."""

    choice: int
    token: int | None = None
    place: int = 0
    """Of the token in the answer, from 1."""
    seed: int = 0
    """Of the answer that it belongs to."""
    runner_up: int | None = None
    """The token that was as likely, if there was one."""
    finish: str | None = None
    """``length``, ``stop`` or None while there is more."""
    error: str | None = None


@dataclass(slots=True, eq=False)
class Job:
    """One request inside the engine: its choices and the queue on which tokens leave it."""

    ask: Ask
    arrived_s: float
    outputs: asyncio.Queue[list[Output]] = field(default_factory=asyncio.Queue)
    sequences: list["Sequence"] = field(default_factory=list)
    handoff: dict[str, Any] | None = None
    """What a prefiller's answer tells the decoder: `kv_transfer_params`."""
    transfer_s: float | None = None
    """How long a decoder waited for the KV of the prompt."""

    @property
    def unfinished(self) -> int:
        return sum(not sequence.finished for sequence in self.sequences)

    @property
    def cached_local(self) -> int:
        """Prompt tokens out of the engine's own cache, first choice of each prompt."""
        return sum(s.cached_local for s in self.sequences if s.leads)

    @property
    def cached_remote(self) -> int:
        """Prompt tokens loaded out of the store, first choice of each prompt."""
        return sum(s.cached_remote for s in self.sequences if s.leads)

    @property
    def cached_told(self) -> int:
        """What usage says. A decoder reports what the prefiller had cached if that is handed
        on; else what was transferred, for it looks like a hit there."""
        told = self.ask.kv.get("remote_prefill_cached_tokens")
        if self.cached_remote and isinstance(told, int):
            return told
        return self.cached_local + self.cached_remote

    @property
    def created(self) -> int:
        """Prompt tokens newly put into the cache, in whole blocks, first choice of each prompt."""
        return sum(s.created for s in self.sequences if s.leads)

    @property
    def generated(self) -> int:
        return sum(s.generated for s in self.sequences)


class Sequence:
    """One choice of a job."""

    def __init__(self, job: Job, choice: int, prompt: tuple[int, ...], size: int) -> None:
        ask = job.ask
        self.job = job
        self.choice = choice
        self.leads = choice % ask.n == 0
        self.tokens = list(prompt)
        self.prompt_len = len(prompt)
        self.size = size
        self.salt = ask.salt
        self.digests: list[bytes] = []
        self.blocks: list[Block] = []
        self.named = 0
        """Blocks, from the first, that have been made findable."""
        self.computed = 0
        self.epoch = 0
        """Raised whenever a step in flight must no longer count."""
        self.cached_local = 0
        self.cached_remote = 0
        self.reach: tuple[int, int] | None = None
        """When the store was asked: blocks in the cache, and those and the store's together."""
        self.given = 0
        """Prompt tokens whose KV a prefiller holds ready for it."""
        self.admitted = False
        self.loading = False
        self.prefilled = False
        self.finished = False
        self.limit = ask.max_tokens
        self.preemptions = 0
        self.scheduled_s = 0.0
        self.first_s = 0.0
        self.last_s = 0.0
        extra = (ask.seed, choice % ask.n) if ask.temperature > 0 else ()
        self.answer = answer_seed(prompt, *extra)
        self.damaged = False
        self.tie_at: int | None = None
        """Token, from 1, at which another is as likely; a hit takes that one."""

    def reseed(self, value: int) -> None:
        """Another answer than the prompt's own."""
        self.answer ^= value

    def damage(self) -> None:
        """Part of its KV is of no prompt at all: the answer is another from the first token."""
        if not self.damaged:
            self.damaged = True
            self.reseed(_DAMAGE)

    @property
    def generated(self) -> int:
        return len(self.tokens) - self.prompt_len

    @property
    def created(self) -> int:
        """Whole blocks of the prompt (its last token apart) that no cache had, in tokens."""
        whole = (self.prompt_len - 1) // self.size * self.size
        return max(0, whole - self.cached_local - self.cached_remote)

    def hash_prompt(self) -> None:
        self.digests = list(chain_all(self.tokens, self.size, self.salt))

    def digest(self, at: int) -> bytes:
        """The name of the ``at``-th block, which must be full."""
        while len(self.digests) <= at:
            start = len(self.digests) * self.size
            parent = self.digests[-1] if self.digests else ROOT
            salt = self.salt if start == 0 else None
            self.digests.append(chain(parent, self.tokens[start : start + self.size], salt))
        return self.digests[at]

    def findable(self) -> list[bytes]:
        """Names under which its beginning may be cached; never the block of its last token."""
        return [self.digest(at) for at in range((len(self.tokens) - 1) // self.size)]

    def next_token(self) -> Output:
        """Makes the next token, and says whether it was the last."""
        ask = self.job.ask
        place = self.generated
        may_stop = not ask.ignore_eos and place >= ask.min_tokens
        seed, runner_up = self.answer, None
        token = token_at(seed, place, may_stop=may_stop)
        if self.tie_at == place + 1:
            runner_up = alternative_at(seed, self.tie_at, 1)
            if self.cached_local + self.cached_remote:
                token, runner_up = runner_up, token
                self.reseed(_OTHER_WAY)
        self.tokens.append(token)
        finish = None
        if token == EOS:
            finish = "stop"
        elif self.generated >= self.limit:
            finish = "length"
        return Output(self.choice, token, self.generated, seed, runner_up, finish)
