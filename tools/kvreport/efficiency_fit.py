"""The line through TTFT: what a computed token costs, what a cached one does, and how sure that is.

    TTFT = a + b * uncached + b2 * uncached^2 + sum over tiers of (c * cached + d * [cached > 0])

`d` is the fixed cost of asking a tier beyond the engine's own memory: without it a load could never
lose against computing a few tokens, and no break-even length would exist. Coefficients are not held
above zero: an interval cut off at a bound covers less than it says. One that is negative with its
whole interval is told, and nothing is derived from it.

Timings spread in proportion to their size, so that rows are weighed by 1 / fitted^2. Repeats are
the unit: with three or more, each is fitted by itself and Student's t stands over their
coefficients (Ibragimov and Mueller 2010). One run speaks for itself alone: its groups are left out
in turn (the cluster jackknife, CR3), and t has the degrees of freedom of Bell and McCaffrey (2002):
few, where few groups say anything about a coefficient, however many there are in all.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from kvreport.efficiency_line import (
    SOURCES,
    Fit,
    Floats,
    Ints,
    Leverage,
    Method,
    Refused,
    Rows,
    Source,
)

LEAST_REPEATS = 3
LEAST_GROUPS = 5
"""Groups beyond the coefficients that one run needs: fewer say too little about their spread."""
LEAST_ROWS = 4
"""Requests that a coefficient must be able to show itself in."""
TELLS = 0.02
"""Part of a column that the others must leave unexplained, or its coefficient is not told apart."""
APART = 1.25
"""Lengths of one level differ by less than this."""
SINGULAR = 1e-9
"""Smallest eigenvalue, of columns of length 1, below which what is left tells nothing apart."""
PASSES = 4


def levels(values: Floats) -> list[float]:
    """Mean of each group of lengths that differ by less than a quarter, ascending."""
    found: list[list[float]] = []
    for value in np.sort(values).tolist():
        if found and value <= found[-1][0] * APART + 16:
            found[-1].append(value)
        else:
            found.append([value])
    return [sum(one) / len(one) for one in found]


def fit(rows: Rows) -> Fit | Refused:
    """The fit, with as many terms as the rows can tell apart; or why there is none."""
    terms = _terms(rows)
    if isinstance(terms, Refused):
        return terms
    beta, fitted, scale = _weighed(rows, terms)
    repeats = np.unique(rows.repeat)
    if len(repeats) == 2:
        return Refused("two_repeats")  # two values give no interval, as everywhere
    if len(repeats) >= LEAST_REPEATS:
        each = [_alone(rows, terms, scale, rows.repeat == one) for one in repeats]
        if any(one is None for one in each):
            return _left_out(rows, terms, beta, fitted, scale, rows.repeat, "repeats")
        found = np.array([one for one in each if one is not None])
        return Fit(
            terms=terms,
            beta=found.mean(axis=0),
            covariance=np.atleast_2d(np.cov(found, rowvar=False)) / len(found),
            method="repeats",
            units=len(found),
            fitted=_design(rows, terms) @ found.mean(axis=0),
        )
    return _left_out(rows, terms, beta, fitted, scale, rows.group, "groups")


def held_out(rows: Rows, out: npt.NDArray[np.bool_], terms: tuple[str, ...]) -> Floats | None:
    """TTFT of the rows that were left out, as the others predict it; None: they cannot."""
    rest = rows.kept(~out)
    if len(rest) <= len(terms) or not all(_tells(_design(rest, terms))):
        return None
    beta, _, _ = _weighed(rest, terms)
    return np.asarray(_design(rows.kept(out), terms) @ beta)


def _terms(rows: Rows) -> tuple[str, ...] | Refused:
    """The terms that these rows can tell apart.

    The fixed cost of a load is given up where loads are of one length. The quadratic part never is:
    without it a bend goes into the other coefficients, and makes a hit cost what it does not.
    """
    if len(rows) < LEAST_ROWS * 2:
        return Refused("few_requests")
    if len(levels(rows.prompt)) < 2:
        return Refused("one_length")
    sources = modelled(rows)
    loaded = [
        name
        for name in sources
        if name != "local" and len(levels(rows.cached[name][rows.cached[name] > 0])) > 1
    ]
    costs = tuple(f"c_{name}" for name in sources)
    for fixed in (tuple(f"d_{name}" for name in loaded), ()):
        terms = ("a", "b", "b2", *costs, *fixed)
        if len(rows) > len(terms) and all(_tells(_design(rows, terms))):
            return terms
    return Refused("few_lengths")


def modelled(rows: Rows) -> list[Source]:
    """Where cached tokens came from in enough requests for a coefficient of their own."""
    return [name for name in SOURCES if int((rows.cached[name] > 0).sum()) >= LEAST_ROWS]


def usable(rows: Rows) -> npt.NDArray[np.bool_]:
    """Rows whose cached tokens all have a coefficient, of repeats that can stand alone.

    Where none can, the repeats stay: each may carry a length of its own.
    """
    kept = np.ones(len(rows), dtype=bool)
    for name in set(SOURCES) - set(modelled(rows)):
        kept &= rows.cached[name] == 0
    terms = _terms(rows.kept(kept))
    if isinstance(terms, Refused):
        return kept
    alone = [one for one in np.unique(rows.repeat[kept]) if _identified(rows, terms, kept, one)]
    return kept & np.isin(rows.repeat, alone) if alone else kept


def _identified(
    rows: Rows, terms: tuple[str, ...], kept: npt.NDArray[np.bool_], repeat: int
) -> bool:
    design = _design(rows.kept(kept & (rows.repeat == repeat)), terms)
    return len(design) > len(terms) and all(_tells(design))


def _design(rows: Rows, terms: Sequence[str]) -> Floats:
    columns = {"a": np.ones(len(rows)), "b": rows.uncached, "b2": rows.uncached**2}
    for name, tokens in rows.cached.items():
        columns[f"c_{name}"] = tokens
        columns[f"d_{name}"] = (tokens > 0).astype(np.float64)
    return np.column_stack([columns[name] for name in terms])


def _tells(design: Floats) -> list[bool]:
    """For each column whether the others leave enough of it unexplained."""
    told = []
    for at in range(design.shape[1]):
        column, others = design[:, at], np.delete(design, at, axis=1)
        size = float(np.linalg.norm(column))
        if not size:
            told.append(False)
            continue
        scales = np.linalg.norm(others, axis=0)
        others = others / np.where(scales > 0, scales, 1.0)
        left = column - others @ np.linalg.lstsq(others, column, rcond=None)[0]
        told.append(float(np.linalg.norm(left)) / size > TELLS)
    return told


def _solved(design: Floats, values: Floats, scale: Floats) -> Floats:
    """Least squares of relative errors; columns are brought to one size first."""
    weighed = design / scale[:, None]
    sizes = np.linalg.norm(weighed, axis=0)
    sizes = np.where(sizes > 0, sizes, 1.0)
    return np.asarray(np.linalg.lstsq(weighed / sizes, values / scale, rcond=None)[0] / sizes)


def _weighed(rows: Rows, terms: Sequence[str]) -> tuple[Floats, Floats, Floats]:
    """Coefficients, fitted values, and the size that errors are taken relative to."""
    design, floor = _design(rows, terms), float(np.min(rows.ttft_s)) / 2
    scale = np.full(len(rows), float(np.mean(rows.ttft_s)))
    for _ in range(PASSES):
        beta = _solved(design, rows.ttft_s, scale)
        fitted = design @ beta
        scale = np.maximum(fitted, floor)
    return beta, fitted, scale


def _alone(
    rows: Rows, terms: Sequence[str], scale: Floats, kept: npt.NDArray[np.bool_]
) -> Floats | None:
    """Coefficients from some rows; None where these cannot tell them apart."""
    design = _design(rows.kept(kept), terms)
    if len(design) <= len(terms) or not all(_tells(design)):
        return None
    return _solved(design, rows.ttft_s[kept], scale[kept])


def _left_out(
    rows: Rows,
    terms: tuple[str, ...],
    beta: Floats,
    fitted: Floats,
    scale: Floats,
    unit: Ints,
    method: Method,
) -> Fit | Refused:
    """Each unit is left out once, and the spread of what remains is the error."""
    units = np.unique(unit)
    if method == "groups" and len(units) - len(terms) < LEAST_GROUPS:
        return Refused("few_groups")
    weighed = _design(rows, terms) / scale[:, None]
    sizes = np.linalg.norm(weighed, axis=0)
    weighed = weighed / sizes
    place = np.searchsorted(units, unit)
    gram = _summed(np.einsum("ni,nj->nij", weighed, weighed), place, len(units))
    score = _summed(weighed * (rows.ttft_s / scale)[:, None], place, len(units))
    rest = gram.sum(axis=0) - gram
    if float(np.linalg.eigvalsh(rest).min()) < SINGULAR:
        return Refused("collinear")
    inverses = np.linalg.inv(rest)
    moved = np.einsum("gij,gj->gi", inverses, score.sum(axis=0) - score) / sizes - beta
    back = np.outer(1 / sizes, 1 / sizes)
    leverage = Leverage(
        inverse=np.linalg.inv(gram.sum(axis=0)) * back, gram=gram / back, rest=inverses * back
    )
    return Fit(
        terms=terms,
        beta=beta,
        covariance=(len(units) - 1) / len(units) * moved.T @ moved,
        method=method,
        units=len(units),
        fitted=fitted,
        leverage=leverage if method == "groups" else None,
    )


def _summed(values: Floats, place: Ints, count: int) -> Floats:
    """Sums over the rows of each unit."""
    total = np.zeros((count, *values.shape[1:]))
    np.add.at(total, place, values)
    return total
