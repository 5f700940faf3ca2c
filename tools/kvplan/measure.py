"""How long the blocks of a trace are in a plan, and how a prompt is laid out over them."""

from __future__ import annotations

from dataclasses import dataclass

from kvplan.trace import TraceLine


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """The layout of every prompt: head, blocks, foot.

    A chat template's head and foot take the place of a block's first and a prompt's last tokens, so
    that lengths are what the trace says and blocks begin where the engine's do. A head longer than
    a block cannot: then it is filled up to whole blocks, which stand before the first.
    """

    trace_block: int
    """Tokens of a block in the trace."""
    block: int
    """Tokens of it in the plan."""
    head: int = 0
    """Tokens that every prompt begins with."""
    foot: int = 0
    """Tokens that every prompt ends with."""
    most_output: int | None = None
    """No request asks for more output tokens; None: as many as the trace says, scaled."""

    @property
    def added(self) -> int:
        """Tokens before the first block that the trace knows nothing of."""
        return -(-self.head // self.block) * self.block if self.head >= self.block else 0

    @property
    def front(self) -> int:
        """Tokens before the first symbol of a prompt's own."""
        return self.added or self.head

    def asked(self, line: TraceLine) -> int:
        """Tokens of the prompt, as the trace has it, in blocks of the plan."""
        return (len(line.hash_ids) - 1) * self.block + self._last(line)

    def _last(self, line: TraceLine) -> int:
        """Tokens of the last block: as full as it was, and full only if it was."""
        behind = line.input_tokens - (len(line.hash_ids) - 1) * self.trace_block
        return max(1, behind * self.block // self.trace_block)

    def full(self, at: int) -> int:
        """Symbols of block number `at` where the prompt goes on behind it."""
        return self.block - self.head if at == 0 and not self.added else self.block

    def last(self, line: TraceLine) -> int:
        """Symbols of the last block; one at least, since it must differ from its siblings."""
        at = len(line.hash_ids) - 1
        return max(1, self._last(line) - (self.block - self.full(at)) - self.foot)

    def length(self, line: TraceLine) -> int:
        """Tokens of the prompt that is made: as asked, unless head and foot leave no room."""
        final = len(line.hash_ids) - 1
        whole = self.full(0) + (final - 1) * self.block if final else 0
        return self.front + whole + self.last(line) + self.foot

    def output(self, line: TraceLine) -> int:
        """Output tokens to ask for, scaled as blocks are; one at least, as engines give."""
        scaled = max(1, round(line.output_tokens * self.block / self.trace_block))
        return scaled if self.most_output is None else min(scaled, self.most_output)
