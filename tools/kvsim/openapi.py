"""What a node understands and answers, as an OpenAPI 3.1 document, served at /openapi.json as vLLM
does.

It describes this simulator, not vLLM: the fields that it reads, the answers that it gives, and no
more. Other fields are let through unread, so none is forbidden. `tests/fuzz` holds the running
server to it. Pure.
"""

from __future__ import annotations

from typing import Any

from kvsim.intake import MOST
from kvsim.options import NodeOptions
from kvsim.tokens import VOCAB_SIZE

Json = dict[str, Any]

_TEXT: Json = {"type": "string"}
_COUNT: Json = {"type": "integer", "minimum": 0}
_TOKENS: Json = {
    "type": "array", "items": {"type": "integer", "minimum": 0, "maximum": VOCAB_SIZE - 1},
}  # fmt: skip
_FLAG: Json = {"type": "boolean"}


def document(options: NodeOptions) -> Json:
    """The document of a node that was started so."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "kvsim",
            "version": options.version,
            "description": "A simulated vLLM: every figure that it answers is simulated.",
        },
        "paths": _paths(options),
        "components": {
            "schemas": _schemas(options),
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


def _paths(options: NodeOptions) -> Json:
    paths: Json = {
        "/v1/chat/completions": {"post": _generation("ChatRequest", "ChatAnswer", options)},
        "/v1/completions": {"post": _generation("TextRequest", "TextAnswer", options)},
        "/v1/models": {"get": _guarded({"200": _json("Models")}, options)},
        "/tokenize": {"post": _asking("TokenizeRequest", "Tokens")},
        "/detokenize": {"post": _asking("DetokenizeRequest", "Text")},
        "/health": {"get": _answers({"200": _empty(), "503": _empty("The engine is dead")})},
        "/ping": {
            way: _answers({"200": _empty(), "503": _empty("The engine is dead")})
            for way in ("get", "post")
        },
        "/version": {"get": _answers({"200": _json("Version")})},
        "/metrics": {"get": _answers({"200": _plain("text/plain"), "404": _json("Detail")})},
        "/kvsim/truth": {"get": _answers({"200": _plain("application/jsonl")})},
        "/kvsim/fault": {
            "get": _answers({"200": _json("Faults")}),
            "post": {
                **_answers({"200": _json("Faults"), "400": _json("Complaint")}),
                "requestBody": _body("Fault"),
            },
            "delete": {
                **_answers({"200": _json("Faults")}),
                "parameters": [{"name": "name", "in": "query", "schema": _TEXT}],
            },
        },
    }
    if options.dev_mode:
        old = options.vllm_version < (0, 27)
        paths["/reset_prefix_cache"] = {
            "post": {
                **_answers({"200": _empty() if old else _json("Success"), "500": _json("Error")}),
                "parameters": [
                    {"name": name, "in": "query", "schema": _FLAG}
                    for name in ("reset_running_requests", "reset_external")
                ],
            }
        }
        for path in ("/reset_mm_cache", "/reset_encoder_cache"):
            paths[path] = {"post": _answers({"200": _empty()})}
    return paths


def _generation(asked: str, answered: str, options: NodeOptions) -> Json:
    answer = _json(answered)
    answer["content"]["text/event-stream"] = {"schema": _object(("data",), data=_TEXT)}
    refused = {"400": _json("Error"), "404": _json("Error"), "500": _json("Error")}
    return _guarded({"200": answer, **refused}, options) | {"requestBody": _body(asked)}


def _asking(asked: str, answered: str) -> Json:
    answers = {"200": _json(answered), "400": _json("Error"), "404": _json("Error")}
    return {**_answers(answers), "requestBody": _body(asked)}


def _guarded(answers: Json, options: NodeOptions) -> Json:
    """What an API key protects, if there is one."""
    if options.api_key is None:
        return _answers(answers)
    return {**_answers({**answers, "401": _json("Complaint")}), "security": [{"key": []}]}


def _answers(answers: Json) -> Json:
    return {"responses": answers}


def _json(name: str) -> Json:
    return {"description": name, "content": {"application/json": {"schema": _ref(name)}}}


def _plain(kind: str) -> Json:
    return {"description": "Text", "content": {kind: {"schema": _TEXT}}}


def _empty(text: str = "Nothing is said") -> Json:
    return {"description": text}


def _body(name: str) -> Json:
    return {"required": True, "content": {"application/json": {"schema": _ref(name)}}}


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _object(required: tuple[str, ...], **fields: Json) -> Json:
    return {"type": "object", "required": list(required), "properties": fields}


def _schemas(options: NodeOptions) -> Json:
    return _requests(options) | _generated() | _others()


def _requests(options: NodeOptions) -> Json:
    sampling: Json = {
        "model": {"const": options.model},
        "max_tokens": {"type": "integer", "minimum": 1},
        "min_tokens": _COUNT,
        "n": {"type": "integer", "minimum": 1, "maximum": MOST["n"]},
        "seed": {"type": "integer"},
        "temperature": {"type": "number", "minimum": 0},
        "top_p": {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
        "stream": _FLAG,
        "stream_options": _object((), include_usage=_FLAG, continuous_usage_stats=_FLAG),
        "ignore_eos": _FLAG,
        "return_token_ids": _FLAG,
        "cache_salt": {"type": "string", "minLength": 1},
        "kv_transfer_params": {"type": "object"},
    }
    part = _object(("type", "text"), type={"const": "text"}, text=_TEXT)
    content = {"anyOf": [_TEXT, {"type": "array", "items": part}]}
    message = _object(("role", "content"), role=_TEXT, content=content)
    messages = {"type": "array", "items": message}
    ids = {**_TOKENS, "minItems": 1}
    prompt = {"type": "string", "minLength": 1}
    prompts: list[Json] = [prompt, ids]
    many = {"type": "array", "minItems": 1, "items": {"anyOf": prompts}}
    few = {"type": "integer", "minimum": 0, "maximum": MOST["logprobs"]}
    return {
        "ChatRequest": _object(
            ("messages",), **sampling, messages=messages, logprobs=_FLAG, top_logprobs=few,
            max_completion_tokens={"type": "integer", "minimum": 1}, add_generation_prompt=_FLAG,
        ),
        "TextRequest": _object(
            ("prompt",), **sampling, prompt={"anyOf": [*prompts, many]}, logprobs=few
        ),
        "TokenizeRequest": _object(
            (), model={"const": options.model}, prompt=_TEXT, messages=messages,
            add_generation_prompt=_FLAG, return_token_strs=_FLAG,
        )
        | {"anyOf": [{"required": ["prompt"]}, {"required": ["messages"]}]},
        "DetokenizeRequest": _object(
            ("tokens",), model={"const": options.model}, tokens=_TOKENS
        ),
        "Fault": _object(("name",), name=_TEXT, arg={"type": ["string", "number", "null"]}),
    }  # fmt: skip


def _generated() -> Json:
    """Answers that are not streamed; the events of a stream are vLLM's, one token each."""
    usage = _object(
        ("prompt_tokens", "total_tokens", "completion_tokens"),
        prompt_tokens=_COUNT, total_tokens=_COUNT, completion_tokens=_COUNT,
        prompt_tokens_details={"type": ["object", "null"]},
    )  # fmt: skip
    finish = {"enum": ["stop", "length"]}

    def answer(kind: str, *required: str, **fields: Json) -> Json:
        choice = _object(
            ("index", "finish_reason", *required), index=_COUNT, finish_reason=finish, **fields
        )
        return _object(
            ("id", "object", "created", "model", "choices", "usage"),
            id=_TEXT, object={"const": kind}, created=_COUNT, model=_TEXT, usage=usage,
            choices={"type": "array", "minItems": 1, "items": choice},
        )  # fmt: skip

    message = _object(
        ("role", "content"), role={"const": "assistant"}, content={"type": ["string", "null"]}
    )
    return {
        "ChatAnswer": answer("chat.completion", "message", message=message),
        "TextAnswer": answer("text_completion", "text", text=_TEXT),
    }


def _others() -> Json:
    error = _object(
        ("message", "type", "param", "code"), message=_TEXT, type=_TEXT,
        param={"type": ["string", "null"]}, code={"type": "integer"},
    )  # fmt: skip
    card = _object(
        ("id", "object", "max_model_len"), id=_TEXT, object={"const": "model"},
        max_model_len=_COUNT, parent={"type": "null"}, root=_TEXT,
    )  # fmt: skip
    faults = {"type": "object", "additionalProperties": _TEXT}
    return {
        "Error": _object(("error",), error=error),
        "Complaint": _object(("error",), error=_TEXT),
        "Detail": _object(("detail",), detail=_TEXT),
        "Models": _object(
            ("object", "data"), object={"const": "list"}, data={"type": "array", "items": card}
        ),
        "Tokens": _object(
            ("count", "max_model_len", "tokens"), count=_COUNT, max_model_len=_COUNT,
            tokens=_TOKENS, token_strs={"type": ["array", "null"], "items": _TEXT},
        ),
        "Text": _object(("prompt",), prompt=_TEXT),
        "Version": _object(("version",), version=_TEXT),
        "Success": _object(("success",), success=_FLAG),
        "Faults": _object(("faults",), faults=faults),
    }  # fmt: skip
