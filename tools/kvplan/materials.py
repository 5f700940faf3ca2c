"""Which text a scenario is made of: contexts, what leads from them to a tail, and tails."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from kvplan.scenarios import Text
from kvprompt import codetext, text

Write = Callable[[random.Random, int], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """Writers take a generator and at least how many words."""

    context: Write
    lead: str
    """Between context and tail; ends in a word, so that tails begin with white space."""
    tail: Write


MATERIALS: dict[Text, Material] = {
    "document": Material(context=text.document, lead="\n\nQuestion:", tail=text.question),
    "code": Material(context=codetext.code_base, lead="\n\n\n# Task:", tail=codetext.task),
    "template": Material(context=text.instructions, lead="\n\nInput:", tail=text.item),
    "conversation": Material(context=text.message, lead="", tail=text.reply),
}


def writer(write: Write, seed: str) -> Callable[[int], str]:
    """`write` for one seed: more words continue the same text."""
    return lambda words: write(random.Random(seed), words)
