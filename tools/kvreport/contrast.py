"""The chapter that sets scenarios against `--baseline NAME`."""

from __future__ import annotations

from kvreport import figures, phrasing
from kvreport.conclusion import Conclusion, Contrast, Modes
from kvreport.document import Block, Bullets, Heading, Table
from kvreport.effects import Effect
from kvreport.words import Words


def contrast(conclusion: Conclusion, words: Words) -> list[Block]:
    if conclusion.baseline is None or not conclusion.contrasts:
        return []
    blocks: list[Block] = [Heading(2, words.say("contrast", name=conclusion.baseline))]
    refused = [_refused(one, words) for one in conclusion.contrasts if one.refused]
    refused += [
        words.say("contrast_flows", name=one.name, baseline=conclusion.baseline)
        for one in conclusion.contrasts
        if one.token_first
    ]
    if refused:
        blocks.append(Bullets(refused))
    rows = [
        _row(one.name, name, effect, words)
        for one in conclusion.contrasts
        for name, effect in one.effects.items()
    ]
    if not rows:
        return blocks
    columns = ("compared", "baseline", "to", "change", "interval", "verdict")
    table = Table(
        caption=phrasing.caption(words.say("table_contrast"), conclusion, words),
        columns=[words.say(f"col_{column}") for column in columns],
        align=["left", "right", "right", "right", "right", "left"],
        rows=rows,
    )
    return [*blocks, table]


def _refused(one: Contrast, words: Words) -> str:
    if one.refused == "samples":
        return words.say("contrast_samples", name=one.name)
    return words.say("contrast_plan", name=one.name, what=difference(one, words))


def difference(one: Contrast | Modes, words: Words) -> str:
    """`other shapes: requests 12 and 30; contexts 4 and 8`."""
    what = words.say(f"what_{one.refused}")
    parts = [
        words.say(
            "what_differs",
            key=words.maybe(f"condition_{found.key}") or found.key,
            values=words.listed([value or words.say("none") for value, _ in found.values]),
        )
        for found in one.differs
    ]
    return words.say("fact", label=what, text=words.say("semicolon").join(parts)) if parts else what


def _row(scenario: str, key: str, effect: Effect, words: Words) -> list[str]:
    role = "no_reuse" if key.endswith("no_reuse") else key.rpartition("_")[2]
    metric = f"{words.say(f'm_{effect.metric}')}, {words.say(f'arm_{role}')}"
    same = effect.verdict.word == "same"
    return [
        words.say("contrast_name", name=scenario, metric=metric),
        figures.figure(effect.metric, effect.base_mean),
        figures.figure(effect.metric, effect.other_mean),
        words.say("same") if same else figures.change(effect.ratio),
        phrasing.span_of(effect, words) or words.say("none"),
        phrasing.verdict_cell(effect, words),
    ]
