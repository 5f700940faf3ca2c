"""Figures out of a fit: what computing and loading cost, and from which length loading wins.

The break-even is where the cost of computing n tokens less that of loading them crosses zero. Its
interval is Fieller's: every length at which that difference cannot be told from zero. Where it has
no end within what was measured, there is no figure.
"""

from __future__ import annotations

from typing import Literal

import msgspec
import numpy as np
import numpy.typing as npt

from kvreport.efficiency_line import Fit, Floats, Source, Span

Word = Literal["from", "never", "none"]
GRID = 512
"""Lengths at which the difference is looked at, up to the longest that was measured."""


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """A figure with its 95 % interval, of a tier and at a length where it has those.

    `value`, `low` and `high` are null together; `reason` is then the code of why.
    """

    name: str
    source: str | None = None
    at_tokens: float | None = None
    value: float | None = None
    low: float | None = None
    high: float | None = None
    reason: str | None = None


class BreakEven(msgspec.Struct, frozen=True, kw_only=True):
    """From which length loading from a tier beats computing.

    `from`: from `tokens` on, which is between `low` and `high`. `never`: at no length up to
    `longest`. `none`: not to be told, for `reason`.
    """

    source: str
    word: Word
    longest: float
    tokens: float | None = None
    low: float | None = None
    high: float | None = None
    reason: str | None = None


def figure(
    name: str,
    span: Span,
    *,
    source: str | None = None,
    at: float | None = None,
    signed: bool = False,
) -> Figure:
    """The figure; without a value where zero is not excluded, or where less than zero is shown.

    `signed`: a figure that may be negative.
    """
    reason = None
    if span.low <= 0 <= span.high:
        reason = "contains_zero"
    elif span.high < 0 and not signed:
        reason = "negative"
    if reason:
        return Figure(name=name, source=source, at_tokens=at, reason=reason)
    return Figure(
        name=name, source=source, at_tokens=at, value=span.value, low=span.low, high=span.high
    )


def inverse(
    name: str,
    cost: Span,
    *,
    source: str | None = None,
    at: float | None = None,
    times: float = 1.0,
) -> Figure:
    """A speed out of seconds a token."""
    if not cost.shown:
        return figure(name, cost, source=source, at=at)
    speed = cost.inverse()
    return Figure(
        name=name,
        source=source,
        at_tokens=at,
        value=speed.value * times,
        low=speed.low * times,
        high=speed.high * times,
    )


def prefill_cost(found: Fit, tokens: float) -> Span:
    """Seconds a token of computing a prompt of this length."""
    return found.contrast({"b": 1.0} | ({"b2": tokens} if found.has("b2") else {}))


def load_cost(found: Fit, source: Source, tokens: float) -> Span:
    """Seconds a token of loading so many, the fixed cost of asking included where it is known."""
    fixed = {f"d_{source}": 1 / tokens} if found.has(f"d_{source}") else {}
    return found.contrast({f"c_{source}": 1.0} | fixed)


def worth_loading(found: Fit, source: Source, tokens: float) -> Span:
    """Seconds a token that a load of so many may take before computing them is as fast."""
    fixed = {f"d_{source}": -1 / tokens} if found.has(f"d_{source}") else {}
    return found.contrast({"b": 1.0} | ({"b2": tokens} if found.has("b2") else {}) | fixed)


def gain(found: Fit, source: Source, tokens: float) -> Span:
    """Seconds that loading so many saves over computing them; negative: it costs."""
    value, low, high = _gains(found, source, np.array([tokens]))
    return Span(value=float(value[0]), low=float(low[0]), high=float(high[0]))


def _gains(found: Fit, source: Source, tokens: Floats) -> tuple[Floats, Floats, Floats]:
    weights = {"b": tokens, f"c_{source}": -tokens}
    if found.has("b2"):
        weights["b2"] = tokens**2
    if found.has(f"d_{source}"):
        weights[f"d_{source}"] = -np.ones(len(tokens))
    return found.contrasts(weights)


def break_even(found: Fit, source: Source, longest: float) -> BreakEven:
    """The length from which loading wins, or why it is not known."""
    bare = BreakEven(source=source, word="none", longest=longest)
    if not found.has(f"d_{source}"):
        return msgspec.structs.replace(bare, reason="one_loaded_length")
    if found.term(f"c_{source}").high < 0 or found.term(f"d_{source}").high < 0:
        return msgspec.structs.replace(bare, reason="negative")
    lengths = np.linspace(0.0, longest, GRID + 1)[1:]
    gains, lows, highs = _gains(found, source, lengths)
    if highs[-1] < 0 and (gains < 0).all():
        return msgspec.structs.replace(bare, word="never")
    if lows[-1] <= 0:
        return msgspec.structs.replace(bare, reason="contains_zero")
    # From the longest downwards: where the gain is no longer shown, crosses zero, and is a loss.
    high, tokens, low = (_last(lengths, one) for one in (lows <= 0, gains <= 0, highs < 0))
    return msgspec.structs.replace(bare, word="from", tokens=tokens, low=low, high=high)


def _last(lengths: Floats, true: npt.NDArray[np.bool_]) -> float:
    """The longest length at which it is true; 0 where it never is."""
    found = np.flatnonzero(true)
    return float(lengths[found[-1]]) if len(found) else 0.0
