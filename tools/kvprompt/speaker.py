"""A speaker: fills the slots of sentence patterns from the vocabulary, by a given generator."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import lru_cache

from kvprompt.vocabulary import Vocabulary, vocabulary

Part = tuple[str, bool]
"""A literal, or the name of a slot (then True)."""

_SLOTS = {
    "noun": "nouns",
    "nouns": "plurals",
    "verb": "verbs",
    "verbs": "presents",
    "past": "pasts",
    "ing": "gerunds",
    "adj": "adjectives",
    "adv": "adverbs",
    "person": "surnames",
}


@lru_cache(maxsize=1024)
def _parts(pattern: str) -> tuple[Part, ...]:
    """`The {adj} {noun}.` as literals and slots."""
    parts: list[Part] = []
    for piece in pattern.split("{"):
        name, brace, literal = piece.rpartition("}")
        if brace:
            parts.append((name, True))
        if literal:
            parts.append((literal, False))
    return tuple(parts)


class Speaker:
    """Draws words and says patterns. The same generator state says the same text."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        words = vocabulary()
        self._say: dict[str, Callable[[], str]] = {
            slot: self._one_of(getattr(words, kind)) for slot, kind in _SLOTS.items()
        }
        self._say |= {
            "place": lambda: self._place(words),
            "year": lambda: str(rng.randrange(1640, 2030)),
            "count": lambda: str(rng.randrange(2, 90)),
            "many": lambda: f"{rng.randrange(1, 99)},{rng.randrange(1000):03}",
            "percent": lambda: f"{rng.randrange(1, 99)}.{rng.randrange(10)} percent",
            "section": lambda: f"{rng.randrange(1, 40)}.{rng.randrange(1, 20)}",
        }

    def _one_of(self, words: Sequence[str]) -> Callable[[], str]:
        # Several times as fast as rng.choice, and there are a million words to draw.
        draw, size = self.rng.random, len(words)
        return lambda: words[int(draw() * size)]

    def _place(self, words: Vocabulary) -> str:
        draw, syllables, endings = self.rng.random, words.syllables, words.endings
        stem = syllables[int(draw() * len(syllables))]
        if draw() < 0.5:
            stem += syllables[int(draw() * len(syllables))]
        return (stem + endings[int(draw() * len(endings))]).capitalize()

    def word(self, slot: str) -> str:
        """One word of a kind."""
        return self._say[slot]()

    def fill(self, pattern: str) -> str:
        """The pattern with each `{slot}` drawn anew."""
        say = self._say
        return "".join([say[part]() if slot else part for part, slot in _parts(pattern)])

    def one_of(self, patterns: Sequence[str]) -> str:
        """One of the patterns, filled, with a capital at its head."""
        text = self.fill(patterns[int(self.rng.random() * len(patterns))])
        return text[:1].upper() + text[1:]

    def several(self, patterns: Sequence[str], low: int, high: int) -> str:
        """A paragraph of `low` to `high` sentences."""
        return " ".join(self.one_of(patterns) for _ in range(self.rng.randint(low, high)))
