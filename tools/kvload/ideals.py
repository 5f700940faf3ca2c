"""How much of each prompt a perfect cache could have given: from whom, and since when.

Bounds, not guesses: `lo` counts donors that had been answered when the request was sent, `hi`
donors whose sending had begun before its first token (vLLM registers blocks when it schedules
them, not when they are computed). Sentinels give nothing and get nothing: their text is new.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from kvpipe.records import Block, Calibrated, Planned
from kvprompt.tree import DonorTree, reusable

BEFORE_ALL_NS = 0
EXACT: tuple[Calibrated, ...] = ("tokenize", "token_ids")
SLACK_RATIO = 0.02  # of an estimated length, where nobody counted
SLACK_TOKENS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Ideal:
    """Reusable tokens of one request; null where its chain or the block size is not known."""

    lo: int | None = None
    hi: int | None = None
    prior: int | None = None
    new_tokens: int | None = None


class Namespace:
    """Everything that was sent under one salt, over the rounds of a repeat."""

    def __init__(self) -> None:
        self._earlier = DonorTree()
        self._round: list[Sequence[Block]] = []

    def remember(self, planned: Planned) -> None:
        """A request of the running round, a donor for every later round."""
        self._round.append(planned.blocks)

    def presume(self, plan: Sequence[Planned]) -> None:
        """Take the plan as sent before, by another call under the same salt."""
        for request in plan:
            if request.stratum != "sentinel":
                self.remember(request)
        self.close_round()

    def close_round(self) -> None:
        """The running round becomes an earlier one."""
        for blocks in self._round:
            self._earlier.sent(blocks, BEFORE_ALL_NS)
        self._round = []

    def shared(self, planned: Planned) -> int:
        """Tokens that some prompt of an earlier round shares with this one."""
        return self._earlier.shared(planned.blocks)


class RoundIdeals:
    """The ideals of one round, as its requests begin and end."""

    def __init__(
        self,
        namespace: Namespace,
        *,
        block_tokens: int | None,
        calibrated: Calibrated,
        reuse: bool,
        salt_in_prompt: bool,
    ) -> None:
        self._tree = DonorTree()
        self._namespace = namespace
        self._block_tokens = block_tokens
        self._exact = calibrated in EXACT
        self._reuse = reuse
        self._salt_in_prompt = salt_in_prompt

    def expect(self, planned: Planned) -> None:
        """A request will be sent: what it takes to know it is taken now, and not in the round."""
        if self._reuse and planned.stratum != "sentinel":
            self._tree.expect(planned.blocks)

    def began_before_all(self, planned: Planned) -> None:
        """One that another sends, whenever that is: bounds must hold for any time."""
        self.began(planned, BEFORE_ALL_NS)

    def began(self, planned: Planned, at_ns: int) -> None:
        """A request is on its way: from now on it may give blocks to others."""
        if self._reuse and planned.stratum != "sentinel":
            self._tree.sent(planned.blocks, at_ns)
            self._namespace.remember(planned)

    def ended(self, planned: Planned, at_ns: int) -> None:
        """A request was answered in full."""
        if self._reuse and planned.stratum != "sentinel":
            self._tree.ended(planned.blocks, at_ns)

    def of(
        self,
        planned: Planned,
        *,
        began_ns: int,
        sent_ns: int | None,
        first_token_ns: int | None,
        prompt_tokens: int | None,
    ) -> Ideal:
        """The ideal of a finished request; its own blocks are never its donor."""
        length = prompt_tokens or planned.prompt_tokens
        if not planned.blocks or length is None:
            return Ideal(new_tokens=planned.new_tokens)
        scale = 1.0
        extra = 0
        if planned.prompt_tokens and prompt_tokens:
            if self._exact or self._salt_in_prompt:
                extra = prompt_tokens - planned.prompt_tokens if self._salt_in_prompt else 0
            else:
                scale = prompt_tokens / planned.prompt_tokens
        new = None if planned.new_tokens is None else round(planned.new_tokens * scale)
        block = self._block_tokens
        if planned.stratum == "sentinel" or not self._reuse:
            hi = self._head(planned, extra, length) if self._reuse else 0
            return Ideal(lo=0, hi=hi, prior=0, new_tokens=length if new is None else new)
        if block is None:
            return Ideal(new_tokens=new)

        def tokens(shared: int, slack: bool) -> int:
            grown = shared * scale + (extra if shared else 0)
            if slack and not self._exact and shared:
                grown = grown * (1 + SLACK_RATIO) + SLACK_TOKENS
            return reusable(math.floor(grown), length, block)

        lo = self._tree.shared(planned.blocks, ended_before_ns=sent_ns or began_ns)
        hi = self._tree.shared(
            planned.blocks, sent_before_ns=first_token_ns or sent_ns, own_sent_ns=began_ns
        )
        prior = self._namespace.shared(planned)
        return Ideal(
            lo=tokens(lo, slack=False),
            hi=tokens(hi, slack=True),
            prior=tokens(prior, slack=True),
            new_tokens=new,
        )

    def _head(self, planned: Planned, salt_tokens: int, length: int) -> int | None:
        """What even a prompt with a nonce shares with its round: a salt at the head of the text.

        The salt stands behind the template and before the nonce, the same in the whole round.
        """
        if not self._salt_in_prompt:
            return 0
        if self._block_tokens is None:
            return None
        template = planned.blocks[0].tokens
        return reusable(max(0, template + salt_tokens), length, self._block_tokens)
