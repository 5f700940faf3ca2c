"""Request bodies, built before the clock starts: salts, nonces and sampling parameters.

Equal work is asked for explicitly: temperature 0, a fixed number of output tokens by `max_tokens`,
`min_tokens` and `ignore_eos` where the engine knows the last two. No `min_tokens` where prefill and
decode are apart: a prefiller is asked for one token, and LMCache's proxy passes the rest on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from kvload.candidates import fields_of
from kvload.settings import Api
from kvpipe.records import Planned, SaltWay
from kvprompt.salt import salted, with_nonce

FIXED_LENGTH_ENGINES = ("vllm", "sglang", "kvsim", "dynamo", "llamacpp")


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A planned request as it goes over the wire."""

    planned: Planned
    body: bytes
    request_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Dress:
    """What turns a plan into the bodies of one round."""

    api: Api
    model: str
    engine: str | None
    extra: dict[str, Any]
    salt: str | None
    salt_way: SaltWay
    salt_each: bool
    nonce: str
    run_id: str
    keep_output: bool
    candidates: int | None = None
    """Likeliest tokens to ask for at each place; null: no log probabilities."""
    disaggregated: bool = False


def prepare(plan: Sequence[Planned], dress: Dress) -> list[Prepared]:
    """The bodies of one round, in order of dispatch."""
    return [_prepare_one(request, dress) for request in plan]


def _prepare_one(request: Planned, dress: Dress) -> Prepared:
    sent = request
    if request.stratum == "sentinel":
        sent = with_nonce(sent, f"{dress.nonce}:{request.index}")
    if dress.salt is not None and dress.salt_way != "none":
        salt = f"{dress.salt}-{request.index}" if dress.salt_each else dress.salt
        sent = salted(sent, salt, dress.salt_way, dress.api)
    return Prepared(
        planned=request,
        body=msgspec.json.encode(body_of(sent, dress)),
        request_id=f"{dress.run_id}-{request.index}",
    )


def body_of(request: Planned, dress: Dress) -> dict[str, Any]:
    """The JSON body of one request, sampling parameters explicit."""
    body: dict[str, Any] = {"model": dress.model}
    key: Literal["messages", "prompt"] = "messages" if dress.api == "chat" else "prompt"
    body[key] = content_of(request, dress.api)
    body |= {
        "max_tokens": request.max_tokens,
        "temperature": 0,
        "top_p": 1,
        "n": 1,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if dress.engine in FIXED_LENGTH_ENGINES:
        body["ignore_eos"] = True
        if not dress.disaggregated:
            body["min_tokens"] = request.max_tokens
    if dress.candidates is not None:
        body |= fields_of(dress.api, dress.candidates)
    return body | request.body | dress.extra


def content_of(request: Planned, api: Api) -> Any:
    """Messages for chat, prompt for completions; one is made from the other where it must be."""
    if api == "chat":
        if request.messages is not None:
            return request.messages
        return [{"role": "user", "content": request.prompt}]
    if request.prompt is not None:
        return request.prompt
    return "\n\n".join(str(message.get("content", "")) for message in request.messages or [])
