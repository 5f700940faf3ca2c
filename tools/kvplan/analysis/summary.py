"""Columns of a workload into one `analysis` record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from kvpipe.records import Analysis, BlockSize, HitsAt, KvBytes, Spread
from kvplan.analysis.accesses import Accesses, Floats, Ints
from kvplan.analysis.curve import Sized, grid, sized
from kvplan.analysis.distances import NEVER, Order, previous_use
from kvplan.analysis.kvsizes import Capacity, KvSize

SIZES = (16, 128, 256, 512)
"""vLLM's block on a GPU, its block on a CPU, LMCache's chunk, the blocks of Mooncake's traces."""
LEAST_TOKENS = 4096
"""Where a curve begins."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is asked of a workload."""

    scenario: str
    source: str
    plan_sha256: str | None = None
    given_block_tokens: int
    """Of the blocks as the workload names them."""
    sizes: Sequence[int] = SIZES
    capacities: Sequence[Capacity] = ()
    kv: KvSize | None = None
    order: Order = "tail-first"
    note: str | None = None


def analyse(taken: Accesses, question: Question) -> Analysis:
    """The record. Raises UsageError for a capacity in bytes without a KV size."""
    given = question.given_block_tokens
    own = sized(taken, given, question.order)
    found = _as_given(taken, given)
    counted = taken.counted
    blocks = -(-taken.input_tokens // given)
    working_set = int(taken.node_tokens.sum())
    kv = question.kv
    return Analysis(
        scenario=question.scenario,
        source=question.source,
        plan_sha256=question.plan_sha256,
        requests=int(counted.sum()),
        sentinels=int((~counted).sum()),
        prompt_tokens=int(taken.input_tokens[counted].sum()),
        output_tokens=int(taken.output_tokens[counted].sum()),
        span_s=_span(taken.at_s),
        given_block_tokens=given,
        blocks=int(blocks[counted].sum()),
        unique_blocks=int((blocks - found.blocks)[counted].sum()),
        block_hit_ratio=_share(found.blocks[counted], blocks[counted]),
        token_hit_ratio=_share(found.tokens[counted], taken.input_tokens[counted]),
        mean_request_hit_ratio=_mean_share(found.tokens[counted], taken.input_tokens[counted]),
        working_set_tokens=working_set,
        working_set_bytes=None if kv is None else working_set * kv.bytes_per_token,
        kv=None
        if kv is None
        else KvBytes(name=kv.name, bytes_per_token=kv.bytes_per_token, source=kv.source),
        reuse_blocks=_spread(own.needs() - 1),
        reuse_s=_reuse_seconds(own),
        order=question.order,
        sizes=[_block_size(taken, size, question) for size in question.sizes],
        note=question.note,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """Per request, what earlier ones had: blocks as given, and their tokens."""

    blocks: Ints
    tokens: Ints


def _as_given(taken: Accesses, block_tokens: int) -> _Found:
    """Counted as traces count: the partial last block is a block, and the last token no exception.

    A partial block is known where an earlier prompt ended in the same place.
    """
    start, size = taken.node_start, taken.node_tokens
    weight = (start + size) // block_tokens - start // block_tokens
    known = previous_use(taken.nodes) >= 0
    sums = np.concatenate(([0], np.cumsum(np.where(known, weight[taken.nodes], 0))))
    whole = sums[taken.first[1:]] - sums[taken.first[:-1]]
    last = np.where(taken.input_tokens > 0, taken.nodes[taken.first[1:] - 1], -1)
    left_over = taken.input_tokens % block_tokens
    partial = (previous_use(last) >= 0) & (left_over > 0)
    return _Found(
        blocks=whole + partial, tokens=whole * block_tokens + np.where(partial, left_over, 0)
    )


def _block_size(taken: Accesses, block_tokens: int, question: Question) -> BlockSize:
    blocks = sized(taken, block_tokens, question.order)
    enough = blocks.enough()
    points = grid(enough, max(1, LEAST_TOKENS // block_tokens))
    named = [(one.text, one.in_tokens(question.kv) // block_tokens) for one in question.capacities]
    return BlockSize(
        block_tokens=block_tokens,
        cut=_cut(block_tokens, question.given_block_tokens),
        blocks=blocks.blocks,
        unique_blocks=blocks.unique_blocks,
        ideal=_hits_at(blocks, None, question.kv),
        enough_tokens=enough * block_tokens,
        curve=[_hits_at(blocks, capacity, question.kv) for capacity in points],
        named=[_hits_at(blocks, capacity, question.kv, name) for name, capacity in named],
    )


def _cut(block_tokens: int, given: int) -> Literal["given", "coarser", "finer", "across"]:
    if block_tokens == given:
        return "given"
    if block_tokens % given == 0:
        return "coarser"
    return "finer" if given % block_tokens == 0 else "across"


def _hits_at(
    blocks: Sized, capacity: int | None, kv: KvSize | None, name: str | None = None
) -> HitsAt:
    counted = blocks.taken.counted
    prompt = blocks.taken.input_tokens[counted]
    found = blocks.hits(capacity)[counted] * blocks.block_tokens
    tokens = None if capacity is None else capacity * blocks.block_tokens
    return HitsAt(
        name=name,
        capacity_tokens=tokens,
        capacity_bytes=None if tokens is None or kv is None else tokens * kv.bytes_per_token,
        hit_tokens=int(found.sum()),
        hit_ratio=_share(found, prompt) or 0.0,
        mean_request_hit_ratio=_mean_share(found, prompt) or 0.0,
    )


def _reuse_seconds(blocks: Sized) -> Spread | None:
    """How long ago each block that is found again was used last."""
    taken = blocks.taken
    if np.isnan(taken.at_s).any() or not taken.requests:
        return None
    request = taken.request_of
    previous = previous_use(taken.nodes)
    useful = (blocks.need != NEVER) & (blocks.usable > 0) & taken.counted[request]
    ago = taken.at_s[request[useful]] - taken.at_s[request[previous[useful]]]
    return _spread(np.repeat(ago, blocks.usable[useful]))


def _spread(values: npt.NDArray[Any]) -> Spread:
    if not len(values):
        return Spread(n=0)
    # The value itself and not one between two: blocks are whole, and half of them is nothing.
    p50, p90, p99 = np.percentile(values, [50, 90, 99], method="inverted_cdf")
    return Spread(
        n=len(values),
        mean=float(values.mean()),
        p50=float(p50),
        p90=float(p90),
        p99=float(p99),
        max=float(values.max()),
    )


def _span(at_s: Floats) -> float | None:
    if not len(at_s) or np.isnan(at_s).any():
        return None
    return float(at_s.max() - at_s.min())


def _share(part: Ints, whole: Ints) -> float | None:
    total = int(whole.sum())
    return int(part.sum()) / total if total else None


def _mean_share(part: Ints, whole: Ints) -> float | None:
    some = whole > 0
    return float((part[some] / whole[some]).mean()) if some.any() else None
