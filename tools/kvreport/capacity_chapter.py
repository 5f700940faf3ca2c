"""The chapter on capacity: the rates that keep the SLO, in a table, in sentences, and by search."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from kvpipe.records import Arm, Capacity
from kvreport import figures, phrasing
from kvreport.capacity import Bracket, Capacities
from kvreport.document import Align, Block, Bullets, Paragraph, Table
from kvreport.words import Words

ADVICE = {
    "one_run_scalar": "d_capacity_repeats",
    "two_repeats": "d_capacity_repeats",
    "left_range": "d_capacity_range",
    "lost": "d_capacity_lost",
    "client_limited": "d_capacity_client",
}
"""What to do about the reasons for which a search shows less than it might."""
ARMS: tuple[Arm, Arm] = ("no_reuse", "hit")


def capacity_chapter(cases: Sequence[Capacities], words: Words) -> list[Block]:
    """Nothing where no capacity was searched for."""
    if not cases:
        return []
    blocks: list[Block] = [
        _table(cases, words),
        Bullets([sentence(one, words) for one in cases]),
        Paragraph(words.say("capacity_how")),
        _searches(cases, words),
    ]
    found = [*_findings(cases, words)]
    return [*blocks, Bullets(found)] if found else blocks


def capacity_advice(case: Capacities) -> list[str]:
    """Names of the phrases that say what to change in the next search."""
    reasons = [
        record.reason
        for one in case.repeats
        for arm in ARMS
        if (record := one.arm(arm)) is not None
    ]
    codes = [*case.reasons, *(one for one in reasons if one is not None)]
    return list(dict.fromkeys(ADVICE[code] for code in codes if code in ADVICE))


def name(case: Capacities, words: Words) -> str:
    return words.say("simulated_name", name=case.name) if case.simulated else case.name


def _table(cases: Sequence[Capacities], words: Words) -> Table:
    columns = ("scenario", "slo", "bare", "with_hits", "ratio", "interval", "verdict")
    align: list[Align] = ["left", "left", "right", "right", "right", "right", "left"]
    return Table(
        caption=words.say("table_capacity"),
        columns=[words.say(f"col_{column}") for column in columns],
        align=align,
        rows=[
            [
                name(one, words),
                _slo(one, words),
                rate(one.no_reuse, words),
                rate(one.hit, words),
                _ratio(one, words),
                _interval(one, words),
                _verdict(one, words),
            ]
            for one in cases
        ],
    )


def _slo(case: Capacities, words: Words) -> str:
    limits = [
        words.say("slo_limit", name=words.maybe(f"slo_{name}") or name, limit=figures.ms(limit))
        for name, limit in case.slo.items()
    ]
    share = figures.wish(case.goodput_ratio)
    return words.say("slo_line", share=share, limits=words.listed(limits))


def rate(bracket: Bracket, words: Words) -> str:
    """The highest rate that passed; `>=` where none failed, `<` where none passed."""
    if bracket.passed is None:
        if bracket.failed is None:
            return words.say("none")
        return words.say("rate_below", rate=figures.rate(bracket.failed, "req/s"))
    shown = figures.rate(bracket.passed, "req/s")
    return shown if bracket.failed is not None else words.say("rate_at_least", rate=shown)


def _ratio(case: Capacities, words: Words) -> str:
    """`3.20x`, a bound where only that is known, `~` where no difference was shown."""
    if case.verdict == "same":
        return words.say("same")
    if case.ratio is not None:
        return figures.times(case.ratio)
    if case.low is not None:
        return words.say("rate_at_least", rate=figures.times(case.low))
    if case.high is not None:
        return words.say("rate_at_most", rate=figures.times(case.high))
    return words.say("none")


def _interval(case: Capacities, words: Words) -> str:
    if case.low is not None and case.high is not None:
        low, high = figures.times(case.low), figures.times(case.high)
        return words.say("span", low=low, high=high)
    if case.low is not None:
        return words.say("rate_at_least", rate=figures.times(case.low))
    if case.high is not None:
        return words.say("rate_at_most", rate=figures.times(case.high))
    return words.say("none")


def _verdict(case: Capacities, words: Words) -> str:
    if case.verdict == "none":
        return words.say("cell_none", reasons=phrasing.reasons(case.reasons, words))
    return words.say(f"capacity_verdict_{case.verdict}")


def sentence(case: Capacities, words: Words) -> str:
    """What hits do to the capacity, or why that is not shown."""
    interval = ""
    if case.low is not None and case.high is not None:
        interval = words.say("interval", span=_interval(case, words))
    return words.say(
        f"capacity_{case.verdict}",
        name=name(case, words),
        bare=rate(case.no_reuse, words),
        hit=rate(case.hit, words),
        ratio=_ratio(case, words),
        interval=interval,
        reasons=phrasing.reasons(case.reasons, words),
    )


def _searches(cases: Sequence[Capacities], words: Words) -> Table:
    """One row a search: where it ended, and what that took."""
    columns = ("scenario", "repeat", "arm", "passed", "failed", "probes", "end")
    align: list[Align] = ["left", "right", "left", "right", "right", "right", "left"]
    return Table(
        caption=words.say("table_searches"),
        columns=[words.say(f"col_{column}") for column in columns],
        align=align,
        rows=[
            [
                name(case, words),
                str(repeat.number),
                words.say(f"search_{arm}"),
                figures.rate(record.passed_rps, "req/s"),
                figures.rate(record.failed_rps, "req/s"),
                str(len(record.probes)),
                _end(record, words),
            ]
            for case in cases
            for repeat in case.repeats
            for arm in ARMS
            if (record := repeat.arm(arm)) is not None
        ],
    )


def _end(record: Capacity, words: Words) -> str:
    reason = phrasing.reason(record.reason or "not_measured", words)
    if record.state == "found" and record.reason:
        return words.say("search_coarse", reason=reason)
    return words.say(f"search_{record.state}", reason=reason)


def _findings(cases: Sequence[Capacities], words: Words) -> Iterator[str]:
    """Each kind once a scenario, as it was found last."""
    for case in cases:
        latest = {one.code: one for one in case.findings}
        for one in latest.values():
            yield words.say(
                "finding",
                where=name(case, words),
                severity=words.say(f"severity_{one.severity}"),
                message=phrasing.message(one, words),
                code=one.code,
            )
