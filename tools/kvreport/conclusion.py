"""What a report knows: every number and every code, and not one word of prose about them.

Renderers and languages read this; `--format json` is this. Times are seconds, ratios are other by
base, intervals are of log ratios.
"""

from __future__ import annotations

import msgspec

from kvpipe.records import Outcome, RoundStats, Run
from kvreport.answers import TARGET, Answer, codes
from kvreport.capacity import Capacities
from kvreport.ceilings import Ceiling
from kvreport.conditions import Condition
from kvreport.drift import Drift
from kvreport.effects import Effect
from kvreport.efficiency import Efficiency
from kvreport.efficiency_cost import Churn
from kvreport.enough import Enough, Need
from kvreport.evidence import Evidence
from kvreport.experiments import Kind
from kvreport.metrics import Row, StratumRow
from kvreport.placed import Placed
from kvreport.prediction import Prediction
from kvreport.same_answers import SameAnswers
from kvreport.targets import PASSED, Result


class Shown(msgspec.Struct, frozen=True, kw_only=True):
    """A round as the details show it: its stats without samples and series, and where it stood."""

    role: str
    repeat: int
    place: str
    stats: RoundStats

    @property
    def runs(self) -> list[Run]:
        """Its heads: none of an old file, several of merged shards."""
        run = self.stats.run
        return run if isinstance(run, list) else [run]


class Scenario(msgspec.Struct, frozen=True, kw_only=True):
    """One experiment's conclusions.

    `effects` by name: `ttft`, `e2e`, `tpot`, `throughput`, ... are cold to hit; `one_hit` is over
    leaders and uniques; `one_hit_bare` and `all_hits` are no_reuse to hit, over leaders and uniques
    and over all; `nodes` is cold on node A to no_reuse on node B. What could not be computed is
    absent. `refused` holds the codes that forbid any percentage, `value` the name of the effect
    that says what one hit is worth. `cold` of `requests` had no earlier donor in round 1. `until`
    is the half-width that the number of repeats was fixed for in two stages, `need` how many.
    """

    name: str
    experiment_id: str | None
    scenario: str
    kind: Kind | None
    open_loop: bool
    simulated: bool
    old: bool
    same_arm: bool
    joined: bool
    made_elsewhere: bool
    nodes: tuple[str, str] | None
    repeats: int
    requests: int | None
    cold: int | None
    contexts: int | None
    hit_tokens: float | None
    evidence: Evidence
    comparable: bool
    missing: list[str]
    refused: list[str]
    effects: dict[str, Effect]
    value: str | None
    later: list[Effect]
    ceiling: Ceiling | None
    throughput_ceiling: float | None
    unsaturated: bool
    drift: Drift | None
    answers: SameAnswers | None
    until: float | None
    need: Need | None
    targets: list[Result]
    findings: list[Placed]
    conditions: list[Condition]
    metrics: list[Row]
    strata: list[StratumRow]
    rounds: list[Shown]

    @property
    def one_hit(self) -> Effect | None:
        return self.effects[self.value] if self.value else None

    @property
    def mixture(self) -> tuple[int, int] | None:
        """(cold, requests) where the requests of round 1 were of both kinds."""
        if self.cold is None or not self.requests or self.cold in (0, self.requests):
            return None
        return self.cold, self.requests

    @property
    def answer(self) -> Answer:
        """What the first screen says, as figures and codes."""
        effect, result = self.one_hit, self.result(TARGET)
        low, high = (effect.bounds() if effect else None) or (None, None)
        judged = result is not None and self.comparable and not self.same_arm
        return Answer(
            name=self.name,
            simulated=self.simulated,
            base=effect.base if effect else None,
            other=effect.other if effect else None,
            requests=self.requests,
            model=next((run.model for one in self.rounds for run in one.runs), None),
            base_s=effect.base_mean if effect else None,
            other_s=effect.other_mean if effect else None,
            ratio=effect.ratio if effect else None,
            low=low,
            high=high,
            verdict=effect.verdict.word if effect else "none",
            scope=effect.verdict.scope if effect else None,
            by=effect.verdict.by if effect else self.refused,
            target=result.status if result and judged else None,
            asked=list(result.target.asked) if result and judged else [],
            repeats=self.repeats,
            invalid=codes(self.findings, "invalid"),
            warnings=codes(self.findings, "warning"),
        )

    def result(self, target: str) -> Result | None:
        return next((one for one in self.targets if one.target.name == target), None)

    def touching(self, effect: Effect) -> list[Placed]:
        return [one for one in self.findings if one.touches(effect)]

    def codes(self, severity: str | None = None) -> set[str]:
        return {
            one.finding.code
            for one in self.findings
            if severity is None or one.finding.severity == severity
        }


class Contrast(msgspec.Struct, frozen=True, kw_only=True):
    """One scenario against the baseline scenario: paired where both sent the same requests.

    `refused` is why they were not paired: other `shape` or `text`, or no `samples`; null if they
    were. `differs` is in what their plans differ. `token_first`: only one of the two sends token 1
    before the KV transfer, so that TTFT and TPOT are not compared.
    """

    name: str
    refused: str | None
    effects: dict[str, Effect]
    differs: list[Condition] = []
    token_first: bool = False


class Column(msgspec.Struct, frozen=True, kw_only=True):
    """A column of the documents' comparison: means over the rounds of one role; null: not known.

    `key` is `non_pd`, `pd_cold` or `pd_hit`; throughput is null in an open loop. `estimated` names
    the phases that no server measured.
    """

    key: str
    name: str
    ttft_s: float | None
    tpot_s: float | None
    e2e_s: float | None
    throughput_rps: float | None
    second_token_s: float | None = None
    prefill_s: float | None = None
    transfer_s: float | None = None
    decode_s: float | None = None
    estimated: list[str] = []


class Modes(msgspec.Struct, frozen=True, kw_only=True):
    """A PD scenario beside its non-PD partner.

    `effects` are from the partner's cold round to the PD rounds, `ttft_cold`, `ttft_hit` and so on;
    `refused` is why nothing was paired: `samples`, other `shape`, or other `text`. `flow` is who
    sends token 1 of the PD scenario: `vllm` the decoder, after the KV transfer, `lmcache` the
    prefiller, before it (then TTFT and TPOT are not compared); null: not known.
    """

    non_pd: str
    pd: str
    refused: str | None
    columns: list[Column]
    effects: dict[str, Effect]
    differs: list[Condition] = []
    flow: str | None = None


class Conclusion(msgspec.Struct, frozen=True, kw_only=True, tag_field="record", tag="report"):
    """The whole report."""

    schema: int = 1
    tool_version: str
    answers: list[Answer] = []
    """What the first screen says of each scenario; filled in where the JSON is written."""
    scenarios: list[Scenario]
    conditions: list[Condition]
    until: Enough | None = None
    baseline: str | None = None
    contrasts: list[Contrast] = []
    modes: list[Modes] = []
    capacities: list[Capacities] = []
    outcomes: list[Outcome] = []
    """Of a matrix' scenarios, those that failed among them."""
    predictions: list[Prediction] = []
    efficiency: list[Efficiency] = []
    churn: list[Churn] = []

    @property
    def answered(self) -> Conclusion:
        """The same, with its answers at its head."""
        return msgspec.structs.replace(self, answers=[one.answer for one in self.scenarios])

    @property
    def simulated(self) -> bool:
        return any(self.each_simulated)

    @property
    def each_simulated(self) -> list[bool]:
        """Of every scenario, and of every capacity."""
        return [one.simulated for one in self.scenarios] + [
            one.simulated for one in self.capacities
        ]

    @property
    def failed_targets(self) -> list[tuple[str, Result]]:
        """Targets named on the command line that were not met, with their scenarios."""
        return [
            (scenario.name, result)
            for scenario in self.scenarios
            for result in scenario.targets
            if result.target.named and result.status not in PASSED
        ]

    @property
    def contrasted(self) -> set[str]:
        """Scenarios that were paired with the baseline, and the baseline: they need no round 2."""
        names = {one.name for one in self.contrasts if one.effects}
        return names | {self.baseline} if names and self.baseline else names

    @property
    def incomparable(self) -> list[Scenario]:
        return [one for one in self.scenarios if not one.comparable or one.refused]
