"""The documents' summary: cross-node information, conditions that differ, tables by metric."""

from __future__ import annotations

from kvreport import figures, phrasing
from kvreport.conclusion import Conclusion, Scenario
from kvreport.conditions import Condition
from kvreport.document import Block, Bullets, Facts, Heading, Paragraph, Table
from kvreport.effects import Effect
from kvreport.targets import Target
from kvreport.words import Words

TABLES = {
    "ttft_reduction": ("table_ttft", "ttft"),
    "throughput_increase": ("table_throughput", "throughput"),
    "tpot_ratio": ("table_tpot", "tpot"),
    "e2e_reduction": ("table_e2e", "e2e"),
    "prefill_reduction": ("table_prefill", "prefill"),
}


def summary(conclusion: Conclusion, words: Words) -> list[Block]:
    blocks: list[Block] = [*cross_info(conclusion, words)]
    if conclusion.conditions:
        blocks += [
            Heading(3, words.say("conditions")),
            Paragraph(words.say("conditions_across")),
            Bullets([condition(one, words) for one in conclusion.conditions]),
        ]
    judged = conclusion.scenarios[0].targets if conclusion.scenarios else []
    wished = [one for one in judged if one.target.name in TABLES]
    compared = [one for one in conclusion.scenarios if one.comparable]
    if compared:
        mixed = phrasing.mixtures(compared, words)
        for one in wished:
            blocks.append(_table(conclusion, compared, one.target, words))
            if mixed and one.target.effect in ("ttft", "e2e"):
                blocks.append(Bullets(mixed))
    return blocks


def cross_info(conclusion: Conclusion, words: Words) -> list[Block]:
    """Which nodes stored and loaded, and whether it is shown that anything went across."""
    crossing = [one for one in conclusion.scenarios if one.nodes]
    if not crossing:
        return []
    count = len(crossing)
    blocks: list[Block] = [
        Heading(3, words.say("cross_info")),
        Paragraph(words.say("cross_count_1" if count == 1 else "cross_count", count=count)),
    ]
    for one in crossing:
        node_a, node_b = one.nodes or ("", "")
        rows = [
            (words.say("col_scenario"), phrasing.name(one)),
            (words.say("node_stores"), node_a),
            (words.say("node_loads"), node_b),
            (words.say("transfer"), transfer(one, words)),
        ]
        blocks.append(Facts(rows))
    return blocks


def transfer(scenario: Scenario, words: Words) -> str:
    """A tick only on evidence; else what evidence is missing."""
    evidence = scenario.evidence
    if evidence.transferred is None:
        return words.say("transfer_unknown")
    if not evidence.transferred:
        return words.say("transfer_no")
    tokens = ""
    if evidence.external_tokens:
        tokens = words.say("transfer_tokens", count=figures.count(evidence.external_tokens))
    return words.say("transfer_yes", tokens=tokens)


def condition(one: Condition, words: Words) -> str:
    values = [
        words.say(
            "condition",
            value=value or words.say("condition_unknown"),
            who=words.say("comma").join(who),
        )
        for value, who in one.values
    ]
    key = words.maybe(f"condition_{one.key}") or one.key
    return words.say("fact", label=key, text=words.say("semicolon").join(values))


def _table(
    conclusion: Conclusion, scenarios: list[Scenario], target: Target, words: Words
) -> Table:
    phrase, name = TABLES[target.name]
    asked = target.asked
    text = words.say(
        phrase, wish=phrasing.wish(target, words), low=f"{asked[0]:g}", high=f"{asked[-1]:g}"
    )
    # The documents' Chinese column is a reduction, their English one a change with its sign.
    column = next((one for one in ("reduced", "change") if words.maybe(f"col_{one}_{name}")), "")
    sense: figures.Sense = "reduction" if column == "reduced" else "change"
    head = words.say(f"col_{column}_{name}" if column else "col_change")
    rows = []
    for one in scenarios:
        shown = phrasing.told_apart(one, conclusion, words)
        rows.append([shown, *_row(one, target, name, words, sense)])
        if name == "ttft":
            rows += [_later(one, effect, words, sense) for effect in one.later]
    return Table(
        caption=phrasing.caption(text, conclusion, words),
        columns=[
            *(words.say(f"col_{one}") for one in ("scenario", "baseline", "hit")),
            head,
            words.say("col_status"),
        ],
        align=["left", "right", "right", "right", "left"],
        rows=rows,
        sortable=True,
    )


def _row(
    scenario: Scenario, target: Target, name: str, words: Words, sense: figures.Sense
) -> list[str]:
    effect = scenario.effects.get(name)
    result = scenario.result(target.name)
    shown = phrasing.change_cell(scenario, effect, words, sense=sense)
    if name == "throughput" and scenario.unsaturated and effect:
        shown = f"{shown} ({words.say('unsaturated')})"
    return [
        *(_values(scenario, effect, name)),
        shown,
        phrasing.status(result, words),
    ]


def _values(scenario: Scenario, effect: Effect | None, name: str) -> tuple[str, str]:
    """The two figures; of a refused comparison the rounds' own means, side by side."""
    if effect is not None:
        return (
            figures.figure(effect.metric, effect.base_mean),
            figures.figure(effect.metric, effect.other_mean),
        )
    return _round_value(scenario, "cold", name), _round_value(scenario, "hit", name)


def _round_value(scenario: Scenario, role: str, name: str) -> str:
    stats = next((one.stats for one in scenario.rounds if one.role == role), None)
    if stats is None or name == "prefill":
        return figures.NONE
    if name == "throughput":
        return figures.rate(stats.request_throughput_rps, "req/s")
    return figures.ms(getattr(stats.timings, f"{name}_s").mean)


def _later(scenario: Scenario, effect: Effect, words: Words, sense: figures.Sense) -> list[str]:
    """A later round in a row of its own; no target is held against it."""
    return [
        words.say("later_name", name=phrasing.name(scenario), round=effect.other),
        figures.ms(effect.base_mean),
        figures.ms(effect.other_mean),
        phrasing.change_cell(scenario, effect, words, sense=sense),
        words.say("none"),
    ]
