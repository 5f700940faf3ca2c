"""Pairs the requests of two rounds by their index in the plan.

A pair is complete when both succeeded with a first token, produced equally many tokens, and their
prompts were equally long up to the salt's own length. Incomplete pairs are dropped and counted;
sentinels are never among them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from kvpipe.records import Samples, Stratum
from kvreport.early import token_first
from kvreport.rounds import COLD_STRATA, Round

Floats = npt.NDArray[np.float64]
Metric = Literal["ttft_s", "ttft_due_s", "e2e_s", "tpot_s", "second_token_s"]
METRICS: tuple[Metric, ...] = ("ttft_s", "ttft_due_s", "e2e_s", "tpot_s", "second_token_s")
Reason = Literal[
    "failed in one", "failed in both", "no first token", "output tokens", "prompt tokens"
]

SALT_TOKENS = 32
"""How many tokens a salt's own text may add or take: no_reuse salts every request differently."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairs:
    """The complete pairs of two rounds, one row each, in order of index.

    `base` and `other` hold a column per metric with nan where a round has no value. `planned`
    counts the requests that both rounds know; `hashed` the pairs whose answers' hashes are known
    on both sides, `differing` those of them that differ.
    """

    index: list[int]
    group: list[str | None]
    stratum: list[Stratum]
    base: dict[Metric, Floats]
    other: dict[Metric, Floats]
    planned: int
    dropped: Counter[Reason]
    hashed: int = 0
    differing: int = 0

    @property
    def dropped_ratio(self) -> float:
        return self.dropped.total() / self.planned if self.planned else 0.0

    def cold_rows(self) -> npt.NDArray[np.bool_]:
        """Rows of leaders and uniques."""
        return np.array([one in COLD_STRATA for one in self.stratum], dtype=bool)


@dataclass(frozen=True, slots=True)
class _Row:
    """One request of one round."""

    samples: Samples
    at: int

    def value(self, metric: Metric) -> float:
        column: list[float | None] = getattr(self.samples, metric)
        found = column[self.at]
        return float("nan") if found is None else found

    @property
    def ok(self) -> bool:
        return self.samples.ok[self.at]

    @property
    def sha(self) -> str | None:
        return self.samples.output_sha256[self.at]


def pair(bases: Sequence[Round], other: Round) -> Pairs | None:
    """Complete pairs of a round with its base; with two bases their mean is the pair's base value.

    None where a round has no samples (old stats files).
    """
    found = [_pair(base, other) for base in bases]
    if any(one is None for one in found) or not found:
        return None
    pairs = [one for one in found if one]
    return pairs[0] if len(pairs) == 1 else _averaged(pairs)


def _pair(base: Round, other: Round) -> Pairs | None:
    ours, theirs = base.stats.samples, other.stats.samples
    if ours is None or theirs is None:
        return None
    tolerance = 0 if _same_salt(base, other) else SALT_TOKENS
    # One of them may have got its first token from the prefiller, which its usage does not count.
    early = int(token_first(base.stats) != token_first(other.stats))
    rows = _rows(ours), _rows(theirs)
    common = sorted(rows[0].keys() & rows[1].keys())
    dropped: Counter[Reason] = Counter()
    kept: list[tuple[_Row, _Row]] = []
    for index in common:
        one, two = rows[0][index], rows[1][index]
        reason = _incomplete(one, two, tolerance, early)
        if reason:
            dropped[reason] += 1
        else:
            kept.append((one, two))
    hashed = [(one.sha, two.sha) for one, two in kept if one.sha and two.sha]
    return Pairs(
        index=[one.samples.index[one.at] for one, _ in kept],
        group=[one.samples.group[one.at] for one, _ in kept],
        stratum=[one.samples.stratum[one.at] for one, _ in kept],
        base={name: np.array([one.value(name) for one, _ in kept]) for name in METRICS},
        other={name: np.array([two.value(name) for _, two in kept]) for name in METRICS},
        planned=len(common),
        dropped=dropped,
        hashed=len(hashed),
        differing=sum(one != two for one, two in hashed),
    )


def sentinel_pairs(base: Round, other: Round, metric: Metric) -> tuple[Floats, Floats] | None:
    """Values of the sentinels that succeeded in both rounds; None if there are none.

    Their text is new in every round, so neither its length nor their answers need be equal.
    """
    ours, theirs = base.stats.samples, other.stats.samples
    if ours is None or theirs is None:
        return None
    left, right = _rows(ours, sentinels=True), _rows(theirs, sentinels=True)
    values = [
        (left[index].value(metric), right[index].value(metric))
        for index in sorted(left.keys() & right.keys())
        if left[index].ok and right[index].ok
    ]
    told = [(one, two) for one, two in values if one > 0 and two > 0]
    if not told:
        return None
    return np.array([one for one, _ in told]), np.array([two for _, two in told])


def _rows(samples: Samples, *, sentinels: bool = False) -> dict[int, _Row]:
    return {
        index: _Row(samples, at)
        for at, index in enumerate(samples.index)
        if (samples.stratum[at] == "sentinel") == sentinels
    }


def _same_salt(base: Round, other: Round) -> bool:
    """Whether both rounds' prompts carry the very same salt text, so that lengths must be equal."""
    if base.run is None or other.run is None:
        return True
    if "no_reuse" in (base.arm, other.arm):
        return False
    return base.run.salt == other.run.salt


def _incomplete(one: _Row, two: _Row, tolerance: int, early: int) -> Reason | None:
    if one.ok != two.ok:
        return "failed in one"
    if not one.ok:
        return "failed in both"
    if np.isnan(one.value("ttft_s")) or np.isnan(two.value("ttft_s")):
        return "no first token"
    if _unequal(one.samples.output_tokens[one.at], two.samples.output_tokens[two.at], early):
        return "output tokens"
    if _unequal(one.samples.prompt_tokens[one.at], two.samples.prompt_tokens[two.at], tolerance):
        return "prompt tokens"
    return None


def _unequal(one: int | None, two: int | None, tolerance: int) -> bool:
    """Known on both sides and further apart than allowed; what is not reported is not unequal."""
    return one is not None and two is not None and abs(one - two) > tolerance


def _averaged(pairs: list[Pairs]) -> Pairs:
    """Pairs with the mean of several bases, over the requests that are complete in all of them."""
    rows = [{index: at for at, index in enumerate(one.index)} for one in pairs]
    common = sorted(set.intersection(*(set(one) for one in rows)))
    at = [[row[index] for index in common] for row in rows]
    first = pairs[0]
    return Pairs(
        index=common,
        group=[first.group[place] for place in at[0]],
        stratum=[first.stratum[place] for place in at[0]],
        base={
            name: np.mean([one.base[name][at[n]] for n, one in enumerate(pairs)], axis=0)
            for name in METRICS
        },
        other={name: first.other[name][at[0]] for name in METRICS},
        planned=first.planned,
        dropped=max((one.dropped for one in pairs), key=lambda one: one.total()),
    )
