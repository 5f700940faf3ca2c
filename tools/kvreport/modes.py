"""PD against non-PD: the documents' three columns, and how near a PD hit comes to non-PD.

What is disaggregated is told by evidence: phases that kvstats knows to be apart, metrics of
prefillers or decoders, or sentinels that were transferred (`pd_transfer`). Its partner is the
baseline, or the one scenario that is not and has its model and scenario. Requests are paired
where both sent the same plan; else the columns stand side by side, and the ratio is refused. So it
is where token 1 leaves before the KV transfer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from kvreport.across import across, refusal
from kvreport.conclusion import Column, Conclusion, Modes, Scenario
from kvreport.conditions import of_plans
from kvreport.contrasts import ROLES
from kvreport.effects import Effect, main_effects
from kvreport.experiments import Experiment, Role
from kvreport.flows import comparable, flow_of, kept
from kvreport.metrics import PHASES, phase_mean
from kvreport.placed import Placed
from kvreport.rounds import Round
from kvreport.targets import Result, Target, judge_pd
from kvreport.verdicts import judge

TARGET = "pd_ttft_ratio"
Partner = Experiment | Literal["no_non_pd", "several_non_pd"]


def disaggregated(experiment: Experiment) -> bool:
    """Whether prefill and decode are known to run on servers of their own."""
    if any((one.stats.phases or {}).get("disaggregated") for one in experiment):
        return True
    return any(
        server.role in ("prefill", "decode") for one in experiment for server in one.stats.server
    ) or any(finding.code == "pd_transfer" for one in experiment for finding in one.stats.findings)


def compared(
    conclusion: Conclusion,
    experiments: Sequence[Experiment],
    wished: Target | None,
    baseline: str | None,
) -> Conclusion:
    """The conclusion with every PD scenario beside its partner, and the target judged there.

    A target that was named is judged against a baseline that was named, evidence or not.
    """
    if wished is None:
        return conclusion
    base = next((one for one in experiments if one.name == baseline), None)
    asked = wished.named and base is not None
    by_name = {one.name: one for one in conclusion.scenarios}
    found: list[Modes] = []
    results: dict[str, Result] = {}
    for one in experiments:
        if one is base or not (asked or disaggregated(one)):
            continue
        partner = base if base is not None else _partner(one, experiments)
        if isinstance(partner, str):
            results[one.name] = Result(target=wished, status="not_applicable", reason=partner)
            continue
        modes = _modes(partner, one, by_name)
        found.append(modes)
        if comparable(partner, one):
            results[one.name] = judge_pd(wished, modes.effects.get("ttft_hit"), modes.refused)
        else:
            results[one.name] = Result(target=wished, status="not_applicable", reason="token_first")
    if wished.named and not results:
        none = Result(target=wished, status="not_applicable", reason="no_pd")
        results = {one.name: none for one in experiments if one is not base}
    scenarios = [_with(one, results.get(one.name)) for one in conclusion.scenarios]
    return msgspec.structs.replace(conclusion, scenarios=scenarios, modes=found)


def _with(scenario: Scenario, result: Result | None) -> Scenario:
    if result is None:
        return scenario
    return msgspec.structs.replace(scenario, targets=[*scenario.targets, result])


def _partner(one: Experiment, experiments: Sequence[Experiment]) -> Partner:
    """The only one that is not disaggregated and ran the same; why there is none, else."""
    whole = [other for other in experiments if other is not one and not disaggregated(other)]
    alike = [other for other in whole if _kind(other) == _kind(one)]
    if len(alike) == 1:
        return alike[0]
    return "several_non_pd" if alike else "no_non_pd"


def _kind(one: Experiment) -> tuple[str | None, str, int | None]:
    """Model, scenario and contexts: what two ways to deploy have in common."""
    first: Round = next(iter(one))
    run = first.run
    return (run.model if run else None, one.scenario, run.contexts if run else None)


def _modes(base: Experiment, other: Experiment, by_name: dict[str, Scenario]) -> Modes:
    findings = [*_own(by_name[base.name], "cold"), *by_name[other.name].findings]
    effects: dict[str, Effect] = {}
    open_loop = base.open_loop or other.open_loop
    for role in ROLES:
        comparison = across(base, "cold", other, role)
        found = main_effects(comparison, open_loop=open_loop) if comparison else {}
        for name in found if comparable(base, other) else kept(list(found)):
            one = found[name]
            verdict = judge(one, findings, None)
            effects[f"{name}_{role}"] = msgspec.structs.replace(one, verdict=verdict)
    refused = None if effects else refusal(base, other)
    return Modes(
        non_pd=base.name,
        pd=other.name,
        refused=refused,
        differs=of_plans(base, other) if refused else [],
        columns=[
            _column("non_pd", base, "cold"),
            _column("pd_cold", other, "cold"),
            _column("pd_hit", other, "hit"),
        ],
        effects=effects,
        flow=flow_of(other),
    )


def _own(scenario: Scenario, role: str) -> list[Placed]:
    """Findings of one round of the partner: they touch what is measured from it."""
    return [one for one in scenario.findings if one.rounds == [role]]


def _column(key: str, experiment: Experiment, role: Role) -> Column:
    """Means of the rounds' own means, whatever they can be paired with."""
    stats = [one.stats for repeat in experiment.repeats for one in repeat.of(role)]
    return Column(
        key=key,
        name=experiment.name,
        ttft_s=_mean([one.timings.ttft_s.mean for one in stats]),
        tpot_s=_mean([one.timings.tpot_s.mean for one in stats]),
        e2e_s=_mean([one.timings.e2e_s.mean for one in stats]),
        throughput_rps=None
        if experiment.open_loop
        else _mean([one.request_throughput_rps for one in stats]),
        second_token_s=_mean([one.timings.second_token_s.mean for one in stats]),
        prefill_s=_mean([phase_mean(one, "prefill_s") for one in stats]),
        transfer_s=_mean([phase_mean(one, "transfer_s") for one in stats]),
        decode_s=_mean([phase_mean(one, "decode_s") for one in stats]),
        estimated=[
            name for name in PHASES if any(phase_mean(one, name, "estimate") for one in stats)
        ],
    )


def _mean(values: Sequence[float | None]) -> float | None:
    told = [one for one in values if one is not None]
    return sum(told) / len(told) if told else None
