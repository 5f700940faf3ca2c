"""Words that are one token each at a server, and proof that prompts of them are as long as planned.

Candidates are sent to `/tokenize` between copies of a word that is one token already: what stands
alone between two of them is one token too, and which one it is shows at the same time. So the
tokens of every prompt are known before it is sent, and a sample is held against the server's own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, product
from string import ascii_lowercase
from typing import Any

from kvengine.server import Server
from kvengine.tokenize import floor_tokens, tokens_of
from kvpipe.process import ToolError
from kvpipe.records import Planned
from kvprompt.vocabulary import vocabulary

LEAD = "Text:"
"""Where every prompt begins, so that each word behind it has a space before it."""
BETWEEN = "the"
AT_ONCE = 1000
"""Candidates of one question."""
ENOUGH = 20_000
"""Words, after which no more are looked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lexicon:
    """Words with their tokens, and what stands around a text of them. Chat only."""

    tokens: dict[str, int]
    head: tuple[int, ...]
    """Tokens of the template's head and of `LEAD`."""
    foot: tuple[int, ...]
    """Tokens of what the template puts behind a user's words."""
    floor: int
    """Tokens that every prompt on earth shares here."""

    def predicted(self, request: Planned) -> list[int | None]:
        """The tokens of a planned request; None: one token, not known which."""
        assert request.messages is not None
        words = str(request.messages[0]["content"]).split(" ")
        if request.nonce is None:
            assert words[0] == LEAD
            head = list(self.head)
            words = words[1:]
        else:
            head = list(self.head[: self.floor])
        return [*head, *map(self.tokens.get, words), *self.foot]


async def lexicon_of(server: Server, model: str) -> Lexicon | None:
    """The words of this server's model; None if it has no `/tokenize`.

    Raises ToolError if its tokens cannot be told apart.
    """
    floor = await floor_tokens(server, model, "chat")
    if floor is None:
        return None
    head, between, foot = await _around(server, model)
    found: dict[str, int] = {}
    candidates = _candidates()
    while len(found) < ENOUGH and (asked := list(islice(candidates, AT_ONCE))):
        text = f"{LEAD} {BETWEEN} " + "".join(f"{word} {BETWEEN} " for word in asked)
        tokens = await _tokens(server, model, text.rstrip())
        found |= alone(asked, tokens[len(head) : len(tokens) - len(foot)], between)
    apart = {token: word for word, token in found.items()}  # one word for each token
    words = {word: token for token, word in sorted(apart.items())}
    if not words:
        raise ToolError(f"{server.shown}: found no word that is one token: use --api completions")
    return Lexicon(tokens=words, head=head, foot=foot, floor=floor)


async def _around(server: Server, model: str) -> tuple[tuple[int, ...], int, tuple[int, ...]]:
    """Tokens before the words, of BETWEEN with its space, and behind the words."""
    short, long = [
        await _tokens(server, model, " ".join([LEAD, *[BETWEEN] * count])) for count in (3, 8)
    ]
    size = next((at for at, (a, b) in enumerate(zip(short, long, strict=False)) if a != b), 0)
    start, one = size - 3, short[size - 1] if size else -1
    if start < 0 or long[start : start + 8] != [one] * 8 or len(long) != len(short) + 5:
        raise ToolError(
            f"{server.shown}: '{BETWEEN}' is not one token in every place here, so the lengths of "
            "texts cannot be planned: use --api completions"
        )
    return tuple(long[:start]), one, tuple(long[start + 8 :])


def alone(words: Sequence[str], tokens: Sequence[int], between: int) -> dict[str, int]:
    """The words that are one token; none if the text does not fall into as many parts."""
    parts: list[list[int]] = [[]]
    for token in tokens:
        if token == between:
            parts.append([])
        else:
            parts[-1].append(token)
    inner = parts[1:-1]
    if len(inner) != len(words):
        return {}
    return {word: part[0] for word, part in zip(words, inner, strict=True) if len(part) == 1}


def _candidates() -> Iterator[str]:
    """Words of the texts elsewhere, with and without a capital, then short runs of letters."""
    known = vocabulary()
    plain = [
        *(*known.nouns, *known.verbs, *known.adjectives, *known.adverbs),
        *(*known.plurals, *known.presents, *known.pasts, *known.gerunds),
    ]
    seen = {BETWEEN}
    runs = (
        "".join(letters) for width in (2, 3) for letters in product(ascii_lowercase, repeat=width)
    )
    for source in (plain, map(str.capitalize, plain), runs):
        for word in source:
            if word not in seen:
                seen.add(word)
                yield word


def estimated_words() -> tuple[str, ...]:
    """Words that are one token each in most vocabularies, where nobody can be asked."""
    return tuple(word for word in _candidates() if len(word) > 3)


@dataclass(slots=True, kw_only=True)
class Drift:
    """How planned tokens and the server's own compare, over the prompts that were looked at."""

    looked: int = 0
    wrong: int = 0
    worst: int = 0
    """Most tokens by which a length was wrong; 0 where only tokens differed."""

    def __str__(self) -> str:
        by = f", by up to {self.worst} tokens" if self.worst else " in tokens, not in length"
        return f"{self.wrong} of {self.looked} prompts differ from the server's own count{by}"


async def drift_of(
    server: Server, model: str, lexicon: Lexicon, sample: Sequence[Planned]
) -> Drift:
    """Tokenize a sample of the plan, and hold it against what was planned."""
    drift = Drift()
    for request in sample:
        messages: list[dict[str, Any]] = request.messages or []
        found = await tokens_of(server, model, messages)
        planned = lexicon.predicted(request)
        drift.looked += 1
        if found is None or len(found) != len(planned) or request.prompt_tokens != len(found):
            drift.wrong += 1
            drift.worst = max(drift.worst, abs(len(found or ()) - (request.prompt_tokens or 0)))
        elif any(one not in (None, other) for one, other in zip(planned, found, strict=True)):
            drift.wrong += 1
    return drift


async def _tokens(server: Server, model: str, text: str) -> list[int]:
    tokens = await tokens_of(server, model, [{"role": "user", "content": text}])
    if tokens is None:
        raise ToolError(f"{server.shown}: /tokenize answered before and does no longer")
    return tokens
