"""Word forms by kind, made from the words in vocabulary.txt: several thousand of them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files

_DROPS_E = re.compile(r"[^eoy]e$")
_VOWEL_Y = re.compile(r"[aeiou]y$")
_DOUBLE = re.compile(r"^(admit|cancel|fulfil|label|level|patrol|permit|signal|submit|transfer)$")
_HISSES = re.compile(r"(s|x|z|ch|sh)$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """Words by kind; places and people are put together from the last three."""

    nouns: tuple[str, ...]
    plurals: tuple[str, ...]
    verbs: tuple[str, ...]
    presents: tuple[str, ...]
    pasts: tuple[str, ...]
    gerunds: tuple[str, ...]
    adjectives: tuple[str, ...]
    adverbs: tuple[str, ...]
    syllables: tuple[str, ...]
    endings: tuple[str, ...]
    surnames: tuple[str, ...]


@lru_cache(maxsize=1)
def vocabulary() -> Vocabulary:
    """The words, read once."""
    kinds = _sections((files("kvprompt") / "vocabulary.txt").read_text(encoding="utf-8"))
    verbs = kinds["verbs"]
    return Vocabulary(
        nouns=kinds["nouns"],
        plurals=tuple(map(with_s, kinds["nouns"])),
        verbs=verbs,
        presents=tuple(map(with_s, verbs)),
        pasts=tuple(map(past, verbs)),
        gerunds=tuple(map(gerund, verbs)),
        adjectives=kinds["adjectives"],
        adverbs=kinds["adverbs"],
        syllables=kinds["syllables"],
        endings=kinds["endings"],
        surnames=tuple(name.capitalize() for name in kinds["surnames"]),
    )


def _sections(text: str) -> dict[str, tuple[str, ...]]:
    kinds: dict[str, list[str]] = {}
    words: list[str] = []
    for line in text.splitlines():
        bare = line.partition("#")[0].strip()
        if bare.startswith("["):
            words = kinds.setdefault(bare.strip("[]"), [])
        else:
            words += bare.split()
    return {kind: tuple(dict.fromkeys(words)) for kind, words in kinds.items()}


def with_s(word: str) -> str:
    """Plural of a noun, third person of a verb."""
    if word.endswith("y") and not _VOWEL_Y.search(word):
        return word[:-1] + "ies"
    return word + ("es" if _HISSES.search(word) else "s")


def past(verb: str) -> str:
    """`measure` to `measured`, `carry` to `carried`."""
    if verb.endswith("y") and not _VOWEL_Y.search(verb):
        return verb[:-1] + "ied"
    return verb + ("d" if verb.endswith("e") else _doubled(verb) + "ed")


def gerund(verb: str) -> str:
    """`measure` to `measuring`."""
    if _DROPS_E.search(verb):
        return verb[:-1] + "ing"
    return verb + _doubled(verb) + "ing"


def _doubled(verb: str) -> str:
    """The last letter of those few verbs that double it."""
    return verb[-1] if _DOUBLE.match(verb) else ""
