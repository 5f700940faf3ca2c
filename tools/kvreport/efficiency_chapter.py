"""The chapter on efficiency: what a token costs, and from which length a load is worth its while.

Sentences first, the figures behind them in a table, then the lengths that were left out. What
cannot be told is no number but its reason, with the run that would tell.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from kvreport import figures, phrasing
from kvreport.document import Align, Block, Bullets, Table
from kvreport.efficiency import Efficiency
from kvreport.efficiency_worth import BreakEven, Figure
from kvreport.words import Words

WAYS = {
    "one_length": "lengths",
    "few_lengths": "lengths",
    "one_loaded_length": "lengths",
    "few_requests": "contexts",
    "few_groups": "contexts",
    "collinear": "contexts",
    "two_repeats": "repeats",
    "load": "serial",
    "tainted": "clean",
    "no_tokens": "tokens",
    "no_hits": "hits",
    "contains_zero": "longer",
    "negative": "lengths",
}
"""The run that would tell, by why nothing is told."""
MISFIT = 0.15
"""A kind of request, or a length left out, this far from the line in the mean is told."""
IN_SENTENCES = ("load_bps", "link_bps")
UNITS: dict[str, Callable[[float | None], str]] = {
    "base_s": figures.ms,
    "load_s": figures.ms,
    "per_token_s": figures.micros,
    "cached_s": figures.micros,
    "per_token2_s": figures.picos,
    "saved_s": figures.engine_seconds,
}


def efficiency_chapter(found: Sequence[Efficiency], words: Words) -> list[Block]:
    """Nothing where no endpoint served a hit."""
    if not found:
        return []
    blocks: list[Block] = []
    for one in found:
        blocks.append(Bullets([*sentences(one, words)]))
        if one.figures:
            blocks.append(_table(one, words))
        if one.held_out:
            blocks.append(_held_out(one, words))
    return blocks


def sentences(one: Efficiency, words: Words) -> Iterator[str]:
    """What one endpoint's figures say, in order of what a reader wants to know."""
    name = _name(one, words)
    if one.reasons:
        reason, way = _why(one.reasons[0], one, words)
        yield words.say("eff_refused", name=name, reason=reason, way=way)
        return
    spread = next((residual.spread for residual in one.residuals if residual.kind == "all"), None)
    yield words.say(
        "eff_fit",
        name=name,
        requests=figures.count(one.requests),
        low=figures.tokens(one.lengths[0]),
        high=figures.tokens(one.lengths[-1]),
        scope=words.say(f"eff_scope_{one.scope}", units=one.units),
        spread=figures.percent(spread),
    )
    misfits = [*_misfits(one, words)]
    if misfits:
        yield words.say("eff_misfit", what=words.listed(misfits))
    yield from _prefill(one, words)
    for even in one.break_even:
        yield _break_even(one, even, words)
        yield from _loads(one, even.source, words)
    for saving in one.savings:
        seconds = saving.seconds
        if seconds.value is None:
            reason, way = _why(seconds.reason or "", one, words)
            yield words.say("eff_saving_none", scenario=saving.scenario, reason=reason, way=way)
        else:
            shown = span(seconds, words)
            yield words.say("eff_saving", scenario=saving.scenario, seconds=shown)
    if one.tainted:
        yield words.say("eff_tainted", reasons=phrasing.reasons(one.tainted, words))
    if one.split in ("rounds", "both"):
        yield words.say(f"eff_split_{one.split}")


def _name(one: Efficiency, words: Words) -> str:
    return words.say("simulated_name", name=one.name) if one.simulated else one.name


def _why(reason: str, one: Efficiency, words: Words) -> tuple[str, str]:
    """The reason, and what to run."""
    codes = phrasing.reasons(one.tainted, words) if one.tainted else words.say("none")
    return words.say(f"eff_why_{reason}", codes=codes), words.say(f"eff_way_{WAYS[reason]}")


def _misfits(one: Efficiency, words: Words) -> Iterator[str]:
    """The kind of request, and the length left out, that lie the furthest from the line."""
    kinds = [residual for residual in one.residuals if residual.kind != "all"]
    far = max(kinds, key=lambda residual: abs(residual.mean), default=None)
    if far and abs(far.mean) > MISFIT:
        yield words.say(
            "eff_misfit_kind",
            kind=words.say(f"eff_kind_{far.kind}"),
            percent=figures.percent(abs(far.mean)),
        )
    worst = max(one.held_out, key=lambda held: abs(held.error), default=None)
    if worst and abs(worst.error) > MISFIT:
        yield words.say(
            "eff_misfit_held",
            kind=words.say(f"eff_kind_{worst.kind}"),
            tokens=figures.tokens(worst.tokens),
            percent=figures.percent(abs(worst.error)),
        )


def _prefill(one: Efficiency, words: Words) -> Iterator[str]:
    told = [found for found in one.figures if found.name == "prefill_tps" and found.value]
    if told:
        short, long = told[0], told[-1]
        yield words.say(
            "eff_prefill",
            short=span(short, words),
            low=figures.tokens(short.at_tokens),
            long=span(long, words),
            high=figures.tokens(long.at_tokens),
        )


def _break_even(one: Efficiency, even: BreakEven, words: Words) -> str:
    tier = words.say(f"eff_from_{even.source}")
    if even.word == "none":
        reason, way = _why(even.reason or "", one, words)
        return words.say("eff_break_even_none", tier=tier, reason=reason, way=way)
    if even.word == "never":
        longest = figures.tokens(even.longest)
        return words.say("eff_break_even_never", tier=tier, longest=longest)
    form = "from" if even.tokens else "at_once" if even.high else "always"
    return words.say(
        f"eff_break_even_{form}",
        tier=tier,
        tokens=figures.tokens(even.tokens),
        low=figures.tokens(even.low),
        high=figures.tokens(even.high),
        confidence=words.say("eff_confidence" if one.scope == "repeats" else "eff_within_run"),
    )


def _loads(one: Efficiency, source: str, words: Words) -> Iterator[str]:
    """Of the longest prompts: how fast they load, and how fast they would have to."""
    for stem in ("load", "link"):
        told = [
            found
            for found in one.figures
            if found.name == f"{stem}_tps" and found.source == source and found.value
        ]
        if not told:
            continue
        longest = told[-1]
        yield words.say(
            f"eff_{stem}",
            tier=words.say(f"eff_from_{source}"),
            tokens=figures.tokens(longest.at_tokens),
            speed=span(longest, words),
            bytes=_bytes(one, f"{stem}_bps", longest, words),
        )


def _bytes(one: Efficiency, name: str, longest: Figure, words: Words) -> str:
    for found in one.figures:
        place = (found.name, found.source, found.at_tokens)
        if place == (name, longest.source, longest.at_tokens) and found.value is not None:
            size = figures.count(one.bytes_per_token)
            return words.say("eff_bytes", speed=figures.byte_speed(found.value), size=size)
    return ""


def shown(name: str, value: float | None) -> str:
    """A figure in the unit that people read it in."""
    if name.endswith("_tps"):
        return figures.token_speed(value)
    if name.endswith("_bps"):
        return figures.byte_speed(value)
    return UNITS[name](value)


def span(found: Figure, words: Words) -> str:
    """`18,800 tokens/s (18,400 to 19,200)`; units once."""
    value, low, high = (shown(found.name, one) for one in (found.value, found.low, found.high))
    unit = value.rpartition(figures.NBSP)[2]
    return words.say(
        "eff_span",
        value=value,
        low=low.removesuffix(figures.NBSP + unit),
        high=high.removesuffix(figures.NBSP + unit),
    )


def label(found: Figure, words: Words) -> str:
    tier = words.say(f"eff_source_{found.source}") if found.source else ""
    return words.say(f"eff_{found.name}", tier=tier, tokens=figures.tokens(found.at_tokens))


def _table(one: Efficiency, words: Words) -> Table:
    align: list[Align] = ["left", "right", "right"]
    ends = {one.lengths[0], one.lengths[-1]}
    rows = []
    for found in one.figures:
        if found.at_tokens is not None and found.at_tokens not in ends:
            continue  # every length stands in JSON and CSV
        if found.name in IN_SENTENCES:
            continue
        if found.value is None:
            reason, _ = _why(found.reason or "", one, words)
            rows.append([label(found, words), words.say("eff_not", reason=reason), ""])
            continue
        value, low, high = (
            shown(found.name, part) for part in (found.value, found.low, found.high)
        )
        rows.append([label(found, words), value, words.say("span", low=low, high=high)])
    return Table(
        caption=words.say("table_eff", name=_name(one, words)),
        columns=[words.say(f"col_{column}") for column in ("figure", "value", "interval")],
        align=align,
        rows=rows,
    )


def _held_out(one: Efficiency, words: Words) -> Table:
    columns = ("tokens", "kind", "n", "measured", "predicted", "error")
    align: list[Align] = ["right", "left", "right", "right", "right", "right"]
    return Table(
        caption=words.say("table_held_out", name=_name(one, words)),
        columns=[words.say(f"col_{column}") for column in columns],
        align=align,
        rows=[
            [
                figures.tokens(held.tokens),
                words.say(f"eff_kind_{held.kind}"),
                str(held.requests),
                figures.ms(held.measured_s),
                figures.ms(held.predicted_s),
                figures.change(held.error + 1),
            ]
            for held in one.held_out
        ],
    )
