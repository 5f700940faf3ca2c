"""Seeded text: natural enough to be worth computing, varied enough never to repeat by chance.

Everything here is a pure function of the generator it is given. Texts are English documents,
conversations and instructions; code is in `codetext`.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable

from kvprompt.speaker import Speaker

_AN = re.compile(r"\b([Aa]) (?=[aeio]|un[^i]|u[prst])")

STATEMENTS = (
    "the {adj} {noun} of {place} was {adv} {past} by the {noun} in {year}.",
    "in {year}, {person} {past} the {nouns} that the {noun} had {adv} {past}.",
    "{person} {adv} {past} {count} {nouns} before the {adj} {noun} could {verb} them.",
    "according to the {noun}, {percent} of the {adj} {nouns} still {verb} a {noun}.",
    "no {noun} in {place} {verbs} its {nouns} without a {adj} {noun}.",
    "the {noun} {verbs} the {noun}, but the {adj} {nouns} {adv} {verb} it.",
    "{ing} the {adj} {noun} cost {many} crowns and {count} {nouns}.",
    "when the {noun} at {place} {past}, most {nouns} had {adv} been {past}.",
    "{person} of {place} called it a {adj} {noun}; others {past} the {noun} instead.",
    "there were {many} {nouns} along the {noun}, and {count} of them {adv} {past}.",
    "a {adj} {noun} may {verb} the {nouns}, yet it {adv} {verbs} a {noun}.",
    "the {nouns} between {place} and {place} {past} {adv} after {year}.",
    "if the {noun} is {adj}, the {noun} {verbs} each {noun} {adv}.",
    "by {year} the {adj} {nouns} had {past} nearly every {noun} near {place}.",
    "what the {noun} {past} was neither {adj} nor {adj}, as {person} {adv} noted.",
    "their {noun} {past} the {adj} {noun} while {ing} {many} {nouns}.",
    "{count} {adj} {nouns} from {place} {past} a {noun} for {ing} {nouns}.",
    "the {noun} and its {adj} {noun} are {adv} {past} in section {section}.",
    "unlike the {noun}, the {adj} {noun} {verbs} only {nouns} of {place}.",
    "{person} and {person} {past} over the {noun}, which {adv} {past} the {nouns}.",
    "since then {percent} of all {nouns} have {adv} {past} their {noun}.",
    "it {verbs} the {adj} {noun} by {ing} every {noun} it can {verb}.",
    "a letter from {place} describes {count} {nouns}, {adv} {past} and {adj}.",
    "the {noun} remained {adj} until {person} {past} its {nouns} in {year}.",
)
QUESTIONS = (
    "why did the {adj} {noun} of {place} {verb} its {nouns} in {year}?",
    "which {nouns} did {person} {verb}, and how {adj} were they?",
    "how does the {noun} {verb} the {adj} {noun} near {place}?",
    "what happened to the {count} {nouns} that {person} {past}?",
    "who {past} the {noun} in {year}, and which {nouns} were {adv} {past}?",
    "does the text say whether the {adj} {nouns} {verb} a {noun}?",
    "compare the {noun} at {place} with the {adj} {noun}.",
    "summarise what is said about {ing} the {nouns} of {place}.",
    "list every {noun} that is {adv} {past} and explain its {noun}.",
)
DETAILS = (
    "mention the {adj} {noun} and the {nouns} of {place}.",
    "leave out the {noun} unless it {verbs} the {adj} {nouns}.",
    "I care most about {ing} the {noun} {adv}.",
    "say {adv} how the {noun} and the {noun} {verb} each other.",
    "quote the passage on {person} and the {adj} {nouns}.",
    "my {noun} from {place} asked about the {adj} {noun} and {count} {nouns}.",
)
RULES = (
    "{verb} each {noun} {adv}, and never {verb} a {adj} {noun}.",
    "where {adj} input of {place} names a {noun}, write `{noun}` and not `{noun}`.",
    "keep {nouns} {adj}; a {noun} that {verbs} {nouns} is left to the {noun}.",
    "treat {place} as the name of a {adj} {noun}, and {verb} it {adv}.",
    "numbers above {many} are written with the {noun} of the {noun}.",
    "if a sentence {verbs} two {nouns}, {verb} the {adj} {noun} first.",
    "the word for a {adj} {noun} depends on its {noun}, {adj} or {adj}.",
    "do not {verb} the {nouns} of {person}; they are {adv} {past} later.",
    "a {noun} of more than {count} {nouns} is split before the {adj} {noun}.",
    "when the {noun} is {adj}, answer {adv} and in {count} words.",
)
CHAT = (
    "I have been {ing} the {nouns} at {place}, and the {adj} {noun} {adv} {past}.",
    "could you help me {verb} the {noun} before the {adj} {nouns} {verb}?",
    "my {noun} says that {percent} of the {nouns} are {adj}.",
    "last {noun} we {past} {count} {nouns}, but the {noun} was {adj}.",
    "would it be {adj} to {verb} the {noun} and {verb} its {nouns} {adv}?",
    "{person} from {place} {past} something {adj} about {ing} {nouns}.",
    "what should I {verb} first, the {adj} {noun} or the {nouns}?",
)
REPLIES = (
    "that depends on the {noun}: {adj} {nouns} {adv} {verb} more than a {noun}.",
    "start by {ing} the {noun}, then {verb} the {adj} {nouns} near {place}.",
    "in {year} {person} {past} the same {noun} and {past} {count} {nouns}.",
    "you may {verb} the {noun} {adv}, as long as the {nouns} stay {adj}.",
    "I would {verb} {percent} of the {nouns} and leave the {adj} {noun} alone.",
    "a {adj} {noun} {verbs} the {noun}; a {adj} one {adv} {verbs} its {nouns}.",
)


def at_least(words: int, more: Callable[[], str], separator: str = "\n\n") -> str:
    """Parts from `more`, joined, until there are so many words."""
    parts: list[str] = []
    have = 0
    while have < words:
        parts.append(more())
        have += len(parts[-1].split())
    return _AN.sub(r"\1n ", separator.join(parts))


def document(rng: random.Random, words: int) -> str:
    """A report with a title, numbered headings and paragraphs; its first word is a rare name."""
    say = Speaker(rng)
    title = say.fill("{place} {nouns}: {adj} {noun}, {year}")
    section = 0

    def part() -> str:
        nonlocal section
        paragraphs = [say.several(STATEMENTS, 3, 7) for _ in range(rng.randint(2, 5))]
        section += 1
        heading = say.fill(f"## {section}. The {{adj}} {{noun}} of {{place}}")
        return "\n\n".join([heading, *paragraphs])

    return f"{title}\n\n{at_least(words, part)}"


def instructions(rng: random.Random, words: int) -> str:
    """A template of numbered rules with examples, as batch jobs have."""
    say = Speaker(rng)
    title = say.fill("{place} style: translate the {noun} for {adj} {nouns} of {person}.")
    number = 0

    def rule() -> str:
        nonlocal number
        number += 1
        example = say.fill(
            'For a {adj} {noun}, "{adj} {noun} {adv} {past}" becomes "{noun} of {nouns}".'
        )
        shown = f" {example}" if rng.random() < 0.4 else ""
        return f"{number}. {say.several(RULES, 1, 3)}{shown}"

    return f"{title}\n\n{at_least(words, rule, chr(10))}"


def message(rng: random.Random, words: int) -> str:
    """What a person writes in a conversation; begins with a rare name."""
    say = Speaker(rng)
    opening = say.fill("{place} again: ")
    return opening + at_least(words, lambda: say.several(CHAT, 2, 4))


def reply(rng: random.Random, words: int) -> str:
    """What an assistant answered."""
    say = Speaker(rng)
    return at_least(words, lambda: say.several(REPLIES, 2, 4))


def question(rng: random.Random, words: int) -> str:
    """A question about a document, with details."""
    say = Speaker(rng)
    first = _AN.sub(r"\1n ", say.one_of(QUESTIONS))
    return f"{first} {at_least(words, lambda: say.one_of(DETAILS), ' ')}"


def item(rng: random.Random, words: int) -> str:
    """A short input of a batch job."""
    say = Speaker(rng)
    return at_least(words, lambda: say.one_of(STATEMENTS), " ")
