"""The first screen: what was compared, what a hit is worth, the target, how sure, what is wrong."""

from __future__ import annotations

from math import exp

from kvreport import figures, phrasing
from kvreport.conclusion import Conclusion, Scenario
from kvreport.document import Block, Bullets, Facts, Heading, Table
from kvreport.effects import Effect
from kvreport.efficiency_cost_chapter import cost_lines
from kvreport.overview import overview
from kvreport.placed import Placed
from kvreport.targets import Result
from kvreport.words import Words

FEW = 4
"""More scenarios than this get one line each, and no paragraph each behind that."""
DOUBTS = 4


def answer(conclusion: Conclusion, words: Words) -> list[Block]:
    """Facts for each of a few scenarios, one table for many."""
    scenarios = conclusion.scenarios
    blocks: list[Block] = []
    if len(scenarios) > 1:
        said = {
            "compared": [compared(one, words) for one in scenarios],
            "shapes": [shape_of(one, words) for one in scenarios],
        }
        blocks += [Facts(overview(conclusion, words, **said), lead=1), _table(conclusion, words)]
    if len(scenarios) > FEW:
        mixed = phrasing.mixtures(scenarios, words)
        return [*blocks, Bullets(mixed)] if mixed else blocks
    costs = cost_lines(conclusion, words)
    for one in scenarios:
        rows = facts(one, words)
        if one.name in costs:
            rows.insert(2, (words.say("cost_fact"), costs[one.name]))
        blocks += [Heading(3, phrasing.title(one, words)), Facts(rows, lead=1)]
    return blocks


def facts(scenario: Scenario, words: Words) -> list[tuple[str, str]]:
    rows = [
        (words.say("compared"), compared(scenario, words)),
        (words.say("difference" if scenario.same_arm else "one_hit"), worth(scenario, words)),
    ]
    result = scenario.result("ttft_reduction")
    if result and scenario.comparable and not scenario.same_arm:
        rows.append((words.say("target"), target(scenario, result, words)))
    if scenario.comparable:
        rows.append((words.say("how_sure"), sure(scenario, words)))
    rows.append((words.say("doubts"), doubts(scenario, words)))
    mixed = mixture(scenario, words)
    if mixed:
        rows.append((words.say("mixture"), mixed))
    return rows


def compared(scenario: Scenario, words: Words) -> str:
    if not scenario.comparable:
        missing = [words.say(f"missing_{role}") for role in scenario.missing]
        return words.say("compared_nothing", missing=words.listed(missing))
    form = "compared_aa" if scenario.same_arm else "compared_rounds"
    if not any(one.role == "cold" for one in scenario.rounds):
        form = "compared_bare"
    return words.say(form, shape=shape_of(scenario, words), where=_where(scenario, words))


def shape_of(scenario: Scenario, words: Words) -> str:
    """`30 requests over 8 contexts`."""
    if not scenario.requests:
        return words.say("shape_unknown")
    forms = {None: "shape", 0: "shape", 1: "shape_context"}
    form = forms.get(scenario.contexts, "shape_contexts")
    return words.say(form, requests=scenario.requests, contexts=scenario.contexts)


def _where(scenario: Scenario, words: Words) -> str:
    """`, model M on vllm 0.32.0`; empty where nothing was recorded."""
    run = next(
        (
            one.stats.run[0] if isinstance(one.stats.run, list) else one.stats.run
            for one in scenario.rounds
            if one.stats.run
        ),
        None,
    )
    if run is None:
        return ""
    engine = " ".join(part for part in (run.engine, run.engine_version) if part)
    if run.model and engine:
        form = "where_nodes" if scenario.nodes else "where_model"
        return words.say(form, model=run.model, engine=engine)
    return words.say("where_engine", engine=run.model or engine) if run.model or engine else ""


def worth(scenario: Scenario, words: Words) -> str:
    """What one hit saves, in time and as a part of a miss, with its verdict."""
    effect = scenario.one_hit
    if scenario.refused and effect is None:
        return words.say("value_refused", reason=phrasing.reasons(scenario.refused, words))
    if effect is None:
        return words.say("value_old" if scenario.old else "value_not_measured")
    basis = _basis(scenario, effect, words)
    base, other = figures.ms(effect.base_mean), figures.ms(effect.other_mean)
    if effect.verdict.word == "same":
        span = phrasing.span_of(effect, words)
        return words.say("saves_nothing", base=base, other=other, interval=span, basis=basis)
    percent = figures.percent(abs(1 - effect.ratio))
    lower = effect.saved >= 0
    return words.say(
        "saves" if lower else "costs",
        saved=figures.ms(abs(effect.saved)),
        base=base,
        percent=phrasing.marked(percent, scenario, effect, words),
        interval=phrasing.interval(effect, words, "reduction" if lower else "change"),
        verdict=phrasing.verdict(effect, words),
        basis=basis,
    )


def _basis(scenario: Scenario, effect: Effect, words: Words) -> str:
    """Which requests of which rounds the worth of a hit is made from."""
    if scenario.same_arm:
        return words.say("value_aa")
    if scenario.value == "one_hit" and effect.base == "no_reuse":
        return words.say("value_one_hit_no_reuse")
    return words.say(f"value_{scenario.value}")


def target(scenario: Scenario, result: Result, words: Words) -> str:
    """The documents' line: met or not, the reduction, what was asked for."""
    wish = phrasing.wish(result.target, words)
    effect = scenario.effects.get("ttft")
    why = phrasing.reason(result.reason, words) if result.reason else ""
    if effect is None:
        bare = "target_invalid_bare" if result.status == "invalid" else "target_not_applicable"
        return words.say(bare, wish=wish, reason=why)
    ceiling = scenario.ceiling
    return words.say(
        f"target_{result.status}",
        what=reduced(scenario, effect, words),
        wish=wish,
        reason=why,
        ceiling=figures.percent(ceiling.reduction) if ceiling else "",
        change=change_of_shape(scenario, result, words),
    )


def reduced(scenario: Scenario, effect: Effect, words: Words) -> str:
    if effect.verdict.word == "same":
        span = phrasing.interval(effect, words)
        return words.say("round_2_same", interval=span)
    lower = effect.ratio <= 1
    percent = figures.percent(abs(1 - effect.ratio))
    reduced_by = "round_2_reduced_bare" if effect.base == "no_reuse" else "round_2_reduced"
    return words.say(
        reduced_by if lower else "round_2_raised",
        percent=phrasing.marked(percent, scenario, effect, words),
        interval=phrasing.interval(effect, words, "reduction" if lower else "change"),
    )


def change_of_shape(scenario: Scenario, result: Result, words: Words) -> str:
    """`; use --contexts 9 or more, or --requests 27 or fewer`; empty if nothing would help."""
    ways = shape_ways(scenario, result, words)
    return words.say("change_shape", ways=ways) if ways else ""


def shape_ways(scenario: Scenario, result: Result, words: Words) -> str:
    ceiling = scenario.ceiling
    if ceiling is None or result.status != "not_reachable":
        return ""
    wish = result.target.asked[0]
    ways = []
    needed, allowed = ceiling.contexts_needed(wish), ceiling.requests_allowed(wish)
    if needed is not None:
        ways.append(words.say("change_contexts", count=needed))
    if allowed is not None:
        ways.append(words.say("change_requests", count=allowed))
    if len(ways) == 2:
        return words.say("or", first=ways[0], last=ways[1])
    return "".join(ways)


def mixture(scenario: Scenario, words: Words) -> str | None:
    if scenario.mixture is None:
        return None
    cold, requests = scenario.mixture
    line = words.say("mixture_line", cold=cold, requests=requests, rest=requests - cold)
    return line + (words.say("mixture_nodes") if scenario.evidence.transferred else "")


def sure(scenario: Scenario, words: Words) -> str:
    """How far the figures may be trusted, by what stands behind their interval."""
    effect = scenario.one_hit or scenario.effects.get("ttft")
    if effect is None:
        return words.say("sure_no_samples" if scenario.old else "sure_nothing")
    if effect.no_interval in ("no_samples", "no_pairs", "first_stage"):
        return words.say(f"sure_{effect.no_interval}")
    if effect.repeats == 2:
        values = words.listed([figures.change(exp(theta)) for theta in effect.thetas])
        return words.say("sure_two", values=values)
    if effect.interval and effect.interval.method == "repeats":
        return _sure_repeats(scenario, effect, words)
    groups = effect.groups or 0
    noun = words.say("group" if groups == 1 else "groups")
    if effect.interval is None:
        return words.say("sure_few_pairs", groups=groups, noun=noun)
    if "few_groups" in effect.verdict.by:
        return words.say("sure_few_groups", groups=groups, noun=noun)
    method = words.say(f"method_{effect.interval.method}")
    return words.say("sure_run", groups=groups, method=method)


def _sure_repeats(scenario: Scenario, effect: Effect, words: Words) -> str:
    """By repeats; where their number was fixed in two stages, by what and whether it is reached."""
    smallest = figures.percent(1 - exp(-(effect.smallest or 0.0)))
    need = scenario.need
    if need is None or scenario.until is None or effect.interval is None:
        return words.say("sure_repeats", repeats=effect.repeats, smallest=smallest)
    first = effect.interval.first or effect.repeats
    return words.say(
        "sure_two_stage",
        repeats=effect.repeats,
        first=first,
        freedom=first - 1,
        width=figures.percent(scenario.until),
        smallest=smallest,
        state=until_state(scenario, words),
    )


def until_state(scenario: Scenario, words: Words) -> str:
    """`enough`, or how many repeats it takes."""
    need = scenario.need
    if need is None or need.needed is None:
        return words.say("until_unknown")
    form = "until_reached" if need.reached else "until_open"
    return words.say(form, needed=need.needed, width=figures.percent(need.half_width or 0.0))


def doubts(scenario: Scenario, words: Words) -> str:
    """One finding of each kind, the worst first; notes are left to the details."""
    if scenario.old:
        return words.say("old_line")
    kinds: dict[str, list[Placed]] = {}
    for one in scenario.findings:
        if one.finding.severity != "info":
            kinds.setdefault(one.finding.code, []).append(one)
    if not kinds:
        return words.say("doubts_none")
    items = [doubt(found, words) for found in kinds.values()][:DOUBTS]
    if len(kinds) > DOUBTS:
        items.append(words.say("doubts_more", count=len(kinds) - DOUBTS))
    return words.say("semicolon").join(items)


def doubt(found: list[Placed], words: Words) -> str:
    """The first finding of a kind, and in how many rounds it was made."""
    finding = found[0].finding
    mark = words.maybe(f"mark_{finding.code}") if finding.severity == "invalid" else None
    said = phrasing.message(finding, words)
    message = f"{mark}: {said}" if mark and mark not in said else said
    times = sum(len(one.repeats) for one in found)
    return words.say("doubt_times", message=message, count=times) if times > 1 else message


def _table(conclusion: Conclusion, words: Words) -> Table:
    columns = ("scenario", "one_hit", "change", "target", "verdict")
    return Table(
        caption=phrasing.caption(words.say("table_answers"), conclusion, words),
        columns=[words.say(f"col_{column}") for column in columns],
        align=["left", "right", "right", "left", "left"],
        rows=[_row(one, conclusion, words) for one in conclusion.scenarios],
        sortable=True,
        links=[phrasing.anchor(number) for number in range(1, len(conclusion.scenarios) + 1)],
        tags=[sorted(one.codes()) for one in conclusion.scenarios]
        if len(conclusion.scenarios) > FEW
        else [],
    )


def _row(scenario: Scenario, conclusion: Conclusion, words: Words) -> list[str]:
    effect = scenario.one_hit
    saved = words.say("none")
    if effect:
        saved = words.say(
            "saved_cell",
            saved=figures.ms(effect.saved),
            percent=figures.percent(1 - effect.ratio),
        )
        saved = phrasing.marked(saved, scenario, effect, words)
    return [
        phrasing.told_apart(scenario, conclusion, words),
        saved,
        phrasing.change_cell(scenario, scenario.effects.get("ttft"), words),
        phrasing.status(scenario.result("ttft_reduction"), words),
        phrasing.verdict_cell(effect, words) if effect else words.say("none"),
    ]
