"""Text that is worth computing: varied, seeded, never the same by chance."""

from __future__ import annotations

import ast
import dataclasses
import random
from collections import Counter
from collections.abc import Callable
from itertools import pairwise

import pytest

from kvprompt import codetext, text
from kvprompt.vocabulary import gerund, past, vocabulary, with_s
from kvsim.tokens import encode

WRITERS = [
    text.document,
    text.instructions,
    text.message,
    text.reply,
    text.question,
    text.item,
    codetext.code_base,
    codetext.task,
]
LONG = [text.document, text.instructions, text.message, codetext.code_base]
Writer = Callable[[random.Random, int], str]


@pytest.mark.parametrize("write", WRITERS)
def test_text_is_a_function_of_its_seed_and_grows_at_its_end(write: Writer) -> None:
    short, same, long = (write(random.Random("a"), words) for words in (50, 50, 400))
    assert short == same
    assert long.startswith(short)
    assert len(short.split()) >= 50
    assert len(long.split()) >= 400
    assert write(random.Random("b"), 50) != short


@pytest.mark.parametrize("write", LONG)
def test_texts_part_within_their_first_block(write: Writer) -> None:
    """Sixteen tokens are the smallest block in use."""
    heads = Counter(tuple(encode(write(random.Random(seed), 30))[:12]) for seed in range(300))
    assert max(heads.values()) == 1


@pytest.mark.parametrize("write", [text.document, text.message, text.instructions])
def test_no_window_of_sixteen_tokens_comes_twice(write: Writer) -> None:
    tokens = [encode(write(random.Random(seed), 8000)) for seed in range(4)]
    windows = Counter(tuple(ids[at : at + 16]) for ids in tokens for at in range(len(ids) - 15))
    assert len(windows) > 30_000
    assert [window for window, times in windows.items() if times > 1] == []


def test_code_repeats_no_line_often() -> None:
    code = codetext.code_base(random.Random(1), 20_000)
    lines = Counter(line.strip() for line in code.splitlines() if line.strip())
    assert sum(times - 1 for times in lines.values()) < 0.01 * sum(lines.values())


@pytest.mark.parametrize("seed", range(20))
def test_code_is_python(seed: int) -> None:
    ast.parse(codetext.code_base(random.Random(seed), 2000))


def test_there_are_several_thousand_word_forms() -> None:
    words = vocabulary()
    forms = {form for field in dataclasses.fields(words) for form in getattr(words, field.name)}
    assert len(forms) > 5000


def test_long_texts_use_them() -> None:
    words = text.document(random.Random(3), 30_000).split()
    assert len(set(words)) > 5000
    assert max(Counter(words).values()) < 0.1 * len(words)


def test_articles_fit_what_follows() -> None:
    words = text.document(random.Random(3), 5000).split()
    wrong = [
        (word, after)
        for word, after in pairwise(words)
        if word.lower() == "a" and after[0] in "aeio"
    ]
    assert wrong == []


@pytest.mark.parametrize(
    ("form", "word", "wanted"),
    [
        (with_s, "city", "cities"),
        (with_s, "day", "days"),
        (with_s, "bench", "benches"),
        (past, "measure", "measured"),
        (past, "copy", "copied"),
        (past, "admit", "admitted"),
        (gerund, "measure", "measuring"),
        (gerund, "agree", "agreeing"),
        (gerund, "cancel", "cancelling"),
    ],
)
def test_forms(form: Callable[[str], str], word: str, wanted: str) -> None:
    assert form(word) == wanted
