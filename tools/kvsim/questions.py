"""Questions that need no engine: which model, which tokens."""

import secrets
import time
from typing import Any

import msgspec
from aiohttp import web

from kvsim import refusals
from kvsim.intake import read_body
from kvsim.options import NodeOptions
from kvsim.serving import Routes, json_answer
from kvsim.tokens import decode, encode, render_chat, token_text


class Questions:
    """Routes of a node that answer from its options and its tokenizer alone."""

    def __init__(self, options: NodeOptions) -> None:
        self._options = options

    def routes(self) -> Routes:
        return {
            "/v1/models": {"GET": self.models},
            "/tokenize": {"POST": self.tokenize},
            "/detokenize": {"POST": self.detokenize},
        }

    async def models(self, request: web.Request) -> web.Response:
        permission = {
            "id": f"modelperm-{secrets.token_hex(8)}", "object": "model_permission",
            "created": int(time.time()), "allow_create_engine": False, "allow_sampling": True,
            "allow_logprobs": True, "allow_search_indices": False, "allow_view": True,
            "allow_fine_tuning": False, "organization": "*", "group": None, "is_blocking": False,
        }  # fmt: skip
        card = {
            "id": self._options.model, "object": "model", "created": int(time.time()),
            "owned_by": "kvsim", "root": self._options.model, "parent": None,
            "max_model_len": self._options.max_model_len, "permission": [permission],
        }  # fmt: skip
        return json_answer(msgspec.json.encode({"object": "list", "data": [card]}))

    async def _body(self, request: web.Request) -> dict[str, Any]:
        return read_body(await request.read(), request.headers.get("content-type", ""))

    async def tokenize(self, request: web.Request) -> web.Response:
        body = await self._body(request)
        self._check_model(body)
        if isinstance(body.get("messages"), list):
            opened = bool(body.get("add_generation_prompt", True))
            messages = [item for item in body["messages"] if isinstance(item, dict)]
            dated = self._options.dated_template
            tokens = render_chat(messages, generation_prompt=opened, dated=dated)
        elif isinstance(body.get("prompt"), str):
            tokens = encode(body["prompt"])
        else:
            raise refusals.invalid(
                [refusals.problem("missing", "body.prompt", "Field required", body)]
            )
        strings = list(map(token_text, tokens)) if body.get("return_token_strs") else None
        answer = {
            "count": len(tokens), "max_model_len": self._options.max_model_len, "tokens": tokens,
            "token_strs": strings,
        }  # fmt: skip
        return json_answer(msgspec.json.encode(answer))

    async def detokenize(self, request: web.Request) -> web.Response:
        body = await self._body(request)
        self._check_model(body)
        tokens = body.get("tokens")
        if not isinstance(tokens, list) or not all(isinstance(t, int) for t in tokens):
            text = "Input should be a valid list"
            raise refusals.invalid([refusals.problem("list_type", "body.tokens", text, tokens)])
        return json_answer(msgspec.json.encode({"prompt": decode(tokens)}))

    def _check_model(self, body: dict[str, Any]) -> None:
        model = body.get("model", self._options.model)
        if model != self._options.model:
            raise refusals.no_such_model(str(model), self._options.model)
