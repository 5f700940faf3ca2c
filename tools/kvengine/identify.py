"""Who answers here: engine, version, models; and one clear line where nobody fit does."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from kvengine.server import Answer, Server
from kvpipe.jsonl import NOT_JSON
from kvpipe.process import ToolError

ENGINES_BY_OWNER = {
    "vllm": "vllm",
    "sglang": "sglang",
    "llamacpp": "llamacpp",
    "kvsim": "kvsim",
}
"""`owned_by` of the model list, which is where engines sign."""


class _Model(msgspec.Struct, frozen=True):
    id: str
    owned_by: str | None = None
    root: str | None = None
    parent: str | None = None
    max_model_len: int | None = None


class _Models(msgspec.Struct, frozen=True):
    data: list[_Model]


class _Version(msgspec.Struct, frozen=True):
    version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """An endpoint as it presents itself; null where it does not say."""

    engine: str
    """`vllm`, `sglang`, `llamacpp`, `kvsim`, else what it calls itself, else `unknown`."""
    version: str | None
    models: list[str]
    model: str
    """The model to ask for."""
    max_model_len: int | None
    simulated: bool
    root: str | None = None
    """Where the model was loaded from: a store's keys carry its last part."""


async def identify(server: Server, model: str | None) -> Identity:
    """Ask `/v1/models` and `/version`; ToolError in one line if `model` cannot be asked here."""
    answer = await server.get("/v1/models")
    models = _read_models(server, answer)
    chosen = _choose(server, models, model)
    owner = chosen.owned_by or ""
    engine = ENGINES_BY_OWNER.get(owner.lower(), owner.lower() or "unknown")
    return Identity(
        engine=engine,
        version=await _version(server),
        models=[card.id for card in models],
        model=chosen.id,
        max_model_len=chosen.max_model_len,
        simulated=engine == "kvsim",
        root=chosen.root,
    )


def _read_models(server: Server, answer: Answer) -> list[_Model]:
    if answer.status in (401, 403):
        raise ToolError(f"{server.shown}: {answer.status}: needs a key: --api-key-file FILE")
    if not answer.ok:
        raise ToolError(
            f"{server.shown}: no OpenAI-compatible endpoint: /v1/models answered {answer.short(80)}"
        )
    try:
        models = msgspec.json.decode(answer.text, type=_Models).data
    except NOT_JSON as error:
        raise ToolError(
            f"{server.shown}: no OpenAI-compatible endpoint: /v1/models is no model list "
            f"({answer.short(80)})"
        ) from error
    if not models:
        raise ToolError(f"{server.shown}: serves no model yet: /v1/models is empty")
    return models


def _choose(server: Server, models: list[_Model], wanted: str | None) -> _Model:
    if wanted is not None:
        for card in models:
            if card.id == wanted:
                return card
        served = ", ".join(card.id for card in models)
        raise ToolError(f"{server.shown}: model '{wanted}' is not served here; served: {served}")
    # Adapters name their parent; aliases of one model share its root.
    bases = [card for card in models if card.parent is None] or models
    if len({card.root or card.id for card in bases}) > 1:
        served = ", ".join(card.id for card in bases)
        raise ToolError(f"{server.shown}: serves several models: choose with --model: {served}")
    return bases[0]


async def _version(server: Server) -> str | None:
    answer = await server.get("/version")
    try:
        return msgspec.json.decode(answer.text, type=_Version).version if answer.ok else None
    except NOT_JSON:
        return None
