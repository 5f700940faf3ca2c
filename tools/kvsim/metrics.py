"""Prometheus text, with the habits of Python's prometheus_client (see ``Registry.render``)."""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Generic, TypeVar

Labels = tuple[tuple[str, str], ...]


def go_float(value: float) -> str:
    """A number as prometheus_client prints it: ``1.0``, ``2.29681152e+09``."""
    if value == float("inf"):
        return "+Inf"
    text = repr(float(value))
    dot = text.find(".")
    if value > 0 and dot > 6 and "e" not in text:
        mantissa = f"{text[0]}.{text[1:dot]}{text[dot + 1 :]}".rstrip("0.")
        return f"{mantissa}e+{dot - 1:02}"
    return text


def sample(name: str, labels: Labels, value: str) -> str:
    if not labels:
        return f"{name} {value}"
    inside = ",".join(f'{key}="{text}"' for key, text in sorted(labels))
    return f"{name}{{{inside}}} {value}"


class Series:
    """One number under one set of labels."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0

    def add(self, amount: float = 1.0) -> None:
        self.value += amount

    def lines(self, name: str, labels: Labels) -> Iterable[str]:
        yield sample(name, labels, go_float(self.value))


class HistogramSeries:
    """Counts by bucket, and their sum."""

    __slots__ = ("_bounds", "_counts", "_sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = (*bounds, float("inf"))
        self._counts = [0] * len(self._bounds)
        self._sum = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        self._counts[bisect_left(self._bounds, value)] += times
        self._sum += value * times

    def lines(self, name: str, labels: Labels) -> Iterable[str]:
        seen = 0
        for bound, count in zip(self._bounds, self._counts, strict=True):
            seen += count
            le = (*labels, ("le", go_float(bound)))
            yield sample(name + "_bucket", le, go_float(seen))
        yield sample(name + "_count", labels, go_float(seen))
        yield sample(name + "_sum", labels, go_float(self._sum))


class SummarySeries(HistogramSeries):
    """Count and sum alone."""

    __slots__ = ()

    def lines(self, name: str, labels: Labels) -> Iterable[str]:
        yield sample(name + "_count", labels, go_float(sum(self._counts)))
        yield sample(name + "_sum", labels, go_float(self._sum))


S = TypeVar("S", Series, HistogramSeries, SummarySeries)


class Family(Generic[S]):
    """All series of one name."""

    def __init__(self, name: str, text: str, kind: str, make: Callable[[], S]) -> None:
        self.name, self.text, self.kind = name, text, kind
        self._make: Callable[[], S] = make
        self._series: dict[Labels, S] = {}

    def at(self, labels: Mapping[str, str]) -> S:
        """The series with these labels, made at zero when it is new."""
        key = tuple(labels.items())
        if key not in self._series:
            self._series[key] = self._make()
        return self._series[key]

    def lines(self, created_s: float) -> Iterable[str]:
        yield f"# HELP {self.name} {self.text}"
        yield f"# TYPE {self.name} {self.kind}"
        for labels, series in self._series.items():
            yield from series.lines(self.name, labels)
        if self.kind == "gauge":
            return
        name = self.name.removesuffix("_total") if self.kind == "counter" else self.name
        yield f"# HELP {name}_created {self.text}"
        yield f"# TYPE {name}_created gauge"
        for labels in self._series:
            yield sample(name + "_created", labels, go_float(created_s))


class Registry:
    """Families in the order in which they were made."""

    def __init__(self, created_s: float) -> None:
        self.created_s = created_s
        self._families: list[Family[Series] | Family[HistogramSeries] | Family[SummarySeries]] = []

    def counter(self, name: str, text: str) -> Family[Series]:
        """The exposed name gets ``_total``, as prometheus_client does it."""
        family = Family(name + "_total", text, "counter", Series)
        self._families.append(family)
        return family

    def gauge(self, name: str, text: str) -> Family[Series]:
        family = Family(name, text, "gauge", Series)
        self._families.append(family)
        return family

    def histogram(self, name: str, text: str, bounds: Sequence[float]) -> Family[HistogramSeries]:
        family = Family(name, text, "histogram", lambda: HistogramSeries(bounds))
        self._families.append(family)
        return family

    def summary(self, name: str, text: str) -> Family[SummarySeries]:
        family = Family(name, text, "summary", lambda: SummarySeries(()))
        self._families.append(family)
        return family

    def render(self) -> str:
        """A ``_created`` gauge stands beside every counter, histogram and summary."""
        lines = [line for family in self._families for line in family.lines(self.created_s)]
        return "\n".join(lines) + "\n"
