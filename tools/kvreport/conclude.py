"""From experiments to conclusions: every number of a report is computed here, once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import msgspec

from kvpipe.records import Run
from kvreport import between, ceilings, conditions, enough, metrics, targets
from kvreport.conclusion import Conclusion, Scenario, Shown
from kvreport.drift import Drift, drift_of
from kvreport.effects import Comparison, Effect, effect, prefill_effect, rate_effect
from kvreport.evidence import evidence_of
from kvreport.experiments import Experiment, Role
from kvreport.pairs import Metric
from kvreport.placed import gathered, of_rounds
from kvreport.rounds import COLD_STRATA, Round
from kvreport.same_answers import same_answers
from kvreport.saturation import saturated
from kvreport.targets import Result, Target
from kvreport.verdicts import judge

NO_PERCENTAGE = ("plan_differs", "overload")
"""Findings after which a percentage would be meaningless, not merely doubtful."""
UNDRIFTED = {"nodes"}
"""The nodes' own difference is itself a control, and has none."""
UNTOLD = {"tpot", "second_token"}
"""Drift withholds their direction and is no finding: they are judged as equivalences."""
GROUND: dict[str, Metric] = {
    "e2e_s": "e2e_s",
    "request_throughput_rps": "e2e_s",
    "tpot_s": "tpot_s",
    "second_token_s": "second_token_s",
}
"""The metric of the control by that of the effect; TTFT where nothing stands here."""
Progress = Callable[[int, int], None]


def conclude(
    experiments: Sequence[Experiment],
    wished: Sequence[Target],
    *,
    tool_version: str,
    until: enough.Wish = enough.AS_RECORDED,
    progress: Progress = lambda _done, _total: None,
) -> Conclusion:
    """All scenarios' conclusions, and the conditions in which they differ."""
    scenarios, needs = [], []
    for number, experiment in enumerate(experiments):
        progress(number, len(experiments))
        case = _Case(experiment, enough.first_stage(experiment, until))
        need = enough.need(experiment, case.effects, case.drift, until)
        needs += [need] if need else []
        scenarios.append(case.scenario(wished, need))
    return Conclusion(
        tool_version=tool_version,
        scenarios=scenarios,
        conditions=conditions.across(experiments),
        until=enough.gathered(needs, until.maximum),
    )


class _Case:
    """One experiment on its way to a conclusion."""

    def __init__(self, experiment: Experiment, first: int | None) -> None:
        self.experiment = experiment
        self.first = first
        self.findings = [*of_rounds(experiment), *between.plan_findings(experiment)]
        self.compared: dict[str, Comparison] = {}
        self._compare("cold", "hit")
        self._compare("no_reuse", "hit")
        if experiment.nodes:
            self._compare("cold", "no_reuse")
        self.effects = self._effects()
        self.later = self._later()
        self.drift: Drift | None = None
        self._judge()

    def _compare(self, base: Role, other: Role) -> None:
        """Pairs two arms, unless findings forbid every percentage between them."""
        matches = self.experiment.matched(base, other)
        comparison = Comparison.of(base, other, matches, self.first)
        if comparison.matches and not self.refused({base, other}):
            self.compared[f"{base}>{other}"] = comparison
            self.findings += between.pair_findings(comparison)
            self.findings += between.stamp_findings(comparison)

    def refused(self, roles: Iterable[str]) -> list[str]:
        """Codes that forbid a percentage between some arms."""
        codes = [
            one.finding.code
            for one in self.findings
            if one.finding.code in NO_PERCENTAGE
            and one.finding.severity == "invalid"
            and set(one.rounds) <= set(roles)
        ]
        return list(dict.fromkeys(codes))

    def _effects(self) -> dict[str, Effect]:
        found: dict[str, Effect | None] = {}
        main = self.compared.get("cold>hit")
        if main is None and not self.experiment.first("cold"):
            main = self.compared.get("no_reuse>hit")
        if main:
            found |= {
                "ttft": effect("ttft_s", main),
                "e2e": effect("e2e_s", main),
                "tpot": effect("tpot_s", main),
                "second_token": effect("second_token_s", main),
                "one_hit": effect("ttft_s", main, "cold_strata"),
            }
            found["prefill"] = prefill_effect(main)
            if self.experiment.open_loop:
                found["ttft_due"] = effect("ttft_due_s", main)
            else:
                found["throughput"] = rate_effect("request_throughput_rps", main)
        bare = self.compared.get("no_reuse>hit")
        if bare and main is not bare:
            found["all_hits"] = effect("ttft_s", bare)
            found["one_hit_bare"] = effect("ttft_s", bare, "cold_strata")
        if bare and self.experiment.kind == "load" and not self.experiment.open_loop:
            found["steady"] = rate_effect("steady_throughput_rps", bare)
        nodes = self.compared.get("cold>no_reuse")
        if nodes:
            found["nodes"] = effect("ttft_s", nodes, "cold_strata")
        return {name: one for name, one in found.items() if one is not None}

    def _later(self) -> list[Effect]:
        found = [
            effect("ttft_s", Comparison.of("cold", f"round {number}", matches, self.first))
            for number, matches in self.experiment.later().items()
            if not self.refused({"cold", f"round {number}"})
        ]
        return [one for one in found if one is not None]

    def _judge(self) -> None:
        nodes = self.effects.get("nodes")
        drifts = {name: self._drift(one, nodes) for name, one in self.effects.items()}
        for name in UNDRIFTED & drifts.keys():
            drifts[name] = None
        self.effects = {
            name: msgspec.structs.replace(one, verdict=judge(one, self.findings, drifts[name]))
            for name, one in self.effects.items()
        }
        self.later = [
            msgspec.structs.replace(one, verdict=judge(one, self.findings, self._drift(one, nodes)))
            for one in self.later
        ]
        self.drift = next((drifts[name] for name in ("ttft", "one_hit") if name in drifts), None)
        held = [
            (one, drift)
            for name, one in self.effects.items()
            if (drift := drifts[name]) and name not in UNTOLD
        ]
        numbers = [one.number for one in self.experiment.repeats]
        self.findings += between.drift_findings(held, numbers)

    def _drift(self, one: Effect, nodes: Effect | None) -> Drift | None:
        """The control of an effect; a later round is held to that of the rounds that it follows."""
        other = "hit" if one.other.startswith("round ") else one.other
        comparison = self.compared.get(f"{one.base}>{other}")
        if comparison is None or self.experiment.old:
            return None
        return drift_of(self.experiment, comparison, nodes, GROUND.get(one.metric, "ttft_s"))

    def scenario(
        self, wished: Sequence[Target], need: tuple[float, enough.Need] | None
    ) -> Scenario:
        experiment = self.experiment
        ceiling = self._ceiling()
        cold = experiment.first("cold")
        base = cold or experiment.first("no_reuse")
        refused = self.refused({"cold", "hit"})
        rounds = [*_shown(experiment)]
        return Scenario(
            name=experiment.name,
            experiment_id=experiment.id,
            scenario=experiment.scenario,
            kind=experiment.kind,
            open_loop=experiment.open_loop,
            simulated=experiment.simulated,
            old=experiment.old,
            same_arm=experiment.same_arm,
            joined=experiment.joined,
            until=None if need is None else need[0],
            need=None if need is None else need[1],
            made_elsewhere=any(_made_elsewhere(one.run) for one in experiment),
            nodes=experiment.nodes,
            repeats=len(experiment.repeats),
            requests=base.stats.total_requests or None if base else None,
            cold=cold.count(COLD_STRATA) if cold else None,
            contexts=base.run.contexts if base and base.run else None,
            hit_tokens=_hit_tokens(experiment),
            evidence=evidence_of(experiment),
            comparable=experiment.comparable,
            missing=[] if experiment.comparable else self._missing(),
            refused=refused,
            effects=self.effects,
            value=self._value(),
            later=self.later,
            ceiling=ceiling,
            throughput_ceiling=self._throughput_ceiling(),
            unsaturated=self._unsaturated(),
            drift=self.drift,
            answers=same_answers(self.compared.get("cold>hit")),
            targets=[self._target(one, ceiling, refused) for one in wished],
            findings=gathered(self.findings),
            conditions=conditions.within(experiment),
            metrics=self._metrics(),
            strata=metrics.stratum_rows([(one.role, one.stats) for one in rounds]),
            rounds=rounds,
        )

    def _metrics(self) -> list[metrics.Row]:
        """Rows of the details, those without an effect of their own judged by repeats alone."""
        comparison = self.compared.get("cold>hit")
        if comparison is None and not self.experiment.first("cold"):
            comparison = self.compared.get("no_reuse>hit")
        return [
            one if one.effect is None or one.name in metrics.OWN else self._row(one, one.effect)
            for one in metrics.rows(self.experiment, comparison, self.effects)
        ]

    def _row(self, row: metrics.Row, effect: Effect) -> metrics.Row:
        """A row only tells a change from `~`: it is held to no control of drift."""
        judged = msgspec.structs.replace(effect, verdict=judge(effect, self.findings, None))
        return msgspec.structs.replace(row, effect=judged)

    def _missing(self) -> list[str]:
        """Which of the two rounds that a comparison needs are not there."""
        roles: tuple[Role, ...] = ("cold", "hit")
        return [role for role in roles if not self.experiment.first(role)]

    def _ceiling(self) -> ceilings.Ceiling | None:
        comparison = self.compared.get("cold>hit")
        if comparison is None or self.experiment.kind != "unit cost" or self.experiment.same_arm:
            return None
        return ceilings.ttft_ceiling(comparison)

    def _throughput_ceiling(self) -> float | None:
        if self.experiment.open_loop:
            return None
        return ceilings.throughput_ceiling(self.effects.get("ttft"), self.effects.get("e2e"))

    def _unsaturated(self) -> bool:
        """A load run in a closed loop whose servers were not shown to be busy all the time."""
        if self.experiment.kind != "load" or self.experiment.open_loop:
            return False
        match = self.experiment.matched("cold")
        rounds = [one for found in match for one in (*found.bases, found.other)]
        return not rounds or not all(saturated(one) for one in rounds)

    def _value(self) -> str | None:
        """The effect that says what one hit is worth: untainted first, and on one node's ground."""
        one_node, two_nodes = ("one_hit", "all_hits"), ("one_hit_bare", "one_hit")
        names = two_nodes if self.experiment.nodes else one_node
        there = [name for name in names if name in self.effects]
        clean = [name for name in there if not self._tainted(self.effects[name])]
        return next(iter([*clean, *there]), None)

    def _tainted(self, one: Effect) -> bool:
        return any(
            placed.finding.severity == "invalid" and placed.touches(one) for placed in self.findings
        )

    def _target(
        self, wish: Target, ceiling: ceilings.Ceiling | None, refused: Sequence[str]
    ) -> Result:
        best = None
        if wish.effect == "ttft" and ceiling and ceiling.one_hit > 1 - (wish.high or 1):
            best = ceiling.ratio
        if wish.effect == "throughput" and self.experiment.kind == "unit cost":
            best = self._throughput_ceiling()
        rate = wish.effect == "throughput"
        same_arm = self.experiment.same_arm
        return targets.judge(
            wish,
            {} if same_arm else self.effects,
            missing=self._inapplicable(rate=rate),
            invalid=refused,
            unsaturated=rate and self._unsaturated(),
            ceiling=best,
        )

    def _inapplicable(self, *, rate: bool) -> str | None:
        """Why a target has nothing to be held against."""
        if self.experiment.same_arm:
            return "aa"
        return "offered_rate" if rate and self.experiment.open_loop else None


def _made_elsewhere(run: Run | None) -> bool:
    """A workload without a seed: a repeat had a new salt, but the same text."""
    return run is not None and run.seed is None


def _hit_tokens(experiment: Experiment) -> float | None:
    """Mean prompt of the leaders and uniques that succeeded in hit rounds; None if not told."""
    told = [
        tokens
        for repeat in experiment.repeats
        if repeat.hit and (samples := repeat.hit.stats.samples)
        for stratum, ok, tokens in zip(
            samples.stratum, samples.ok, samples.prompt_tokens, strict=True
        )
        if stratum in COLD_STRATA and ok and tokens is not None
    ]
    return sum(told) / len(told) if told else None


def _shown(experiment: Experiment) -> Iterable[Shown]:
    """Every round, without what only the computation needed."""
    for repeat in experiment.repeats:
        for one in repeat:
            yield Shown(
                role=_role(one, repeat.cold, repeat.hit),
                repeat=repeat.number,
                place=one.place,
                stats=msgspec.structs.replace(one.stats, samples=None, server=[]),
            )


def _role(one: Round, cold: Round | None, hit: Round | None) -> str:
    if one is cold:
        return "cold"
    if one is hit:
        return "hit"
    return "no_reuse" if one.number == 0 else f"round {one.number}"
