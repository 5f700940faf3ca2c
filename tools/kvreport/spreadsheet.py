"""The report as CSV: one row per scenario and metric, under a header that does not change.

Text is always quoted and numbers never are, so that a `;` or a newline in a name starts no cell of
its own. A text that a spreadsheet would take for a formula has an apostrophe before it, which
spreadsheets hide; numbers, negative ones too, stay numbers. What is not known is an empty cell.
Ratios are other by base, `low` and `high` the ends of their 95 % interval. Rows of the effect
`efficiency` are figures of an endpoint: their value stands under `other`, its interval beside it.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator

from kvpipe.records import Finding
from kvreport.capacity import Capacities
from kvreport.conclusion import Conclusion, Scenario
from kvreport.display import clean
from kvreport.effects import Effect
from kvreport.efficiency import Efficiency
from kvreport.metrics import OWN, Row, Unit
from kvreport.placed import Placed
from kvreport.targets import Result

Cell = str | int | float | None
HEADER = (
    "scenario",
    "experiment_id",
    "simulated",
    "kind",
    "tier_asked",
    "tier_served",
    "repeats",
    "effect",
    "metric",
    "unit",
    "over",
    "base_round",
    "other_round",
    "base",
    "other",
    "ratio",
    "low",
    "high",
    "interval",
    "units",
    "verdict",
    "scope",
    "verdict_by",
    "target",
    "status",
    "reason",
    "invalid",
    "warnings",
)
FORMULA = "=+-@＝＋－＠"
"""First characters that make a cell a formula, in their wide forms too."""
UNITS: dict[Unit, str] = {
    "seconds": "s",
    "duration": "s",
    "rps": "1/s",
    "tps": "tokens/s",
    "count": "1",
    "ratio": "1",
}


def render(conclusion: Conclusion) -> str:
    """Every scenario has a row at least, so that what could not be measured is not lost."""
    written = io.StringIO()
    writer = csv.writer(written, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
    writer.writerow(HEADER)
    for scenario in conclusion.scenarios:
        rows = [*_rows(scenario)] or [{}]
        for row in rows:
            whole = _of_scenario(scenario) | row
            writer.writerow([_cell(whole.get(name)) for name in HEADER])
    for one in conclusion.efficiency:
        for row in _efficiency(one):
            writer.writerow([_cell(row.get(name)) for name in HEADER])
    for case in conclusion.capacities:
        for row in _capacity(case):
            writer.writerow([_cell(row.get(name)) for name in HEADER])
    return written.getvalue()


def _cell(value: Cell) -> str | int | float:
    if value is None:
        return ""
    return harmless(value) if isinstance(value, str) else value


def harmless(text: str) -> str:
    """One line that no spreadsheet computes."""
    shown = clean(text)
    return f"'{shown}" if shown.startswith(tuple(FORMULA)) else shown


def _of_scenario(scenario: Scenario) -> dict[str, Cell]:
    return {
        "scenario": scenario.name,
        "experiment_id": scenario.experiment_id,
        "simulated": "yes" if scenario.simulated else "no",
        "kind": scenario.kind,
        "tier_asked": scenario.evidence.asked,
        "tier_served": scenario.evidence.served,
        "repeats": scenario.repeats,
        "invalid": _codes(scenario.findings, "invalid"),
        "warnings": _codes(scenario.findings, "warning"),
    }


def _rows(scenario: Scenario) -> Iterator[dict[str, Cell]]:
    results = {one.target.effect: one for one in scenario.targets}
    # What one hit is worth comes first: the first row is what a reader sees.
    effects = sorted(scenario.effects.items(), key=lambda one: one[0] != scenario.value)
    for name, effect in effects:
        yield _effect(scenario, effect) | _target(results.get(name)) | {"effect": name}
    for effect in scenario.later:
        yield _effect(scenario, effect) | {"effect": effect.other}
    for name, result in results.items():
        if name not in scenario.effects:
            yield _target(result) | {"effect": name}
    for row in scenario.metrics:
        if OWN.get(row.name, "") not in scenario.effects:
            yield _metric(row)


def _efficiency(one: Efficiency) -> Iterator[dict[str, Cell]]:
    """A row a figure of an endpoint, its value under `other`; the tier stands under `over`.

    No row where there is no fit: JSON says why.
    """
    head: dict[str, Cell] = {
        "scenario": one.name,
        "simulated": "yes" if one.simulated else "no",
        "effect": "efficiency",
        "scope": one.scope,
        "units": one.units,
    }
    for found in one.figures:
        at = "" if found.at_tokens is None else f"_at_{found.at_tokens:.0f}"
        yield head | {
            "metric": f"{found.name}{at}",
            "unit": _SPEEDS.get(found.name.rpartition("_")[2], "s"),
            "over": found.source,
            "other": found.value,
            "low": found.low,
            "high": found.high,
            "reason": found.reason,
        }
    for even in one.break_even:
        yield head | {
            "metric": "break_even_tokens",
            "unit": "tokens",
            "over": even.source,
            "verdict": even.word,
            "other": even.tokens,
            "low": even.low,
            "high": even.high,
            "reason": even.reason,
        }
    for saving in one.savings:
        yield head | {
            "metric": "saved_s_per_1000",
            "unit": "s",
            "scenario": saving.scenario,
            "other": saving.seconds.value,
            "low": saving.seconds.low,
            "high": saving.seconds.high,
            "reason": saving.seconds.reason,
        }


_SPEEDS = {"tps": "tokens/s", "bps": "B/s"}


def _capacity(case: Capacities) -> Iterator[dict[str, Cell]]:
    """Two rows: the rates that kept the SLO, with their ratio, and those that no longer did."""
    head: dict[str, Cell] = {
        "scenario": case.name,
        "experiment_id": case.experiment_id,
        "simulated": "yes" if case.simulated else "no",
        "kind": "load",
        "repeats": len(case.repeats),
        "effect": "capacity",
        "unit": "1/s",
        "base_round": "no_reuse",
        "other_round": "hit",
        "target": " ".join(f"{name}={limit:g}" for name, limit in sorted(case.slo.items())),
        "invalid": _named(case.findings, "invalid"),
        "warnings": _named(case.findings, "warning"),
    }
    yield head | {
        "metric": "passed_rps",
        "base": case.no_reuse.passed,
        "other": case.hit.passed,
        "ratio": case.ratio,
        "low": case.low,
        "high": case.high,
        "interval": "repeats" if case.low is not None or case.high is not None else None,
        "units": len(case.repeats),
        "verdict": case.verdict,
        "scope": "repeats" if case.verdict != "none" else None,
        "verdict_by": " ".join(case.reasons) or None,
    }
    yield head | {
        "metric": "failed_rps",
        "base": case.no_reuse.failed,
        "other": case.hit.failed,
    }


def _effect(scenario: Scenario, effect: Effect) -> dict[str, Cell]:
    bounds = effect.bounds() or (None, None)
    touching = scenario.touching(effect)
    return {
        "metric": effect.metric,
        "unit": "1/s" if effect.metric.endswith("_rps") else "s",
        "over": effect.over,
        "base_round": effect.base,
        "other_round": effect.other,
        "base": effect.base_mean,
        "other": effect.other_mean,
        "ratio": effect.ratio,
        "low": bounds[0],
        "high": bounds[1],
        "interval": effect.interval.method if effect.interval else None,
        "units": effect.interval.units if effect.interval else None,
        "verdict": effect.verdict.word,
        "scope": effect.verdict.scope,
        "verdict_by": " ".join(effect.verdict.by) or None,
        "invalid": _codes(touching, "invalid"),
        "warnings": _codes(touching, "warning"),
    }


def _metric(row: Row) -> dict[str, Cell]:
    """A figure of the rounds; its change, if any, is judged over repeats only."""
    effect = row.effect
    return {
        "metric": row.name,
        "unit": UNITS[row.unit],
        "base": _counted(row.base, row.unit),
        "other": _counted(row.other, row.unit),
        "ratio": effect.ratio if effect else None,
        "base_round": effect.base if effect else None,
        "other_round": effect.other if effect else None,
    }


def _counted(value: float | None, unit: Unit) -> float | int | None:
    """A count as a whole number, unless it is a mean over repeats that differ."""
    whole = unit == "count" and value is not None and value.is_integer()
    return int(value) if whole and value is not None else value


def _target(result: Result | None) -> dict[str, Cell]:
    if result is None:
        return {}
    asked = "..".join(f"{one:g}" for one in result.target.asked)
    return {
        "target": f"{result.target.name}={asked}",
        "status": result.status,
        "reason": result.reason,
    }


def _codes(findings: list[Placed], severity: str) -> str | None:
    return _named([one.finding for one in findings], severity)


def _named(findings: list[Finding], severity: str) -> str | None:
    codes = [one.code for one in findings if one.severity == severity]
    return " ".join(dict.fromkeys(codes)) or None
