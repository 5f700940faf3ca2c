"""The two names of a plan: what is sent, and of what shape it is.

`plan_sha256` changes with every letter of a prompt, but not with the salts and sentinel nonces of
a round. `shape_sha256` knows lengths, groups and order alone, so the repeats of one plan share it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import msgspec

from kvpipe.records import Planned
from kvprompt.salt import LMCACHE_TAG, SALT_KEYS

_encode = msgspec.json.Encoder(order="sorted").encode


class PlanHashes:
    """Both hashes of a plan that goes by one request at a time, in order of dispatch."""

    def __init__(self) -> None:
        self._plan = hashlib.sha256()
        self._shape = hashlib.sha256()
        self._groups: dict[str, int] = {}

    def add(self, request: Planned) -> None:
        """The next request."""
        self._plan.update(_plan_line(request))
        self._shape.update(_shape_line(request, self._groups))

    @property
    def plan_sha256(self) -> str:
        """Of the requests so far."""
        return self._plan.hexdigest()

    @property
    def shape_sha256(self) -> str:
        """Of the requests so far."""
        return self._shape.hexdigest()


def plan_sha256(planned: Sequence[Planned]) -> str:
    """Hash of the requests as they are planned, in order of dispatch."""
    digest = hashlib.sha256()
    for request in planned:
        digest.update(_plan_line(request))
    return digest.hexdigest()


def shape_sha256(planned: Sequence[Planned]) -> str:
    """Hash of lengths, groups and order; lengths as asked, else as counted, else of the text."""
    digest = hashlib.sha256()
    groups: dict[str, int] = {}
    for request in planned:
        digest.update(_shape_line(request, groups))
    return digest.hexdigest()


def _plan_line(request: Planned) -> bytes:
    content: Any = request.messages if request.messages is not None else request.prompt
    return _encode([_frame(request), request.group, _blank(content, request.nonce)]) + b"\n"


def _shape_line(request: Planned, groups: dict[str, int]) -> bytes:
    """Groups by their order of first sight, which `groups` keeps: names say nothing of shape."""
    group = None if request.group is None else groups.setdefault(request.group, len(groups))
    return _encode([_frame(request), group, request.stratum, _length(request)]) + b"\n"


def _frame(request: Planned) -> list[Any]:
    """Everything that both hashes know."""
    api = "messages" if request.messages is not None else type(request.prompt).__name__
    return [
        request.index,
        request.turn,
        request.after,
        request.at_s,
        request.max_tokens,
        api,
        unsalted(request.body),
    ]


def unsalted(body: dict[str, Any]) -> dict[str, Any]:
    """A body without the keys that a salt put there."""
    bare = {key: value for key, value in body.items() if key not in SALT_KEYS}
    params = bare.get("kv_transfer_params")
    if isinstance(params, dict) and LMCACHE_TAG in params:
        kept = {key: value for key, value in params.items() if key != LMCACHE_TAG}
        bare["kv_transfer_params"] = kept
        if not kept:
            del bare["kv_transfer_params"]
    return bare


def _length(request: Planned) -> int:
    for tokens in (request.asked_tokens, request.prompt_tokens):
        if tokens is not None:
            return tokens
    if request.prompt is not None:
        return len(request.prompt)
    return sum(len(str(message.get("content", ""))) for message in request.messages or [])


def _blank(content: Any, nonce: str | None) -> Any:
    """The content with a nonce's first occurrence taken out."""
    if nonce is None:
        return content
    if isinstance(content, str):
        return content.replace(nonce, "", 1)
    if not isinstance(content, list):
        return content
    if content and isinstance(content[0], int):
        return content[len(nonce.split()) :]
    for at, message in enumerate(content):
        text = message.get("content")
        if isinstance(text, str) and nonce in text:
            bare = message | {"content": text.replace(nonce, "", 1)}
            return [*content[:at], bare, *content[at + 1 :]]
    return content
