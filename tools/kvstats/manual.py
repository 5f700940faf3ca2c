"""Tables of the manual page, from the docstrings: `python -m kvstats.manual metrics|findings`."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Mapping
from typing import Any

from kvpipe.process import UsageError
from kvstats import (
    answers,
    calibration,
    client,
    conditions,
    contamination,
    delivery,
    exclusive,
    loss,
    metrics,
    overload,
    tiers,
    transfers,
)
from kvstats.imports import heads

METRICS: Mapping[str, Callable[..., Any]] = {
    **metrics.REQUEST_METRICS,
    "itl_s": metrics.itl_s,
    "total_time_s": metrics.total_time_s,
    "..._throughput_rps, ..._tps, goodput_rps": metrics.throughput,
    "steady_throughput_rps": metrics.steady_rate_rps,
    "hit_ratio, ideal_hit_ratio": metrics.hit_ratio,
    "efficiency": metrics.efficiency,
    "ideal_tokens": metrics.reusable,
}

FINDINGS: Mapping[str, Callable[..., Any]] = {
    "contaminated": contamination.contaminated,
    "cold_not_shown": contamination.cold_not_shown,
    "lost": loss.lost,
    "pd_transfer": transfers.pd_transfer,
    "token_first": transfers.token_first,
    "tier_not_shown": tiers.tier_not_shown,
    "foreign_traffic": exclusive.foreign_traffic,
    "restarted": exclusive.restarted,
    "overload": overload.overload,
    "stream_buffered": delivery.stream_buffered,
    "stamps_mixed": delivery.stamps_mixed,
    "client_limited": client.client_limited,
    "client_limited, as calibrated": calibration.client_error,
    "calibration_unfit": calibration.calibration_unfit,
    "cached_tokens_not_reported": conditions.cached_tokens_not_reported,
    "errors": conditions.errors,
    "incomplete": conditions.incomplete,
    "not_isolated": conditions.not_isolated,
    "barrier_unknown": conditions.barrier_unknown,
    "uncalibrated": conditions.uncalibrated,
    "imported": heads.imported,
    "answers_differ": answers.answers_differ,
    "simulated": conditions.simulated,
}

_PART = re.compile(
    r"(?P<name>Formula|Unit|Null): (?P<text>.*?)(?=\n(?:Formula|Unit|Null): |\Z)", re.S
)


def metric_table() -> str:
    """Name, meaning, formula, unit and null case of every metric."""
    lines = [
        "| metric | what it is | formula | unit | null when |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, metric in METRICS.items():
        text = inspect.getdoc(metric) or ""
        head, _, _ = text.partition("\n\n")
        parts = {found["name"]: _line(found["text"]) for found in _PART.finditer(text)}
        cells = [f"`{name}`", _line(head), parts["Formula"], parts["Unit"], parts["Null"]]
        lines.append(_row(cells))
    return "\n".join(lines)


def finding_table() -> str:
    """Code and meaning of every finding that kvstats makes itself."""
    lines = ["| finding | what it says; its severity |", "| --- | --- |"]
    for code, find in FINDINGS.items():
        lines.append(_row([f"`{code}`", _line(inspect.getdoc(find) or "")]))
    return "\n".join(lines)


def _line(text: str) -> str:
    return " ".join(text.split())


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cell.removesuffix(".").replace("|", "\\|") for cell in cells) + " |"


TABLES: Mapping[str, Callable[[], str]] = {"metrics": metric_table, "findings": finding_table}

if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] not in TABLES:
        raise UsageError(f"which table: {' or '.join(TABLES)}?")
    print(TABLES[sys.argv[1]]())
