"""Prometheus text as numbers by series; knows the format, not what any series means.

Format: https://prometheus.io/docs/instrumenting/exposition_formats/. Timestamps behind values and
unknown comment lines are skipped, as are lines that are no sample: a metrics page that is broken in
one place still tells the rest.
"""

from __future__ import annotations

import re

_SAMPLE = re.compile(
    r"""^(?P<name>[a-zA-Z_:][a-zA-Z0-9_:]*)
        (?P<labels>\{(?:[^"}]|"(?:[^"\\]|\\.)*")*\})?
        \s+(?P<value>[^\s]+)""",
    re.VERBOSE,
)
_LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)\s*=\s*"((?:[^"\\]|\\.)*)"')
_TYPE = re.compile(r"^#\s+TYPE\s+(\S+)\s+(\S+)")
_ESCAPES = {"\\n": "\n", '\\"': '"', "\\\\": "\\"}
_COUNTED = {"counter": ("", "_total"), "histogram": ("_sum", "_count")}
_COUNTED["summary"] = _COUNTED["histogram"]


def parse(text: str) -> dict[str, float]:
    """Value by series as written (`name{labels}`); histogram buckets and non-numbers left out."""
    series: dict[str, float] = {}
    for line in text.split("\n"):
        match = _SAMPLE.match(line)
        if match is None or match["name"].endswith("_bucket"):
            continue
        try:
            value = float(match["value"])
        except ValueError:
            continue
        if value == value and abs(value) != float("inf"):
            series[match["name"] + (match["labels"] or "")] = value
    return series


def name_of(key: str) -> str:
    """`vllm:prompt_tokens_total` of `vllm:prompt_tokens_total{engine="0"}`."""
    return key.partition("{")[0]


def labels_of(key: str) -> dict[str, str]:
    """Labels of a series, unescaped; empty if it has none."""
    inside = key.partition("{")[2]
    return {
        name: re.sub(r'\\[n"\\]', lambda found: _ESCAPES[found[0]], value)
        for name, value in _LABEL.findall(inside)
    }


def counted_names(text: str) -> frozenset[str]:
    """Names that only ever rise by their TYPE: counters, and sums and counts of histograms."""
    names: set[str] = set()
    for line in text.split("\n"):
        match = _TYPE.match(line)
        if match is not None:
            names.update(match[1] + ending for ending in _COUNTED.get(match[2], ()))
    return frozenset(names)
