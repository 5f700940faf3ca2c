"""The `analysis` record as a page that a person reads. Text, English."""

from __future__ import annotations

from collections.abc import Sequence

from tabulate import tabulate

from kvpipe.records import Analysis, BlockSize, HitsAt, Spread

MOST_ROWS = 12
"""Capacities that the table shows beside those that were named; the record has all."""


def page(found: Analysis) -> str:
    """Everything that the record says."""
    parts = [_facts(found), *_reuse(found), _sizes(found), _curve(found)]
    if found.note:
        parts.append(f"Note: {found.note}")
    return "\n\n".join(parts) + "\n"


def _facts(found: Analysis) -> str:
    apart = f", {found.sentinels} sentinels apart" if found.sentinels else ""
    span = "" if found.span_s is None else f" in {found.span_s:,.0f} s"
    given = found.given_block_tokens
    rows = [
        ("requests", f"{found.requests:,}{span}{apart}"),
        ("tokens", f"{found.prompt_tokens:,} of prompts, {found.output_tokens:,} of answers"),
        (f"blocks of {given}", f"{found.blocks:,}, {found.unique_blocks:,} of them distinct"),
        ("block hit ratio", _percent(found.block_hit_ratio)),
        ("weighted by tokens", _percent(found.token_hit_ratio)),
        ("mean per request", _percent(found.mean_request_hit_ratio)),
        ("working set", _working_set(found)),
    ]
    title = f"{found.scenario}: what a cache without a limit would have"
    return title + "\n" + tabulate(rows, tablefmt="plain", disable_numparse=True)


def _working_set(found: Analysis) -> str:
    tokens = f"{found.working_set_tokens:,} tokens"
    if found.kv is None or found.working_set_bytes is None:
        return tokens
    return (
        f"{tokens}, {_bytes(found.working_set_bytes)} at {found.kv.bytes_per_token:,} bytes a "
        f"token ({found.kv.name}: {found.kv.source})"
    )


def _reuse(found: Analysis) -> list[str]:
    rows = [(f"other blocks of {found.given_block_tokens}", *_spread(found.reuse_blocks))]
    if found.reuse_s is not None:
        rows.append(("seconds", *_spread(found.reuse_s)))
    if not found.reuse_blocks.n:
        return []
    head = ("since its last use", "n", "mean", "p50", "p90", "p99", "max")
    return ["When a block is used again\n" + _table(head, rows)]


def _spread(one: Spread) -> list[str]:
    values = (one.mean, one.p50, one.p90, one.p99, one.max)
    return [f"{one.n:,}", *("-" if value is None else f"{value:,.0f}" for value in values)]


def _sizes(found: Analysis) -> str:
    head = ("block", "cut", "whole blocks", "distinct", "ideal hit ratio", "per request", "enough")
    rows = [
        (
            f"{size.block_tokens}",
            size.cut,
            f"{size.blocks:,}",
            f"{size.unique_blocks:,}",
            _percent(size.ideal.hit_ratio),
            _percent(size.ideal.mean_request_hit_ratio),
            _room(size.enough_tokens, found),
        )
        for size in found.sizes
    ]
    title = (
        "What an engine can reuse: whole blocks, never that of the last token; and the room at "
        "which nothing more is lost"
    )
    return title + "\n" + _table(head, rows)


def _curve(found: Analysis) -> str:
    """Hit ratios by capacity, one column a block size."""
    head = ("capacity", *(f"block {size.block_tokens}" for size in found.sizes))
    rows: list[tuple[str, ...]] = []
    for at, point in enumerate(found.sizes[0].named):
        room = _room(point.capacity_tokens or 0, found)
        name = f"{point.name} tokens" if (point.name or "").isdigit() else f"{point.name}"
        label = name if name == room else f"{name} ({room})"
        rows.append((label, *(_percent(size.named[at].hit_ratio) for size in found.sizes)))
    shown = _thinned(found.sizes[0])
    for room_tokens in [point.capacity_tokens or 0 for point in shown]:
        cells = [_percent(_nearest(size, room_tokens)) for size in found.sizes]
        rows.append((_room(room_tokens, found), *cells))
    rows.append(("no limit", *(_percent(size.ideal.hit_ratio) for size in found.sizes)))
    return f"Hit ratio of an LRU cache, {found.order}, by tokens\n" + _table(head, rows)


def _thinned(size: BlockSize) -> Sequence[HitsAt]:
    step = -(-len(size.curve) // MOST_ROWS)
    return size.curve[::-1][::step][::-1]


def _nearest(size: BlockSize, tokens: int) -> float:
    """Of the curve's points, which lie half an octave apart, the one at this capacity."""
    nearest = min(size.curve, key=lambda point: abs((point.capacity_tokens or 0) - tokens))
    return nearest.hit_ratio


def _room(tokens: int, found: Analysis) -> str:
    shown = f"{tokens:,} tokens"
    return shown if found.kv is None else f"{_bytes(tokens * found.kv.bytes_per_token)}, {shown}"


def _bytes(count: int) -> str:
    """In GiB, with three digits that say something."""
    gib = count / 2**30
    return f"{gib:,.0f} GiB" if gib >= 100 else f"{gib:.3g} GiB"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.2f} %"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    align = ("left", *["right"] * (len(head) - 1))
    return tabulate(rows, headers=head, tablefmt="simple", colalign=align, disable_numparse=True)
