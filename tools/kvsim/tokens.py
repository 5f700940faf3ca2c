"""A tokenizer of kvsim's own, and its chat template. Pure, reversible, the same in every process.

The vocabulary is arithmetic, so that two nodes agree without a file: special tokens, 256 bytes,
common words, groups of one to three digits, and pieces of one to three letters, the last two kinds
of word with and without a leading space. A text that is continued after a word, with white space
first, keeps the tokens that it had: prefixes of texts are prefixes of token lists.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from itertools import product

from kvsim.words import WORDS

IM_START = 1
IM_END = 2
EOS = IM_END
BYTE_BASE = 191
"""Ids below it are special and decode to nothing."""

_LOWER = "abcdefghijklmnopqrstuvwxyz"
_PIECE = re.compile(r" ?[A-Za-z]+|[0-9]{1,3}|.", re.DOTALL)
_LETTERS = re.compile(r"[A-Z][a-z]{0,2}|[a-z]{1,3}")


def _spellings() -> Iterable[str]:
    """Every token after the bytes, in the order of its id."""
    for word in dict.fromkeys(WORDS):
        yield word
        yield " " + word
    for width in (1, 2, 3):
        for number in range(10**width):
            yield f"{number:0{width}}"
    for width in (1, 2, 3):
        for letters in product(_LOWER, repeat=width):
            syllable = "".join(letters)
            yield syllable
            yield " " + syllable
            yield syllable.capitalize()
            yield " " + syllable.capitalize()


_FIRST = BYTE_BASE + 256
_TEXTS: tuple[str, ...] = tuple(dict.fromkeys(_spellings()))
_IDS: dict[str, int] = {text: _FIRST + at for at, text in enumerate(_TEXTS)}
VOCAB_SIZE = _FIRST + len(_TEXTS)
WORD_IDS: tuple[int, ...] = tuple(_IDS[" " + word] for word in dict.fromkeys(WORDS))
"""The tokens that answers are made of: words with their leading space."""


@lru_cache(maxsize=1 << 16)
def _encode_piece(piece: str) -> tuple[int, ...]:
    known = _IDS.get(piece)
    if known is not None:
        return (known,)
    space, letters = (" ", piece[1:]) if piece[0] == " " and len(piece) > 1 else ("", piece)
    if not (letters.isascii() and letters.isalpha()):
        return tuple(BYTE_BASE + byte for byte in piece.encode("utf-8", "surrogatepass"))
    parts = _LETTERS.findall(letters)
    return (_IDS[space + parts[0]], *(_IDS[part] for part in parts[1:]))


def encode(text: str) -> list[int]:
    """Token ids of a text; ``decode(encode(text)) == text``."""
    ids: list[int] = []
    for piece in _PIECE.findall(text):
        ids.extend(_encode_piece(piece))
    return ids


def token_bytes(token: int) -> bytes:
    """The bytes that one token stands for; nothing for special and unknown tokens."""
    if token >= _FIRST:
        at = token - _FIRST
        return _TEXTS[at].encode() if at < len(_TEXTS) else b""
    return bytes((token - BYTE_BASE,)) if token >= BYTE_BASE else b""


def token_text(token: int) -> str:
    """A token as text, for logprobs and for ``token_strs``."""
    if token == IM_START:
        return "<|im_start|>"
    if token == IM_END:
        return "<|im_end|>"
    return token_bytes(token).decode("utf-8", "replace")


def decode(ids: Iterable[int]) -> str:
    """The text of token ids, special tokens left out, as a server does."""
    return b"".join(map(token_bytes, ids)).decode("utf-8", "replace")


_NEWLINE = encode("\n")


def _message(role: str, content: str) -> list[int]:
    return [IM_START, *encode(role), *_NEWLINE, *encode(content), IM_END, *_NEWLINE]


def render_chat(
    messages: Sequence[Mapping[str, object]], *, generation_prompt: bool = True, dated: bool = False
) -> list[int]:
    """ChatML: every chat prompt on earth shares its first four tokens when a user speaks first.

    `dated`: as templates do that begin with the time, so that nothing is hit a minute later.
    """
    ids: list[int] = []
    if dated:
        ids += _message("system", f"Now it is {datetime.now(UTC):%Y-%m-%d %H:%M}.")
    for message in messages:
        ids += _message(str(message.get("role", "user")), _content_text(message.get("content")))
    if generation_prompt:
        ids += [IM_START, *encode("assistant"), *_NEWLINE]
    return ids


def _content_text(content: object) -> str:
    """Content as text: a string, a list of text parts, or nothing."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, dict)]
        return "\n".join(part for part in parts if isinstance(part, str))
    return ""
