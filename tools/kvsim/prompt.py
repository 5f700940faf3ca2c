"""A request as the engine sees it: tokens and how to go on from them. No HTTP."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One validated request."""

    chat: bool
    request_id: str
    """With its prefix: ``chatcmpl-...`` or ``cmpl-...``."""
    client_id: str | None
    """The client's own X-Request-Id; None where it sent none."""
    model: str
    prompts: tuple[tuple[int, ...], ...]
    n: int = 1
    max_tokens: int = 16
    min_tokens: int = 0
    ignore_eos: bool = False
    temperature: float = 1.0
    seed: int | None = None
    salt: str | None = None
    stream: bool = False
    include_usage: bool = False
    continuous_usage: bool = False
    logprobs: int | None = None
    """How many alternatives beside each token; None: no logprobs."""
    return_token_ids: bool = False
    kv: Mapping[str, Any] = field(default_factory=dict)
    """`kv_transfer_params`, by which a proxy tells who computes and who loads."""

    @property
    def prompt_tokens(self) -> int:
        return sum(map(len, self.prompts))
