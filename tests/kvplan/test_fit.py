"""Cutting a text to a length in tokens."""

from __future__ import annotations

import asyncio
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvplan.counting import ByteCounter, Prompt
from kvplan.fit import Fitted, fit, word_before, word_end
from kvprompt.text import document
from kvsim.tokens import encode


class LocalCounter(ByteCounter):
    """kvsim's own tokenizer, without the network; counts how often it is asked."""

    async def count(self, prompt: Prompt) -> int:
        asked.append(str(prompt))
        return len(encode(str(prompt)))


asked: list[str] = []


def fitted(seed: int, target: int, tolerance: int, ratio: float = 2.9) -> Fitted:
    asked.clear()
    counter = LocalCounter(bytes_per_token=ratio)
    grow = lambda words: document(random.Random(seed), words)  # noqa: E731
    return asyncio.run(fit(grow, lambda text: f"Read this: {text}", counter, target, tolerance))


@settings(max_examples=60)
@given(st.integers(0, 10_000), st.integers(30, 600))
def test_a_length_is_met_exactly(seed: int, target: int) -> None:
    found = fitted(seed, target, 0)
    assert found.tokens == target == len(encode(f"Read this: {found.text}"))


@settings(max_examples=20)
@given(st.integers(0, 10_000), st.integers(1000, 6000))
def test_a_context_needs_few_counts(seed: int, target: int) -> None:
    found = fitted(seed, target, 8)
    assert target - 8 <= found.tokens <= target
    assert len(asked) <= 6


@pytest.mark.parametrize("ratio", [1.0, 2.0, 8.0])
def test_a_wrong_ratio_costs_counts_but_no_accuracy(ratio: float) -> None:
    assert fitted(1, 2000, 0, ratio).tokens == 2000


def test_a_target_that_is_too_short_gives_the_shortest_text() -> None:
    found = fitted(1, 2, 0)
    assert found.text == document(random.Random(1), 1).split()[0]
    assert found.tokens > 2


@given(st.text(alphabet="ab \n", min_size=1), st.integers(0, 40))
def test_words_are_never_cut(text: str, at: int) -> None:
    end = word_end(text, at)
    assert end == len(text) or (text[end].isspace() and not text[end - 1].isspace())
    before = word_before(text, at)
    assert before <= at
    assert before == 0 or text[before].isspace()
