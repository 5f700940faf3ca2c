"""Seeded code: modules of a made-up code base, and tasks to do in it. It parses as Python."""

from __future__ import annotations

import random

from kvprompt.speaker import Speaker
from kvprompt.text import at_least

_STATEMENTS = (
    "{noun}_{noun} = {noun}.{verb}_{nouns}({noun}={count})",
    "if {noun}.{adj}_{noun} > {count}:\n    {noun}.{verb}_{noun}({adj}_{nouns})",
    "for {noun} in {adj}_{nouns}:\n    {noun}_{nouns}.append({noun}.{verb}_{noun}())",
    "{adj}_{noun} = [{noun}_{adj} for {noun} in {nouns} if {past}({noun})]",
    "self.{adj}_{noun} = {verb}_{noun}({noun}_{nouns}, {noun}={count})",
    'logger.info("{past} %d {adj} {nouns}", len({noun}_{nouns}))',
    "{noun}_by_{noun} = dict(zip({nouns}, {adj}_{nouns}, strict=True))",
    "while not {noun}.is_{adj}():\n    {noun} = {verb}_{noun}({noun})",
    "assert {noun}_{noun} <= {count}, {noun}.{noun}",
    "# The {adj} {noun} {verbs} {nouns} {adv}; see {person}'s note on {nouns}.",
)
_TASKS = (
    "write a function `{verb}_{adj}_{nouns}` that {verbs} every {noun} {adv} and returns a {noun}.",
    "the method `{verb}_{noun}` {verbs} {adj} {nouns} twice; find out why and correct it.",
    "add a test for the {adj} {noun} that {past} {count} {nouns} without a {noun}.",
    "refactor the class that {verbs} `{noun}_{nouns}` so that the {noun} stays {adj}.",
    "explain what happens when `{adj}_{noun}` {verbs} more than {count} {nouns}.",
)
_WISHES = (
    "keep the {adj} {noun} as it is.",
    "do not {verb} `{noun}_{noun}`.",
    "the {nouns} must be {adv} {past}.",
    "name the helper after the {adj} {noun}.",
    "{person} wants the {noun} {past} {adv}.",
)


def code_base(rng: random.Random, words: int) -> str:
    """Several files of one code base; the first line holds a rare name."""
    say = Speaker(rng)

    def file() -> str:
        path = say.fill("{noun}/{adj}_{noun}.py")
        summary = say.fill('"""{verbs} the {adj} {nouns} of a {noun} {adv}."""')
        imports = say.fill("from {noun}.{noun} import {verb}_{noun}, {adj}_{nouns}")
        bodies = [_class(say) if rng.random() < 0.5 else _function(say, "") for _ in range(4)]
        return "\n\n\n".join([f"# {path}\n{summary}\n\n{imports}", *bodies])

    return f"{say.fill('# {place} {noun} code base')}\n\n{at_least(words, file, chr(10) * 3)}"


def _class(say: Speaker) -> str:
    name = "".join(say.word(slot).capitalize() for slot in ("adj", "noun", "noun"))
    doc = say.fill('"""A {adj} {noun} that {verbs} {nouns}."""')
    methods = [_function(say, "    ") for _ in range(say.rng.randint(2, 4))]
    return "\n\n".join([f"class {name}:\n    {doc}", *methods])


def _function(say: Speaker, indent: str) -> str:
    own = "self, " if indent else ""
    lines = [
        say.fill(
            f"def {{verb}}_{{adj}}_{{noun}}({own}{{noun}}: int, {{nouns}}: list[str]) -> int:"
        ),
        say.fill('    """{verbs} {nouns} until the {noun} is {adj}."""'),
    ]
    for _ in range(say.rng.randint(3, 7)):
        drawn = int(say.rng.random() * len(_STATEMENTS))
        lines += [f"    {line}" for line in say.fill(_STATEMENTS[drawn]).split("\n")]
    lines.append(say.fill("    return {noun} + {count}"))
    return "\n".join(indent + line for line in lines)


def task(rng: random.Random, words: int) -> str:
    """Something to do in the code base."""
    say = Speaker(rng)
    first = say.one_of(_TASKS)
    return f"{first} {at_least(words, lambda: say.one_of(_WISHES), ' ')}"
