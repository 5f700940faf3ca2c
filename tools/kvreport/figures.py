"""Numbers for people: milliseconds, percentages, rates. The only place where anything is rounded.

A figure and its unit are held together by a no-break space, which renderers turn into a plain one.
"""

from __future__ import annotations

from typing import Literal

from kvreport.effects import Effect

NBSP = "\u00a0"
NONE = "-"
"""What stands where there is no figure."""
Sense = Literal["reduction", "change"]


def ms(seconds: float | None) -> str:
    """`885 ms`, `60.1 ms`, `8.35 ms`: three digits, more only where the whole part has them."""
    if seconds is None:
        return NONE
    return f"{_three(seconds * 1000)}{NBSP}ms"


def _three(value: float) -> str:
    size = abs(value)
    return f"{value:.0f}" if size >= 99.95 else f"{value:.1f}" if size >= 9.995 else f"{value:.2f}"


def seconds(value: float | None) -> str:
    return NONE if value is None else f"{value:.1f}{NBSP}s"


def percent(ratio: float | None) -> str:
    """`93.2 %`; whole percents from 100 on."""
    if ratio is None:
        return NONE
    value = ratio * 100
    shown = f"{value:.0f}" if abs(value) >= 99.95 else f"{value:.1f}"
    return f"{'0.0' if shown == '-0.0' else shown}{NBSP}%"


def wish(ratio: float) -> str:
    """A target as it was asked for: `60 %`, `62.5 %`."""
    return f"{ratio * 100:g}{NBSP}%"


def change(ratio: float | None) -> str:
    """A ratio other by base as `-70.0 %` or `+192 %`."""
    if ratio is None:
        return NONE
    shown = percent(ratio - 1)
    return shown if shown.startswith(("-", "0.0")) else f"+{shown}"


def changed(ratio: float, sense: Sense) -> str:
    """The same in one of two senses: a reduction of `70.0 %` is a change of `-70.0 %`."""
    return percent(1 - ratio) if sense == "reduction" else change(ratio)


def rate(value: float | None, unit: str) -> str:
    return NONE if value is None else f"{_three(value)}{NBSP}{unit}"


def token_speed(value: float | None) -> str:
    """`18,800 tokens/s`: three digits."""
    return NONE if value is None else f"{_digits(value)}{NBSP}tokens/s"


def byte_speed(value: float | None) -> str:
    """`78.1 MB/s`, `1.25 GB/s`; powers of ten, as links are told in."""
    if value is None:
        return NONE
    size, unit = next((one for one in _BYTES if value >= one[0]), _BYTES[-1])
    return f"{_three(value / size)}{NBSP}{unit}"


def tokens(value: float | None) -> str:
    """`53`, `470`, `2,700`: three digits, and no part of a token."""
    return NONE if value is None else _digits(round(value))


def micros(value: float | None) -> str:
    """Seconds as `51.4 µs`."""
    return NONE if value is None else f"{_three(value * 1e6)}{NBSP}µs"


def picos(value: float | None) -> str:
    """Seconds as `3,730 ps`: what the quadratic part of a prefill is told in."""
    return NONE if value is None else f"{_digits(value * 1e12)}{NBSP}ps"


def engine_seconds(value: float | None) -> str:
    """`200 s`, `12.4 s`."""
    return NONE if value is None else f"{_three(value)}{NBSP}s"


def _digits(value: float) -> str:
    """Three of them, with separators."""
    return f"{float(f'{value:.3g}'):,.0f}" if abs(value) >= 100 else f"{value:.3g}"


_BYTES = ((1e9, "GB/s"), (1e6, "MB/s"), (1e3, "kB/s"), (1.0, "B/s"))


def times(ratio: float) -> str:
    """`3.20×`."""
    return f"{_three(ratio)}×"


def count(value: float | None) -> str:
    """`21,504`."""
    return NONE if value is None else f"{value:,.0f}"


def figure(name: str, value: float | None) -> str:
    """A value of a metric in the unit that people read it in."""
    if name.endswith("_rps"):
        return rate(value, "req/s")
    return ms(value)


def span(effect: Effect, sense: Sense = "change") -> tuple[str, str] | None:
    """Both ends of the interval, `-94.1` and `-92.0 %`, or as a reduction `92.0` and `94.1 %`."""
    bounds = effect.bounds()
    if bounds is None:
        return None
    if sense == "reduction":
        bounds = bounds[1], bounds[0]
    first, last = (changed(bound, sense) for bound in bounds)
    return first.removesuffix(NBSP + "%"), last
