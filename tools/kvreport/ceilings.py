"""What this shape of load lets even a perfect cache show, in serial runs.

With k cold requests of n, M and H the TTFT of a miss and of a hit, round 2 can be shorter by at
most k (M - H) / (k M + (n - k) H): the other n - k were hits in round 1 already. M and H are
measured per stratum. Under concurrency followers wait behind leaders, and nothing is said.
"""

from __future__ import annotations

import math

import msgspec
import numpy as np

from kvpipe.records import Samples
from kvreport.effects import Comparison, Effect
from kvreport.pairs import Pairs
from kvreport.rounds import COLD_STRATA

PARTLY_COLD = 0.95
"""Followers that found less than this part of what they found in the hit round were partly cold."""
PARTLY_FASTER = 0.8
"""The same from their TTFTs, with room for noise."""


class Ceiling(msgspec.Struct, frozen=True, kw_only=True):
    """`ratio` is the least that the hit round can be of the cold one; counts are per round.

    Cold requests are the leaders of so many `contexts` and the `uniques`; `miss_s` and `hit_s` are
    their means.
    """

    ratio: float
    contexts: int
    uniques: int
    requests: int
    miss_s: float
    hit_s: float

    @property
    def cold(self) -> int:
        return self.contexts + self.uniques

    @property
    def reduction(self) -> float:
        return 1 - self.ratio

    @property
    def one_hit(self) -> float:
        """What one hit alone saves of a miss: no shape can show more."""
        return 1 - self.hit_s / self.miss_s

    def contexts_needed(self, reduction: float) -> int | None:
        """Shared contexts that would bring the ceiling to `reduction`; None: no number would."""
        saved = self._saved(reduction)
        if saved <= 0:
            return None
        needed = math.ceil(reduction * self.requests * self.hit_s / saved) - self.uniques
        return needed if self.contexts < needed <= self.requests - self.uniques else None

    def requests_allowed(self, reduction: float) -> int | None:
        """Requests with which as many contexts would do, uniques keeping their share; or None."""
        share = self.uniques / self.requests
        spent = reduction * self.hit_s - share * self._saved(reduction)
        if self._saved(reduction) <= 0 or spent <= 0:
            return None
        allowed = math.floor(self.contexts * self._saved(reduction) / spent)
        return allowed if 2 * self.contexts <= allowed < self.requests else None

    def _saved(self, reduction: float) -> float:
        """What a cold request contributes beyond the wish; not positive: it cannot be had."""
        return (1 - reduction) * (self.miss_s - self.hit_s) if self.one_hit > reduction else 0.0


def ttft_ceiling(comparison: Comparison) -> Ceiling | None:
    """From complete pairs of the cold and the hit round; None where there is nothing to say.

    Without hits (or with hits no faster than misses) there is no H, and so no ceiling.
    """
    pairs = [one for one in comparison.pairs if one]
    if not pairs:
        return None
    cold = np.concatenate([one.cold_rows() for one in pairs])
    base = np.concatenate([one.base["ttft_s"] for one in pairs])
    other = np.concatenate([one.other["ttft_s"] for one in pairs])
    if not cold.any():
        return None
    miss, hit = float(base[cold].mean()), float(other[cold].mean())
    if hit >= miss:
        return None
    best = sum(_best(one, partly=_partly_cold(comparison)) for one in pairs)
    return Ceiling(
        ratio=best / float(base.sum()),
        contexts=round(sum(one.stratum.count("leader") for one in pairs) / len(pairs)),
        uniques=round(sum(one.stratum.count("unique") for one in pairs) / len(pairs)),
        requests=round(len(base) / len(pairs)),
        miss_s=miss,
        hit_s=hit,
    )


def _best(pairs: Pairs, *, partly: bool) -> float:
    """Sum of TTFTs of a perfect hit round: a stratum that was cold takes its hit's mean."""
    total = 0.0
    for stratum in set(pairs.stratum):
        rows = np.array([one == stratum for one in pairs.stratum])
        base, other = pairs.base["ttft_s"][rows], pairs.other["ttft_s"][rows]
        improves = stratum in COLD_STRATA or partly
        total += float(min(base.sum(), other.sum()) if improves else base.sum())
    return total


def _partly_cold(comparison: Comparison) -> bool:
    """Whether followers too were partly computed in the cold round, as turns of a talk are.

    Told by their cached tokens; by their TTFTs where those were not reported.
    """
    found = [
        (_cached(base.stats.samples), _cached(match.other.stats.samples))
        for match in comparison.matches
        for base in match.bases
    ]
    told = [(one, two) for one, two in found if one is not None and two]
    if told:
        return sum(one for one, _ in told) < PARTLY_COLD * sum(two for _, two in told)
    base = other = 0.0
    for pairs in filter(None, comparison.pairs):
        rows = ~pairs.cold_rows()
        base += float(pairs.base["ttft_s"][rows].sum())
        other += float(pairs.other["ttft_s"][rows].sum())
    return other < PARTLY_FASTER * base


def _cached(samples: Samples | None) -> float | None:
    """Cached tokens of the followers; None where none was reported."""
    if samples is None:
        return None
    told = [
        cached
        for stratum, cached in zip(samples.stratum, samples.cached_tokens, strict=True)
        if stratum == "follower" and cached is not None
    ]
    return float(sum(told)) if told else None


def throughput_ceiling(ttft: Effect | None, e2e: Effect | None) -> float | None:
    """1 / (1 - f), f being the share of TTFT in E2E of the cold round, as a ratio of throughputs.

    None where either is unknown.
    """
    if ttft is None or e2e is None:
        return None
    share = ttft.base_mean / e2e.base_mean
    return 1 / (1 - share) if share < 1 else None
