"""A server that counts what it is asked: an examination says what it cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from kvengine.server import Answer, Server
from kvpipe.jsonl import NOT_JSON

PROMPT_PATHS = ("/v1/completions", "/v1/chat/completions")


class _Usage(msgspec.Struct, frozen=True):
    prompt_tokens: int = 0


class _Answer(msgspec.Struct, frozen=True):
    usage: _Usage | None = None


class MeteredServer(Server):
    """The same, with `prompts` that were answered and their `tokens` as the server counted them."""

    def __init__(
        self, url: str, api_key: str | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(url, api_key, headers)
        self.sent_headers: dict[str, str] = dict(self._headers)
        """What every request carries, for connections that are not made here."""
        self.prompts = 0
        self.tokens = 0

    async def request(self, method: str, path: str, **options: Any) -> Answer:
        """As `Server.request`; prompts are counted."""
        answer = await super().request(method, path, **options)
        if method == "POST" and path in PROMPT_PATHS and answer.ok:
            self.count(answer.text)
        return answer

    def count(self, text: str) -> None:
        """One more prompt, and its tokens if the answer tells them."""
        self.prompts += 1
        try:
            usage = msgspec.json.decode(text, type=_Answer).usage
        except NOT_JSON:
            return
        self.tokens += usage.prompt_tokens if usage else 0
