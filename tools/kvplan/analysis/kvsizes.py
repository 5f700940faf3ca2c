"""How many bytes of KV a token is, for models by name.

2 (a key and a value) x layers x KV heads x head dimension x bytes of an element; with multi-head
latent attention one latent vector a layer instead. Each model's numbers are those of the
`config.json` in its repository on Hugging Face, which is named.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from kvpipe.process import UsageError

ELEMENT_BYTES = {"fp32": 4, "fp16": 2, "bf16": 2, "fp8": 1, "int8": 1}


@dataclass(frozen=True, slots=True, kw_only=True)
class Heads:
    """num_hidden_layers, num_key_value_heads and head_dim of a model's config.json."""

    repository: str
    layers: int
    kv_heads: int
    head_dim: int

    @property
    def elements(self) -> int:
        return 2 * self.layers * self.kv_heads * self.head_dim


@dataclass(frozen=True, slots=True, kw_only=True)
class Latent:
    """num_hidden_layers, kv_lora_rank and qk_rope_head_dim: one vector a layer, no pair."""

    repository: str
    layers: int
    rank: int
    rope_dim: int

    @property
    def elements(self) -> int:
        return self.layers * (self.rank + self.rope_dim)


def _heads(repository: str, layers: int, kv_heads: int, head_dim: int) -> Heads:
    return Heads(repository=repository, layers=layers, kv_heads=kv_heads, head_dim=head_dim)


MODELS: dict[str, Heads | Latent] = {
    "llama-3.1-8b": _heads("meta-llama/Llama-3.1-8B", 32, 8, 128),
    "llama-3.1-70b": _heads("meta-llama/Llama-3.1-70B", 80, 8, 128),
    "llama-3.1-405b": _heads("meta-llama/Llama-3.1-405B", 126, 8, 128),
    "qwen2.5-7b": _heads("Qwen/Qwen2.5-7B-Instruct", 28, 4, 128),
    "qwen2.5-72b": _heads("Qwen/Qwen2.5-72B-Instruct", 80, 8, 128),
    "qwen3-8b": _heads("Qwen/Qwen3-8B", 36, 8, 128),
    "qwen3-32b": _heads("Qwen/Qwen3-32B", 64, 8, 128),
    "mistral-7b": _heads("mistralai/Mistral-7B-Instruct-v0.3", 32, 8, 128),
    "deepseek-v3": Latent(repository="deepseek-ai/DeepSeek-V3", layers=61, rank=512, rope_dim=64),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class KvSize:
    """Bytes of KV for each token, over all layers and all tensor-parallel ranks."""

    name: str
    bytes_per_token: int
    source: str


def kv_of_model(text: str) -> KvSize:
    """`MODEL` or `MODEL/TYPE`, such as llama-3.1-70b/fp8; 16-bit where no type is given."""
    name, _, kind = text.partition("/")
    model = MODELS.get(name)
    if model is None:
        known = ", ".join(MODELS)
        raise UsageError(
            f"--kv '{text}': no model known by this name: {known}; else --kv-bytes-per-token N"
        )
    kind = kind or "bf16"
    if kind not in ELEMENT_BYTES:
        raise UsageError(f"--kv '{text}': '{kind}' is none of {', '.join(ELEMENT_BYTES)}")
    return KvSize(
        name=f"{name}/{kind}",
        bytes_per_token=model.elements * ELEMENT_BYTES[kind],
        source=f"config.json of huggingface.co/{model.repository}",
    )


def kv_of_bytes(count: int) -> KvSize:
    """As it was given."""
    return KvSize(name=f"{count} bytes a token", bytes_per_token=count, source="given")


_UNITS = {
    "": 0, "MB": 10**6, "GB": 10**9, "TB": 10**12,
    "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40,
}  # fmt: skip
_CAPACITY = re.compile(r"(\d+(?:\.\d+)?)\s*(MB|GB|TB|KiB|MiB|GiB|TiB|)", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """Room as somebody named it: tokens, or bytes that need a KV size."""

    text: str
    tokens: int | None = None
    bytes: int | None = None

    def in_tokens(self, kv: KvSize | None) -> int:
        """How many tokens fit; UsageError for bytes without a KV size."""
        if self.tokens is not None:
            return self.tokens
        if kv is None:
            raise UsageError(
                f"--capacity {self.text}: how many bytes is a token? say --kv or "
                "--kv-bytes-per-token, or name the capacity in tokens"
            )
        return (self.bytes or 0) // kv.bytes_per_token


def capacities(text: str) -> list[Capacity]:
    """A list such as `64MiB,1GiB,200000`; a number without a unit is tokens."""
    found: list[Capacity] = []
    for part in (piece.strip() for piece in text.split(",")):
        match = _CAPACITY.fullmatch(part)
        unit = _UNITS[match[2]] if match else 0
        if match is None or float(match[1]) <= 0 or (not unit and "." in match[1]):
            raise UsageError(
                f"--capacity '{part}': tokens, or bytes as in 64MiB, 1.5GiB or 200GB, are expected"
            )
        if unit:
            found.append(Capacity(text=part, bytes=int(float(match[1]) * unit)))
        else:
            found.append(Capacity(text=part, tokens=int(match[1])))
    return found
