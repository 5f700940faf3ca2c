"""Words of one token: found between copies of one that is, and each with a token of its own."""

from __future__ import annotations

import asyncio

import pytest
from tests.simulated import Sim

from kvengine.server import Server
from kvpipe.process import ToolError
from kvplan import lexicon
from kvplan.lexicon import BETWEEN, LEAD, Lexicon, alone, lexicon_of
from kvsim.tokens import encode, render_chat


def of(url: str) -> Lexicon | None:
    async def asked() -> Lexicon | None:
        async with Server(url) as server:
            return await lexicon_of(server, "sim")

    return asyncio.run(asked())


def test_every_word_is_one_token_and_no_two_the_same(sim: Sim) -> None:
    found = of(sim.url)
    assert found is not None
    assert {word: [token] for word, token in found.tokens.items()} == {
        word: encode(f" {word}") for word in found.tokens
    }
    assert len(set(found.tokens.values())) == len(found.tokens) > 10_000
    text = f"{LEAD} {BETWEEN}"
    whole = render_chat([{"role": "user", "content": text}])
    assert whole == [*found.head, *encode(f" {BETWEEN}"), *found.foot]
    assert found.floor == 4


@pytest.mark.parametrize(
    ("tokens", "words"),
    [
        ([1, 7, 1, 8, 8, 1, 9, 1], {"a": 7, "c": 9}),
        ([1, 7, 1, 8, 1], {}),
        ([5, 1, 7, 1, 1, 9, 1], {"a": 7, "c": 9}),
    ],
)
def test_what_stands_alone_between_two_copies_is_one_token(
    tokens: list[int], words: dict[str, int]
) -> None:
    assert alone(["a", "b", "c"], tokens, 1) == words


def test_a_tokenizer_without_the_word_between_is_told(
    sim: Sim, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lexicon, "BETWEEN", "notonetoken")
    with pytest.raises(ToolError, match="'notonetoken' is not one token in every place here"):
        of(sim.url)
