"""Details of each scenario: every metric of every round, strata, proofs, controls and findings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from kvpipe.records import Run
from kvreport import conditions, figures, phrasing
from kvreport.conclusion import Conclusion, Scenario
from kvreport.document import Block, Bullets, Facts, Heading, Paragraph, Table
from kvreport.drift import Drift
from kvreport.effects import Effect
from kvreport.placed import Placed
from kvreport.same_answers import answers_line
from kvreport.summary import condition, transfer
from kvreport.tables import metrics_table, rounds_table, strata_table
from kvreport.words import Words


def details(
    conclusion: Conclusion, words: Words, figures: Mapping[str, Sequence[Block]] | None = None
) -> list[Block]:
    """`figures` are the scenarios' own charts, by name."""
    blocks: list[Block] = []
    for number, one in enumerate(conclusion.scenarios, 1):
        blocks += _scenario(one, words, phrasing.anchor(number), (figures or {}).get(one.name, ()))
    return blocks


def _scenario(
    scenario: Scenario, words: Words, anchor: str, figures: Sequence[Block]
) -> list[Block]:
    blocks: list[Block] = [
        Heading(3, phrasing.title(scenario, words), anchor=anchor),
        Facts(_facts(scenario, words)),
        metrics_table(scenario, words),
    ]
    mixed = phrasing.mixtures([scenario], words)
    if mixed:
        blocks.append(Bullets(mixed))
    effects = _effects(scenario, words)
    if effects.rows:
        blocks.append(effects)
    strata = strata_table(scenario, words)
    if strata.rows:
        blocks.append(strata)
    blocks.append(rounds_table(scenario, words))
    blocks += figures
    lines = _lines(scenario, words)
    if lines:
        blocks.append(Bullets(lines))
    if scenario.findings:
        found = [finding(one, scenario, words) for one in scenario.findings]
        blocks += [Heading(4, words.say("findings")), Bullets(found)]
    if scenario.conditions:
        differing = [condition(one, words) for one in scenario.conditions]
        blocks += [Paragraph(words.say("conditions_within")), Bullets(differing)]
    return blocks


def _facts(scenario: Scenario, words: Words) -> list[tuple[str, str]]:
    """Where it ran and how; of the first round's head."""
    rows: list[tuple[str, str]] = []
    if scenario.nodes:
        node_a, node_b = scenario.nodes
        rows += [
            (words.say("node_round_1"), words.say("node_a", url=node_a)),
            (words.say("node_round_2"), words.say("node_b", url=node_b)),
            (words.say("transfer"), transfer(scenario, words)),
        ]
    run = first_run(scenario)
    if run is not None:
        rows += _of_run(run, scenario, words)
    files = list(dict.fromkeys(one.place.rpartition(":")[0] for one in scenario.rounds))
    return [*rows, (words.say("fact_files"), ", ".join(files))]


def _of_run(run: Run, scenario: Scenario, words: Words) -> list[tuple[str, str]]:
    rows = []
    if not scenario.nodes:
        rows.append((words.say("fact_endpoint"), run.endpoint_url))
    if run.model:
        rows.append((words.say("fact_model"), run.model))
    engine = " ".join(part for part in (run.engine, run.engine_version) if part)
    if engine:
        rows.append((words.say("fact_engine"), engine))
    load = words.say(
        "load_line",
        arrival=conditions.arrival(run.arrival, run.shard),
        order=run.order,
        tier=scenario.evidence.asked or run.tier,
        sentinels=run.sentinels,
    )
    rows += [(words.say("fact_load"), load), (words.say("fact_isolation"), _isolation(run, words))]
    if run.warmup:
        settled = words.say(f"settled_{run.warmup.settled}")
        line = words.say("warmup_line", passes=run.warmup.passes, settled=settled)
        rows.append((words.say("fact_warmup"), line))
    return rows


def _isolation(run: Run, words: Words) -> str:
    salted = run.salt is not None and run.salt_way != "none"
    line = words.say("isolation_salt", way=run.salt_way) if salted else words.say("isolation_none")
    cleared = run.isolation
    if cleared is None:
        return line
    kinds = {True: "verified", False: "unverified", None: "unknown"}
    return line + words.say(f"isolation_{kinds[cleared.verified]}", reason=cleared.reason)


def first_run(scenario: Scenario) -> Run | None:
    for shown in scenario.rounds:
        run = shown.stats.run
        if isinstance(run, Run):
            return run
        if run:
            return run[0]
    return None


def _effects(scenario: Scenario, words: Words) -> Table:
    """Each effect with its interval and verdict; later rounds behind the others."""
    columns = ("compared", "kind", "change", "interval", "verdict")
    metrics = ("ttft", "one_hit", "all_hits", "one_hit_bare", "nodes", "e2e", "tpot", "throughput")
    chosen = [scenario.effects[name] for name in metrics if name in scenario.effects]
    steady = scenario.effects.get("steady")
    return Table(
        caption=phrasing.warned_caption(words.say("table_effects"), scenario, words),
        columns=[words.say(f"col_{column}") for column in columns],
        align=["left", "left", "right", "right", "left"],
        rows=[
            _effect(one, scenario, words)
            for one in [*chosen, *([steady] if steady else []), *scenario.later]
        ],
    )


def _effect(effect: Effect, scenario: Scenario, words: Words) -> list[str]:
    return [
        words.say(
            "effect_name",
            metric=words.say(f"m_{effect.metric}"),
            compared=_compared(effect, scenario, words),
        ),
        words.say(f"over_{effect.over}"),
        phrasing.change_cell(scenario, effect, words, captioned=True),
        phrasing.span_of(effect, words) or words.say("none"),
        phrasing.verdict_cell(effect, words),
    ]


def _compared(effect: Effect, scenario: Scenario, words: Words) -> str:
    if effect.other.startswith("round "):
        return words.say("effect_later", number=effect.other.removeprefix("round "))
    if scenario.same_arm and effect.base == "cold":
        return words.say("effect_aa")
    return words.say(f"effect_{effect.base}>{effect.other}")


def _lines(scenario: Scenario, words: Words) -> list[str]:
    lines = []
    if scenario.old:
        lines.append(words.say("old_line"))
    if scenario.joined:
        lines.append(words.say("joined_line"))
    if scenario.made_elsewhere and scenario.repeats > 1:
        lines.append(words.say("elsewhere_line"))
    lines += _ceilings(scenario, words)
    ttft = scenario.effects.get("ttft")
    if ttft and ttft.dropped:
        lines.append(words.say("dropped_line", dropped=ttft.dropped, planned=ttft.planned))
    if scenario.answers:
        lines.append(answers_line(scenario.answers, words))
    if scenario.drift and scenario.comparable:
        lines.append(drift_line(scenario.drift, scenario, words))
    return lines


def _ceilings(scenario: Scenario, words: Words) -> list[str]:
    lines = []
    ceiling = scenario.ceiling
    if ceiling:
        lines.append(
            words.say(
                "ceiling_line",
                cold=ceiling.cold,
                requests=ceiling.requests,
                miss=figures.ms(ceiling.miss_s),
                hit=figures.ms(ceiling.hit_s),
                percent=figures.percent(ceiling.reduction),
            )
        )
    most = scenario.throughput_ceiling
    if most is not None and not scenario.same_arm:
        serial = scenario.kind == "unit cost"
        lines.append(
            words.say(
                "throughput_ceiling_line" if serial else "throughput_ceiling_load",
                share=figures.percent(1 - 1 / most),
                percent=figures.percent(most - 1),
            )
        )
    return lines


def drift_line(drift: Drift, scenario: Scenario, words: Words) -> str:
    if drift.interval is None or drift.ratio is None:
        return words.say("drift_unchecked", reason=words.say(f"unchecked_{drift.source}"))
    low, high = (figures.change(end) for end in drift.bounds())
    span = words.say("span", low=low.removesuffix(f"{figures.NBSP}%"), high=high)
    across = "_nodes" if scenario.nodes and drift.source == "sentinels" else ""
    return words.say(
        f"drift_{drift.source}{across}",
        percent=figures.change(drift.ratio),
        interval=words.say("drift_interval", span=span),
    )


def finding(placed: Placed, scenario: Scenario, words: Words) -> str:
    """`Round 1, repeat 2: warning: message [code]`."""
    where = _place(placed, words)
    if scenario.repeats > 1:
        numbers = ", ".join(str(number) for number in placed.repeats)
        form = "where_repeat" if len(placed.repeats) == 1 else "where_repeats"
        where = words.say(form, where=where, numbers=numbers)
    return words.say(
        "finding",
        where=where,
        severity=words.say(f"severity_{placed.finding.severity}"),
        message=phrasing.message(placed.finding, words),
        code=placed.finding.code,
    )


def _place(placed: Placed, words: Words) -> str:
    names = [
        words.say("where_round", number=role.removeprefix("round "))
        if role.startswith("round ")
        else words.say(f"where_{role}")
        for role in placed.rounds
    ]
    if not names:
        return words.say("where_all")
    if len(names) == 1:
        return names[0]
    lowered = [one[:1].lower() + one[1:] for one in names]
    return words.say("where_between", rounds=words.listed(lowered))
