"""Cutting a text so that its prompt is as many tokens long as asked, in few counts."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from kvplan.counting import Counter, Prompt
from kvprompt.salt import NONCE_LETTERS

TRIES = 10
_WORD_END = re.compile(r"(?<=\S)(?=\s)")
_LAST_WORD = re.compile(r"\s+\S*\Z")
_LONGEST_WORD = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """A text cut after `chars` characters, and the length of its prompt."""

    chars: int
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """The text, and the length of its prompt in tokens."""

    text: str
    tokens: int


def word_end(text: str, at: int) -> int:
    """The end of the word at or after character `at`."""
    found = _WORD_END.search(text, max(1, at))
    return found.start() if found else len(text)


def word_before(text: str, at: int) -> int:
    """The end of the last word that ends before character `at`; 0 if there is none."""
    begin = max(0, at - _LONGEST_WORD)
    found = _LAST_WORD.search(text, begin, at)
    return found.start() if found else 0


async def fit(
    grow: Callable[[int], str],
    frame: Callable[[str], Prompt],
    counter: Counter,
    target: int,
    tolerance: int,
) -> Fitted:
    """A beginning of `grow(words)` whose prompt, by `frame`, is `target` tokens long.

    Within `tolerance` below the target; with 0, the last few tokens are letters. If the shortest
    text is too long already, it is what comes back.
    """
    text = grow(target + 50)  # no tokenizer makes fewer tokens than words
    low = Cut(chars=word_end(text, 1), tokens=0)
    low = Cut(chars=low.chars, tokens=await counter.count(frame(text[: low.chars])))
    high: Cut | None = None
    slope = counter.bytes_per_token
    for _ in range(TRIES):
        if low.tokens + tolerance >= target:
            break
        at = _between(text, low, high, target - tolerance // 2, slope)
        if at is None:
            break
        cut = Cut(chars=at, tokens=await counter.count(frame(text[:at])))
        slope = (cut.chars - low.chars) / max(1, cut.tokens - low.tokens)
        if cut.tokens <= target:
            low = cut
        else:
            high = cut
    found = Fitted(text=text[: low.chars], tokens=low.tokens)
    return found if tolerance else await _padded(found, frame, counter, target)


def _between(text: str, low: Cut, high: Cut | None, target: int, slope: float) -> int | None:
    """Where to cut next: by the slope, strictly between what is known; None: nothing is left."""
    bound = len(text) + 1 if high is None else high.chars
    at = word_end(text, low.chars + max(1, int((target - low.tokens) * slope)))
    if at >= bound:
        at = word_before(text, bound - 1)  # the word before what was too long
    return at if low.chars < at < bound else None


async def _padded(
    found: Fitted, frame: Callable[[str], Prompt], counter: Counter, target: int
) -> Fitted:
    """The last few tokens as single letters, one token each nearly everywhere."""
    best, letters = found, 0
    for _ in range(TRIES):
        missing = target - best.tokens
        if missing <= 0:
            break
        letters += missing
        pad = " ".join((NONCE_LETTERS * (letters // len(NONCE_LETTERS) + 1))[:letters])
        text = f"{found.text} {pad}"
        tokens = await counter.count(frame(text))
        if tokens > target:
            break
        best = Fitted(text=text, tokens=tokens)
    return best
