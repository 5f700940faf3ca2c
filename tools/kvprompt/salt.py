"""Namespaces: salts that part one repeat's prompts from another's, and nonces for sentinels.

A salt goes where the engine honours it: a request field of vLLM's (`cache_salt`), LMCache's tag in
`kv_transfer_params`, or the head of the prompt, which works everywhere and costs a few tokens.
"""

from __future__ import annotations

import hashlib
import random
import secrets
from typing import Any

import msgspec

from kvpipe.process import ToolError
from kvpipe.records import Block, Planned, SaltWay

LMCACHE_TAG = "lmcache.tag.kvload"
SALT_KEYS = ("cache_salt",)

# Letters that begin so many words that " x" is one token in practically every vocabulary: a text
# of n of them, parted by spaces, is n tokens long whatever the letters are.
NONCE_LETTERS = "abcdefghilmnoprstuw"
HEAD_LETTERS = 16
HEAD_IDS = (1000, 4000)
"""Range of token ids for a salt's head: inside every vocabulary of at least 4,000 tokens."""


def new_salt() -> str:
    """A salt that nobody has used."""
    return secrets.token_hex(8)


def salted(planned: Planned, salt: str, way: SaltWay, api: str) -> Planned:
    """The request inside the namespace `salt`; its chain and lengths stay as planned.

    Raises ToolError for token ids that would go to the chat API.
    """
    if api == "chat" and isinstance(planned.prompt, list):
        raise ToolError(f"request {planned.index}: token ids need --api completions")
    if way == "cache_salt":
        return msgspec.structs.replace(planned, body=planned.body | {"cache_salt": salt})
    if way == "lmcache_tag":
        params = planned.body.get("kv_transfer_params")
        known: dict[str, Any] = params if isinstance(params, dict) else {}
        tagged = {"kv_transfer_params": known | {LMCACHE_TAG: salt}}
        return msgspec.structs.replace(planned, body=planned.body | tagged)
    if way == "prompt_head":
        return _with_head(planned, salt)
    return planned


def head_line(salt: str) -> str:
    """The line that a salt becomes at the head of a text: `(k e s ...)`, of constant length."""
    return f"({letters(salt, HEAD_LETTERS)})\n"


def letters(seed: str, count: int) -> str:
    """`count` letters parted by spaces, made from the seed alone."""
    return " ".join(_rng("letters", seed).choices(NONCE_LETTERS, k=count))


def _rng(purpose: str, seed: str) -> random.Random:
    return random.Random(hashlib.sha256(f"{purpose}|{seed}".encode()).digest())


def _with_head(planned: Planned, salt: str) -> Planned:
    if isinstance(planned.prompt, list):
        ids = _rng("ids", salt).choices(range(*HEAD_IDS), k=HEAD_LETTERS)
        return msgspec.structs.replace(planned, prompt=ids + planned.prompt)
    if planned.prompt is not None:
        return msgspec.structs.replace(planned, prompt=head_line(salt) + planned.prompt)
    messages = list(planned.messages or [])
    if not messages:
        return planned
    messages[0] = messages[0] | {"content": _headed(messages[0].get("content"), head_line(salt))}
    return msgspec.structs.replace(planned, messages=messages)


def _headed(content: Any, line: str) -> Any:
    if isinstance(content, list):
        return [{"type": "text", "text": line}, *content]
    return line + (content or "")


def with_nonce(planned: Planned, nonce_seed: str) -> Planned:
    """A sentinel with a nonce that was never sent; other requests come back as they are.

    The nonce has as many letters (or ids) as the placeholder, so that the length in tokens stays.
    The links of its chain behind the template's head get new names: nobody shares them.
    """
    if planned.nonce is None:
        return planned
    if isinstance(planned.prompt, list):
        return _with_fresh_ids(planned, nonce_seed)
    fresh = letters(nonce_seed, len(planned.nonce.split()))
    change: dict[str, Any] = {"nonce": fresh, "blocks": _renamed(planned.blocks, fresh)}
    if planned.prompt is not None:
        change["prompt"] = planned.prompt.replace(planned.nonce, fresh, 1)
    else:
        change["messages"] = _replaced(planned.messages or [], planned.nonce, fresh)
    return msgspec.structs.replace(planned, **change)


def _replaced(messages: list[dict[str, Any]], old: str, new: str) -> list[dict[str, Any]]:
    """The messages with the first occurrence of `old` in a text made `new`."""
    for at, message in enumerate(messages):
        content = message.get("content")
        if isinstance(content, str) and old in content:
            fresh = message | {"content": content.replace(old, new, 1)}
            return [*messages[:at], fresh, *messages[at + 1 :]]
    return messages


def _with_fresh_ids(planned: Planned, nonce_seed: str) -> Planned:
    """New leading ids, drawn from the prompt's own: the vocabulary surely has those."""
    prompt = planned.prompt
    assert isinstance(prompt, list) and planned.nonce is not None
    count = len(planned.nonce.split())
    pool = sorted(set(prompt))
    fresh = _rng("ids", nonce_seed).choices(pool, k=count)
    nonce = " ".join(map(str, fresh))
    return msgspec.structs.replace(
        planned,
        nonce=nonce,
        prompt=fresh + prompt[count:],
        blocks=_renamed(planned.blocks, nonce),
    )


def _renamed(blocks: list[Block], nonce: str) -> list[Block]:
    digest = hashlib.sha256(nonce.encode()).hexdigest()[:8]
    kept = 1 if len(blocks) > 1 else 0  # the head that every prompt shares
    return blocks[:kept] + [
        Block(id=f"{block.id}~{digest}", tokens=block.tokens) for block in blocks[kept:]
    ]
