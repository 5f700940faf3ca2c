"""What the cache costs without reuse, beside what it gains, and the churn in its store: words."""

from __future__ import annotations

from collections.abc import Iterator

from kvreport import figures, phrasing
from kvreport.conclusion import Conclusion, Scenario
from kvreport.document import Align, Block, Bullets, Table
from kvreport.effects import Effect
from kvreport.efficiency_cost import costs, evicting
from kvreport.words import Words


def cost_lines(conclusion: Conclusion, words: Words) -> dict[str, str]:
    """By scenario, what a prompt costs that nobody asked before; for beside its gain."""
    return {
        one.name: words.say(
            "cost_line",
            baseline=conclusion.baseline,
            what=_change(one.effects["ttft_no_reuse"], words),
        )
        for one in costs(conclusion)
    }


def cost_chapter(conclusion: Conclusion, words: Words) -> list[Block]:
    """Nothing without a baseline of rounds without reuse, and without evictions."""
    by_name = {one.name: one for one in conclusion.scenarios}
    lines = [
        line for one in costs(conclusion) for line in _cost(conclusion, one.name, by_name, words)
    ]
    blocks: list[Block] = [Bullets(lines)] if lines else []
    if conclusion.churn:
        blocks += [Bullets([*_churn(conclusion, words)]), _table(conclusion, words)]
    return blocks


def _cost(
    conclusion: Conclusion, name: str, by_name: dict[str, Scenario], words: Words
) -> Iterator[str]:
    contrast = next(one for one in conclusion.contrasts if one.name == name)
    yield words.say(
        "cost_sentence",
        name=name,
        baseline=conclusion.baseline,
        what=_change(contrast.effects["ttft_no_reuse"], words),
    )
    for metric in ("tpot", "e2e"):
        effect = contrast.effects.get(f"{metric}_no_reuse")
        if effect:
            yield words.say(f"cost_{metric}", name=name, what=_change(effect, words))
    hit = by_name[name].one_hit if name in by_name else None
    if hit and hit.verdict.word in ("faster", "slower", "same"):
        yield words.say("cost_gain", name=name, what=_change(hit, words))


def _change(effect: Effect, words: Words) -> str:
    """`+3.1 % (1.2 to 5.0 % with 95 % confidence): slower`, or that no difference was shown."""
    span = phrasing.interval(effect, words, "change")
    if effect.verdict.word == "same":
        return words.say("cost_same", interval=span)
    return words.say(
        "cost_change",
        change=figures.change(effect.ratio),
        interval=span,
        verdict=phrasing.verdict(effect, words),
    )


def _churn(conclusion: Conclusion, words: Words) -> Iterator[str]:
    for name in dict.fromkeys(one.scenario for one in conclusion.churn):
        own = [one for one in conclusion.churn if one.scenario == name]
        hits = next((one.efficiency for one in own if one.efficiency is not None), None)
        puts = [one.put_keys for one in own if one.put_keys is not None]
        yield words.say(
            "churn_sentence",
            name=name,
            evicted=figures.count(sum(one.evicted_keys for one in own)),
            put=figures.count(sum(puts)) if puts else words.say("none"),
            hits=figures.percent(hits),
        )
        refused = sum(one.refused_puts or 0 for one in own)
        if refused:
            yield words.say("churn_refused", name=name, refused=figures.count(refused))
    full = evicting(conclusion)
    for contrast in conclusion.contrasts:
        if (contrast.name in full) == (conclusion.baseline in full):
            continue
        for role in ("no_reuse", "hit"):
            effect = contrast.effects.get(f"ttft_{role}")
            if effect:
                yield words.say(
                    "churn_evicting" if contrast.name in full else "churn_roomy",
                    name=contrast.name,
                    baseline=conclusion.baseline,
                    role=words.say(f"churn_{role}"),
                    what=_change(effect, words),
                )


def _table(conclusion: Conclusion, words: Words) -> Table:
    columns = ("scenario", "round", "rounds", "put", "evicted", "refused", "of_ideal")
    align: list[Align] = ["left", "left", "right", "right", "right", "right", "right"]
    return Table(
        caption=words.say("table_churn"),
        columns=[words.say(f"col_{column}") for column in columns],
        align=align,
        rows=[
            [
                one.scenario,
                words.say(f"role_{one.role}"),
                str(one.rounds),
                figures.count(one.put_keys),
                figures.count(one.evicted_keys),
                figures.count(one.refused_puts),
                figures.percent(one.efficiency),
            ]
            for one in conclusion.churn
        ],
    )
