"""The tokenizer: reversible, stable for prefixes, the same everywhere."""

from __future__ import annotations

import subprocess
import sys

from hypothesis import given
from hypothesis import strategies as st

from kvsim.tokens import VOCAB_SIZE, WORD_IDS, decode, encode, render_chat, token_text

TEXT = st.text(max_size=200)


@given(TEXT)
def test_decoding_gives_the_text_back(text: str) -> None:
    ids = encode(text)
    assert decode(ids) == text
    assert all(0 <= token < VOCAB_SIZE for token in ids)


@given(st.text(alphabet="abc XYZ019,.\nü", max_size=60), TEXT, st.sampled_from(" \n\t"))
def test_a_text_that_goes_on_after_white_space_keeps_its_tokens(
    text: str, more: str, white: str
) -> None:
    if text.endswith(" "):
        text += "x"  # a space at the very end belongs to the word that follows it
    whole = encode(text + white + more)
    assert whole[: len(encode(text))] == encode(text)


def test_common_words_are_one_token_and_others_a_few() -> None:
    assert len(encode("the house")) == 2
    assert 2 <= len(encode(" hippopotamus")) <= 5
    assert all(len(token_text(token)) > 1 for token in WORD_IDS)


def test_the_template_costs_eleven_tokens_and_prompts_share_its_head() -> None:
    one = render_chat([{"role": "user", "content": "alpha"}])
    two = render_chat([{"role": "user", "content": "omega"}])
    assert len(one) == len(encode("alpha")) + 11
    common = next(at for at, (a, b) in enumerate(zip(one, two, strict=False)) if a != b)
    assert common == 4
    continued = render_chat(
        [
            {"role": "user", "content": "alpha"},
            {"role": "assistant", "content": "beta"},
            {"role": "user", "content": [{"type": "text", "text": "gamma"}]},
        ]
    )
    assert continued[: len(one)] == one


def test_another_process_makes_the_same_tokens() -> None:
    text = "The same text, 12345 times — in every process."
    code = "import sys; from kvsim.tokens import encode; print(encode(sys.argv[1]))"
    for seed in ("0", "1"):
        done = subprocess.run(
            [sys.executable, "-c", code, text], capture_output=True, text=True, check=True,
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": "tools"},
        )  # fmt: skip
        assert done.stdout.strip() == str(encode(text))
