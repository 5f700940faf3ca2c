"""What every metric means: formula, unit, null case. No other module defines one.

Metrics of a request take a lot of them and return a column of float seconds, NaN where the facts
are missing: absent is never 0. Metrics of a round take sums. `manual.py` makes the metric table of
README.md from these docstrings, which therefore all say `Formula:`, `Unit:` and `Null:`.

The field's words are not portable (what others call ITL is our TPOT); the names here follow the
majority: vLLM's `bench serve`, SGLang and inference-perf.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from kvstats.lots import Lot

Column = NDArray[np.float64]
"""One value a request, NaN where it has none."""

NS = 1e9
OPEN_LOOP = frozenset({"constant", "poisson", "gamma", "planned"})
MIN_N_P99 = 100  # p99 only with n >= 100 in the stratum
MIN_N_P999 = 1_000


def ttft_s(lot: Lot) -> Column:
    """Time to first token: any non-empty content, reasoning or tool delta, never a role-only chunk.

    Formula: first_token_ns - sent_ns.
    Unit: seconds.
    Null: nothing was sent, or no token came.
    """
    return _seconds(lot, "sent_ns", "first_token_ns")


def ttft_due_s(lot: Lot) -> Column:
    """Time to first token as the user sees it: waiting for the client's own slot included.

    Formula: first_token_ns - scheduled_ns.
    Unit: seconds.
    Null: no token came.
    """
    return _seconds(lot, "scheduled_ns", "first_token_ns")


def tpot_s(lot: Lot) -> Column:
    """Time per output token while decoding; the first token belongs to TTFT.

    Formula: (last_token_ns - first_token_ns) / (output_tokens - 1).
    Unit: seconds.
    Null: fewer than two output tokens, or their number is not known.
    """
    further = lot.numbers("output_tokens").floats() - 1
    further[further < 1] = np.nan
    return _seconds(lot, "first_token_ns", "last_token_ns") / further


def itl_s(lot: Lot) -> Column:
    """Inter-token latency: the single gaps, pooled over requests; events of one read give 0.

    Formula: chunk_ns[i + 1] - chunk_ns[i], each gap one value.
    Unit: seconds.
    Null: the record has no chunk_ns, or fewer than two.
    """
    stamps = [one for one in lot.column("chunk_ns") if one]
    ends = np.cumsum([len(one) for one in stamps], dtype=np.int64)
    count = int(ends[-1]) if stamps else 0
    try:
        gaps_ns = np.diff(np.fromiter(chain.from_iterable(stamps), dtype=np.int64, count=count))
    except OverflowError:  # no clock's stamps, but a record may say so
        gaps_ns = np.diff(np.array(list(chain.from_iterable(stamps)), dtype=object))
    gaps: Column = np.delete(gaps_ns, ends[:-1] - 1).astype(np.float64) / NS
    return gaps


def e2e_s(lot: Lot) -> Column:
    """End-to-end latency, to the last token: the usage event behind it is not waited for.

    Formula: last_token_ns - sent_ns.
    Unit: seconds.
    Null: nothing was sent, or no token came.
    """
    return _seconds(lot, "sent_ns", "last_token_ns")


def queue_s(lot: Lot) -> Column:
    """Waiting before the request left: for a slot, for an earlier turn, for the client itself.

    Not the server's queue.

    Formula: sent_ns - scheduled_ns.
    Unit: seconds.
    Null: nothing was sent.
    """
    return _seconds(lot, "scheduled_ns", "sent_ns")


def second_token_s(lot: Lot) -> Column:
    """First gap alone: one PD proxy sends token 1 before the KV transfer and hides it here.

    Formula: second_token_ns - first_token_ns.
    Unit: seconds.
    Null: fewer than two events with tokens.
    """
    return _seconds(lot, "first_token_ns", "second_token_ns")


def total_time_s(first_sent_ns: int | None, last_end_ns: int | None) -> float | None:
    """Wall time of the round, on the clock of the host that sent it; sentinels excluded.

    Formula: last end_ns - first sent_ns; the longest one of merged shards.
    Unit: seconds.
    Null: nothing was sent.
    """
    if first_sent_ns is None or last_end_ns is None:
        return None
    return (last_end_ns - first_sent_ns) / NS


def throughput(amount: float | None, time_s: float | None) -> float | None:
    """Rates over the round: successes, their tokens, or those that meet every --slo.

    Formula: amount / total_time_s, sentinels excluded; `total_` counts prompt and output tokens,
        `uncached_` output tokens and prompt tokens less cached_tokens.
    Unit: per second.
    Null: no time passed, or a success did not report the tokens that are counted.
    """
    if amount is None or not time_s:
        return None
    return amount / time_s


def steady_rate_rps(successes: int, window_s: float) -> float | None:
    """The rate while every slot was busy; ramp and tail are left out.

    Formula: successes that ended in the window / window; from the first moment with all slots
        busy to the last sent_ns.
    Unit: requests per second.
    Null: open loop, leaders-first cold, slots idle for over 10 % of the window, or sampled rows.
    """
    return successes / window_s if window_s > 0 and successes else None


def hit_ratio(cached_tokens: int, prompt_tokens: int) -> float | None:
    """Share of the prompt tokens that a cache gave; `ideal_hit_ratio` has ideal tokens above.

    Formula: sum of cached_tokens / sum of prompt_tokens, over successes that reported both.
    Unit: ratio, 0 to 1.
    Null: nobody reported cached tokens.
    """
    return cached_tokens / prompt_tokens if prompt_tokens else None


def efficiency(cached_tokens: float, ideal_tokens: float) -> float | None:
    """What the cache gave of what a perfect one would have given; hit rounds only.

    Formula: sum of cached_tokens / sum of ideal tokens, sentinels excluded.
    Unit: ratio; over 1 if reuse was finer than the block size that was assumed.
    Null: not a hit round, nothing reported, or cached tokens are PD transfers.
    """
    return cached_tokens / ideal_tokens if ideal_tokens else None


def reusable(shared_tokens: int, prompt_tokens: int | None, unit_tokens: int) -> int:
    """Ideal tokens of a request: whole blocks, and the last prompt token is always computed.

    Formula: floor to the block of min(shared, prompt - 1); shared is the larger of
        ideal_prior_tokens and ideal_in_round_hi, in a hit round without them the whole prompt.
    Unit: tokens.
    Null: the plan's chain is not known (cold rounds only).
    """
    bound = shared_tokens if prompt_tokens is None else min(shared_tokens, prompt_tokens - 1)
    return max(0, bound) // unit_tokens * unit_tokens


REQUEST_METRICS: dict[str, Callable[[Lot], Column]] = {
    "ttft_s": ttft_s,
    "ttft_due_s": ttft_due_s,
    "tpot_s": tpot_s,
    "e2e_s": e2e_s,
    "queue_s": queue_s,
    "second_token_s": second_token_s,
}


def _seconds(lot: Lot, start: str, stop: str) -> Column:
    first, last = lot.numbers(start), lot.numbers(stop)
    seconds: Column = ((last.values - first.values) / NS).astype(np.float64)
    seconds[~(first.known & last.known)] = np.nan
    return seconds
