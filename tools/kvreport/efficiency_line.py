"""What the fit of `efficiency_fit` is made from and what comes of it: rows in, a line out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.stats import t as student

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Method = Literal["repeats", "groups"]
Source = Literal["local", "store", "remote", "cached"]
SOURCES: tuple[Source, ...] = ("local", "store", "remote", "cached")
"""Where cached tokens came from; `cached` where nothing tells."""

LEVEL = 0.95
LEAST_FREEDOM = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Requests that succeeded: tokens by where they came from, seconds to the first one.

    `repeat` and `group` number what rows depend on each other by.
    """

    ttft_s: Floats
    prompt: Floats
    uncached: Floats
    cached: Mapping[Source, Floats]
    repeat: Ints
    group: Ints

    def __len__(self) -> int:
        return len(self.ttft_s)

    def kept(self, rows: npt.NDArray[np.bool_]) -> Rows:
        return Rows(
            ttft_s=self.ttft_s[rows],
            prompt=self.prompt[rows],
            uncached=self.uncached[rows],
            cached={name: values[rows] for name, values in self.cached.items()},
            repeat=self.repeat[rows],
            group=self.group[rows],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A figure with its 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def shown(self) -> bool:
        """Whether it is above zero with its whole interval."""
        return self.low > 0

    def inverse(self) -> Span:
        """1 / x; only where the interval lies above zero."""
        return Span(value=1 / self.value, low=1 / self.high, high=1 / self.low)


@dataclass(frozen=True, slots=True)
class Leverage:
    """What the degrees of freedom of a contrast follow from: X'X of each group and of the rest.

    `inverse` is that of the whole, `rest[g]` that of all rows but the group's.
    """

    inverse: Floats
    gram: Floats
    rest: Floats

    def freedom(self, vector: Floats) -> float:
        """Bell and McCaffrey's, for independent errors: tr(G'G)^2 / tr((G'G)^2)."""
        moved = self.rest @ vector
        own = np.einsum("gi,gij,gj->g", moved, self.gram, moved)
        reach = np.einsum("gij,gj->gi", self.gram, moved)
        # G'G is diag(own) - reach inverse reach', as wide as there are groups: its traces will do.
        inner = self.inverse @ reach.T @ reach
        hats = np.einsum("gi,ij,gj->g", reach, self.inverse, reach)
        trace = float(own.sum() - np.trace(inner))
        square = float((own**2).sum() - 2 * (own * hats).sum() + np.trace(inner @ inner))
        return trace**2 / square if square > 0 else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """Coefficients by name, with what their sums spread by.

    `leverage` is that of one run's groups; None: t keeps `units` - 1 degrees of freedom.
    """

    terms: tuple[str, ...]
    beta: Floats
    covariance: Floats
    method: Method
    units: int
    fitted: Floats
    leverage: Leverage | None = None

    def contrast(self, weights: Mapping[str, float]) -> Span:
        """A sum of coefficients; KeyError for a coefficient that was not fitted."""
        value, low, high = self.contrasts({name: np.array([one]) for name, one in weights.items()})
        return Span(value=float(value[0]), low=float(low[0]), high=float(high[0]))

    def contrasts(self, weights: Mapping[str, Floats]) -> tuple[Floats, Floats, Floats]:
        """Several at once: their values, and both ends of their intervals."""
        unknown = set(weights) - set(self.terms)
        if unknown:
            raise KeyError(f"not fitted: {', '.join(sorted(unknown))}")
        count = len(next(iter(weights.values())))
        columns = [weights.get(name, np.zeros(count)) for name in self.terms]
        vectors = np.column_stack(columns)
        values = vectors @ self.beta
        spread = np.einsum("ni,ij,nj->n", vectors, self.covariance, vectors)
        half = self._quantiles(vectors) * np.sqrt(np.maximum(spread, 0.0))
        return values, values - half, values + half

    def _quantiles(self, vectors: Floats) -> Floats:
        """Student's t for each; one run's groups have degrees of freedom by contrast."""
        if self.leverage is None:
            return np.full(len(vectors), student.ppf(0.5 + LEVEL / 2, self.units - 1))
        freedoms = [max(LEAST_FREEDOM, self.leverage.freedom(one)) for one in vectors]
        return np.asarray(student.ppf(0.5 + LEVEL / 2, freedoms))

    def term(self, name: str) -> Span:
        return self.contrast({name: 1.0})

    def has(self, name: str) -> bool:
        return name in self.terms


@dataclass(frozen=True, slots=True)
class Refused:
    """Why there is no fit."""

    reason: str
