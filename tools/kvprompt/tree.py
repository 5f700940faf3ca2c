"""The prefix tree of prompts: what each adds to it, and what others could have given it.

A prompt is a chain of `Block` links, and two prompts share exactly the tokens of their equal
leading links. So the trees here need no tokens, only names; partial links are never shared,
because whoever makes chains splits them wherever prompts part (`kvprompt.chains`).
"""

from __future__ import annotations

from collections.abc import Sequence

from kvpipe.records import Block

_ROOT = 0


class PrefixTree:
    """The distinct prefixes of prompts; its size is what a clean cold round must compute."""

    def __init__(self) -> None:
        self._nodes: dict[tuple[int, str], int] = {}
        self.size = 0
        """Tokens in the tree."""

    def add(self, blocks: Sequence[Block]) -> int:
        """Put a prompt in; the tokens that were not there yet, 0 for a prompt seen before."""
        nodes = self._nodes
        at, new = _ROOT, 0
        for block in blocks:
            key = (at, block.id)
            if key not in nodes:
                nodes[key] = len(nodes) + 1
                new += block.tokens
            at = nodes[key]
        self.size += new
        return new


class _Donors:
    """A node: the two earliest stamps of a kind, the second being for the donor of the first.

    A run keeps one for every prompt that differs from the others, so it has no parts of its own.
    """

    __slots__ = ("_ended", "_ended_second", "_sent", "_sent_second", "next")

    def __init__(self) -> None:
        self._sent: int | None = None
        self._sent_second: int | None = None
        self._ended: int | None = None
        self._ended_second: int | None = None
        self.next: dict[str, _Donors] | None = None

    def child(self, name: str) -> _Donors:
        """The node behind this one; made if it is not there."""
        if self.next is None:
            self.next = {}
        found = self.next.get(name)
        if found is None:
            found = self.next[name] = _Donors()
        return found

    def note_sent(self, at_ns: int) -> None:
        """A request through here was sent."""
        self._sent, self._sent_second = _earliest(self._sent, self._sent_second, at_ns)

    def note_ended(self, at_ns: int) -> None:
        """A request through here was answered."""
        self._ended, self._ended_second = _earliest(self._ended, self._ended_second, at_ns)

    def sent_since(self, own_ns: int | None) -> int | None:
        """The earliest sending of anybody else."""
        return self._sent_second if own_ns is not None and own_ns == self._sent else self._sent

    def ended_since(self, own_ns: int | None) -> int | None:
        """The earliest answer of anybody else."""
        return self._ended_second if own_ns is not None and own_ns == self._ended else self._ended


def _earliest(first: int | None, second: int | None, at_ns: int) -> tuple[int, int | None]:
    """The two earliest of three stamps."""
    if first is None or at_ns < first:
        return at_ns, first
    if second is None or at_ns < second:
        return first, at_ns
    return first, second


class DonorTree:
    """Who could have given a prefix, and since when.

    Every request is entered by `sent` when its sending began and by `ended` when it was answered;
    `shared` then asks for a bound on one of the two stamps. A request is kept from being its own
    donor by its own stamp (`own_sent_ns`, `own_ended_ns`): another donor with the very same stamp
    still counts.
    """

    def __init__(self) -> None:
        self._root = _Donors()

    def expect(self, blocks: Sequence[Block]) -> None:
        """A request with this chain may be sent: its nodes are made, and give nothing yet."""
        node = self._root
        for block in blocks:
            node = node.child(block.id)

    def sent(self, blocks: Sequence[Block], at_ns: int) -> None:
        """A request with this chain was sent."""
        node = self._root
        for block in blocks:
            node = node.child(block.id)
            node.note_sent(at_ns)

    def ended(self, blocks: Sequence[Block], at_ns: int) -> None:
        """A request with this chain was answered."""
        node = self._root
        for block in blocks:
            node = node.child(block.id)
            node.note_ended(at_ns)

    def shared(
        self,
        blocks: Sequence[Block],
        *,
        sent_before_ns: int | None = None,
        ended_before_ns: int | None = None,
        own_sent_ns: int | None = None,
        own_ended_ns: int | None = None,
    ) -> int:
        """Longest common prefix, in tokens, with any one donor that satisfies the bound.

        Bounds are strict; without one, every donor that was sent counts. A donor of a long prefix
        is one of all its shorter ones, so the walk may stop at the first link that nobody gives.
        """
        if sent_before_ns is not None and ended_before_ns is not None:
            raise ValueError("one bound at a time: the two stamps may belong to two donors")
        bound = sent_before_ns if ended_before_ns is None else ended_before_ns
        node, tokens = self._root, 0
        for block in blocks:
            found = None if node.next is None else node.next.get(block.id)
            if found is None:
                break
            node = found
            if ended_before_ns is not None:
                since = node.ended_since(own_ended_ns)
            else:
                since = node.sent_since(own_sent_ns)
            if since is None or (bound is not None and since >= bound):
                break
            tokens += block.tokens
        return tokens


def reusable(shared_tokens: int, prompt_tokens: int, block_tokens: int) -> int:
    """Tokens that a cache of whole blocks can give: the last prompt token is always computed."""
    usable = min(shared_tokens, prompt_tokens - 1)
    return max(0, usable // block_tokens * block_tokens)
