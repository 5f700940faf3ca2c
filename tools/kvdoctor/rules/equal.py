"""Whether the endpoints are alike: blocks are shared only between equals."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from kvdoctor.evidence import Evidence, NodeSeen
from kvdoctor.rules.rule import Rule, Seen

Look = Callable[[NodeSeen], object]


def _unequal(evidence: Evidence, looks: dict[str, Look], change: str) -> Iterator[Seen]:
    """Endpoints that differ from the first in one of these; what is not told is not compared."""
    if not evidence.endpoints:
        return
    first, *others = evidence.endpoints
    for other in others:
        differing = {
            name: [look(first), look(other)]
            for name, look in looks.items()
            if look(first) is not None and look(other) is not None and look(first) != look(other)
        }
        if differing:
            told = "; ".join(
                f"{name} {mine} there and {theirs} here"
                for name, (mine, theirs) in differing.items()
            )
            yield Seen(
                where=other.where,
                seen=f"compared with {first.where}: {told}",
                change=change,
                evidence=dict(differing),
            )


def model_differs(evidence: Evidence) -> Iterator[Seen]:
    """Another model, by its name or by where it was loaded from."""
    yield from _unequal(
        evidence,
        {
            "model": lambda node: node.model,
            "loaded from": lambda node: _last(node.identity.root if node.identity else None),
        },
        "serve one model from directories of one name on every node: keys in a store carry the"
        " last part of the path (--served-model-name does not change them)",
    )


def _last(path: str | None) -> str | None:
    return path.rstrip("/").rpartition("/")[2] if path else None


def version_differs(evidence: Evidence) -> Iterator[Seen]:
    """Another engine, or another version of it."""
    yield from _unequal(
        evidence,
        {
            "engine": lambda node: node.identity.engine if node.identity else None,
            "version": lambda node: node.identity.version if node.identity else None,
        },
        "run one image, by its digest, on every node",
    )


def precision_differs(evidence: Evidence) -> Iterator[Seen]:
    """Other numbers in the model or in its cache, or cut into other pieces."""
    yield from _unequal(
        evidence,
        {
            "dtype": lambda node: node.config.dtype,
            "quantization": lambda node: node.config.quantization,
            "KV cache dtype": lambda node: node.config.cache_dtype,
            "tensor parallel size": lambda node: node.config.tensor_parallel,
        },
        "start every node with the same --dtype, --quantization, --kv-cache-dtype and"
        " --tensor-parallel-size",
    )


def context_differs(evidence: Evidence) -> Iterator[Seen]:
    """Another longest context: a plan that fits the one is refused by the other."""
    yield from _unequal(
        evidence,
        {"max_model_len": lambda node: node.identity.max_model_len if node.identity else None},
        "start every node with the same --max-model-len",
    )


def block_size_differs(evidence: Evidence) -> Iterator[Seen]:
    """Another block."""
    yield from _unequal(
        evidence,
        {"block size": lambda node: node.config.block_tokens},
        "start every node with the same --block-size",
    )


def hash_algorithm_differs(evidence: Evidence) -> Iterator[Seen]:
    """Another way to name blocks."""
    yield from _unequal(
        evidence,
        {"prefix_caching_hash_algo": lambda node: node.config.hash_algorithm},
        "start every node with the same --prefix-caching-hash-algo (sha256)",
    )


def connector_differs(evidence: Evidence) -> Iterator[Seen]:
    """Another connector: they do not speak to the same thing behind them."""
    yield from _unequal(
        evidence,
        {"connector": lambda node: node.config.connector},
        "start every node with the same kv_connector in --kv-transfer-config",
    )


def chunk_differs(evidence: Evidence) -> Iterator[Seen]:
    """LMCaches that cut prompts at other places."""
    told = [store for store in evidence.stores if store.chunk_tokens is not None]
    for other in told[1:]:
        if other.chunk_tokens != told[0].chunk_tokens:
            yield Seen(
                where=other.where,
                seen=f"chunks of {other.chunk_tokens} tokens here, of {told[0].chunk_tokens} at"
                f" {told[0].where}",
                change=f"set chunk_size: {told[0].chunk_tokens} (LMCACHE_CHUNK_SIZE) in every"
                " LMCache's configuration",
                evidence={"chunk_tokens": [told[0].chunk_tokens, other.chunk_tokens]},
            )


MISSES = "A block's name depends on it: what one node stored is never found by the other."

RULES = (
    Rule(
        code="model_differs",
        severity="invalid",
        asks="model name, and the directory that it was loaded from",
        means="Two models are compared, not a cold and a warm cache; nothing of one node's cache"
        " fits the other.",
        judge=model_differs,
    ),
    Rule(
        code="version_differs",
        severity="warning",
        asks="engine and version",
        means="A difference between the nodes may be a difference of versions; block names may"
        " differ too.",
        judge=version_differs,
    ),
    Rule(
        code="precision_differs",
        severity="warning",
        asks="dtype, quantization, KV cache dtype, tensor parallel size, as far as they are told",
        means="The nodes do not do equal work, and their blocks do not fit each other.",
        judge=precision_differs,
    ),
    Rule(
        code="context_differs",
        severity="warning",
        asks="`max_model_len`",
        means="Long prompts of a plan are answered by one node and refused by the other.",
        judge=context_differs,
    ),
    Rule(
        code="block_size_differs",
        severity="warning",
        asks="block size by `vllm:cache_config_info`",
        means=MISSES,
        judge=block_size_differs,
    ),
    Rule(
        code="hash_algorithm_differs",
        severity="warning",
        asks="`prefix_caching_hash_algo` by `vllm:cache_config_info`",
        means=MISSES,
        judge=hash_algorithm_differs,
    ),
    Rule(
        code="connector_differs",
        severity="warning",
        asks="`kv_connector` by `/server_info`, where it is told",
        means="What one node stores lies where the other never looks.",
        judge=connector_differs,
    ),
    Rule(
        code="chunk_differs",
        severity="warning",
        asks="LMCache's chunk size",
        means=MISSES,
        judge=chunk_differs,
    ),
)
