"""The tables of a scenario's details: metrics by round, TTFT by stratum, and the rounds."""

from __future__ import annotations

from kvpipe.records import RoundStats
from kvreport import figures, phrasing
from kvreport.conclusion import Scenario, Shown
from kvreport.document import Align, Table
from kvreport.metrics import Row, StratumRow, Unit
from kvreport.words import Words


def metrics_table(scenario: Scenario, words: Words) -> Table:
    """`Metric | Round 1 | Round 2 | Change`: all that the rounds carry.

    With the interval of each change where repeats give one.
    """
    many = scenario.repeats > 1
    caption = words.say(
        "table_metrics_repeats" if many else "table_metrics", repeats=scenario.repeats
    )
    cold = any(one.role == "cold" for one in scenario.rounds)
    first = words.say("col_round_1" if cold else "col_bare")
    columns = [words.say("col_metric"), first, words.say("col_round_2"), words.say("col_change")]
    align: list[Align] = ["left", "right", "right", "right"]
    rows = [
        [
            words.say(f"m_{one.name}"),
            shaped(one.base, one.unit),
            shaped(one.other, one.unit),
            _change(one, scenario, words),
        ]
        for one in scenario.metrics
    ]
    spans = [_span(one, scenario, words) for one in scenario.metrics]
    if any(spans):
        columns, align = [*columns, words.say("col_interval")], [*align, "right"]
        rows = [[*row, span or words.say("none")] for row, span in zip(rows, spans, strict=True)]
    return Table(
        caption=phrasing.warned_caption(caption, scenario, words),
        columns=columns,
        align=align,
        rows=rows,
    )


def shaped(value: float | None, unit: Unit) -> str:
    match unit:
        case "seconds":
            return figures.ms(value)
        case "duration":
            return figures.seconds(value)
        case "count":
            return figures.count(value)
        case "ratio":
            return figures.percent(value)
    return figures.rate(value, "req/s" if unit == "rps" else "tok/s")


def _change(row: Row, scenario: Scenario, words: Words) -> str:
    if scenario.open_loop and row.unit in ("rps", "tps"):
        return words.say("no_percentage", reason=phrasing.reason("offered_rate", words))
    if row.effect is None:
        return words.say("none")
    return phrasing.change_cell(scenario, row.effect, words, captioned=True)


def _span(row: Row, scenario: Scenario, words: Words) -> str | None:
    """The interval of a change that is shown; None where none is."""
    if row.effect is None or scenario.refused:
        return None
    if scenario.open_loop and row.unit in ("rps", "tps"):
        return None
    return phrasing.span_of(row.effect, words)


def strata_table(scenario: Scenario, words: Words) -> Table:
    many = scenario.repeats > 1
    caption = words.say(
        "table_strata_repeats" if many else "table_strata", repeats=scenario.repeats
    )
    columns = ("kind", "round", "n", "mean", "median", "p90", "p99")
    align: list[Align] = ["left", "left", "right", "right", "right", "right", "right"]
    return Table(
        caption=phrasing.caption(caption, scenario, words),
        columns=[words.say(f"col_{column}") for column in columns],
        align=align,
        rows=[_stratum(one, words) for one in scenario.strata],
    )


def _stratum(row: StratumRow, words: Words) -> list[str]:
    return [
        words.say(f"stratum_{row.stratum}"),
        role_name(row.role, words),
        figures.count(row.n),
        *(figures.ms(value) for value in (row.mean, row.p50, row.p90, row.p99)),
    ]


def role_name(role: str, words: Words) -> str:
    if role.startswith("round "):
        return words.say("role_later", number=role.removeprefix("round "))
    return words.say(f"role_{role}")


def rounds_table(scenario: Scenario, words: Words) -> Table:
    """One row a round: how many answered, how soon, what was cached, and what proves it."""
    columns = ["round", "repeat", "ok", "ttft", "cached", "ideal", "served", "proof"]
    align: list[Align] = ["left", "right", "right", "right", "right", "right", "left", "left"]
    rows = [_round(one, words) for one in scenario.rounds]
    if scenario.repeats == 1:
        del columns[1], align[1]
        rows = [[first, *rest] for first, _, *rest in rows]
    return Table(
        caption=phrasing.caption(words.say("table_rounds"), scenario, words),
        columns=[words.say(f"col_{column}") for column in columns],
        align=align,
        rows=rows,
    )


def _round(shown: Shown, words: Words) -> list[str]:
    stats = shown.stats
    served = words.say(f"served_{stats.tier_served}") if stats.tier_served else words.say("none")
    counted = stats.total_requests or stats.run
    answered = f"{stats.successful_requests}/{stats.total_requests}"
    return [
        role_name(shown.role, words),
        str(shown.repeat),
        answered if counted else words.say("none"),
        figures.ms(stats.avg_ttft),
        figures.percent(stats.hit_ratio),
        figures.percent(stats.ideal_hit_ratio),
        served,
        _proof(stats, words),
    ]


def _proof(stats: RoundStats, words: Words) -> str:
    """Whether a cold round was cold, or how much of the ideal a hit round got."""
    if stats.cold_proof:
        return words.say(f"proof_{stats.cold_proof}")
    if stats.efficiency is not None:
        return words.say("proof_hits", percent=figures.percent(stats.efficiency))
    return words.say("none")
