"""Prompts of token ids, for completions where nobody can count text: exact by construction."""

from __future__ import annotations

import random
from collections.abc import Sequence

from kvplan.compose import NONCE_LETTERS, Draft
from kvplan.scenarios import Lengths
from kvplan.shape import Item
from kvprompt.chains import token_symbols

SAFE_IDS = Lengths(low=1000, high=29_999)
"""Behind the special tokens and bytes of today's vocabularies, and inside all but tiny ones."""


def compose_ids(items: Sequence[Item], seed: str, ids: Lengths) -> list[Draft]:
    """Random ids: a context's are shared by its requests, a turn continues the one before."""
    return [_draft(item, seed, ids) for item in items]


def _draft(item: Item, seed: str, ids: Lengths) -> Draft:
    span = range(ids.low, ids.high + 1)
    context = random.Random(f"ids|{seed}|{item.group or item.seat}")
    prompt = context.choices(span, k=item.context_tokens)
    tail = random.Random(f"ids-tail|{seed}|{item.seat}")
    prompt += tail.choices(span, k=item.asked_tokens - item.context_tokens)
    nonce = None
    if item.stratum == "sentinel":
        nonce = " ".join(map(str, prompt[:NONCE_LETTERS]))
    return Draft(item=item, prompt=prompt, symbols=token_symbols(prompt), nonce=nonce)
