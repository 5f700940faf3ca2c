"""What one invocation of kvload was asked to do; values only, no clock and no network."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from kvload.fleet import Shard
from kvpipe.process import UsageError
from kvpipe.records import Arm, Arrival, Calibration, Cleared, Role, Tier, Until

Api = Literal["chat", "completions"]
PdFlow = Literal["vllm", "lmcache"]
Rounds = dict[int, str]
SHARDS_PAUSE_S = 3.0  # two looks of the barrier, and what clocks are apart


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """How servers are spoken to; the key never reaches a record."""

    api_key: str | None = field(default=None, repr=False)
    headers: dict[str, str] = field(default_factory=dict, repr=False)
    timeout_s: float = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where the requests come from: kvplan's own flags, or a workload file."""

    scenario: str | None
    plan_flags: tuple[str, ...] = ()
    workload: str | None = None
    keep_plan: str | None = None
    """File that the plan is written to, as it came from kvplan."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """One scenario, its rounds and its controls."""

    name: str | None
    source: Source
    endpoints: Rounds
    model: str | None
    api: Api
    access: Access
    extra_body: dict[str, Any]
    rounds: int
    only_round: int | None
    arm: Arm | None
    same_arm_twice: bool
    tier: Tier
    pause_s: float
    repeats: tuple[int, ...]
    until: Until | None
    until_max: int
    control: bool
    salt: str
    isolation: Cleared | None
    calibration: Calibration | None = None
    engines: tuple[tuple[str, str], ...]
    metrics_urls: tuple[tuple[Role, str], ...]
    pd_flow: PdFlow | None = None
    """Who sends token 1 behind a proxy, as asked for."""
    block_tokens: int | None
    chunk_tokens: int | None
    arrival: Arrival
    max_concurrency: int | None
    workers: int
    warmup_passes: int
    max_failures: int
    keep_output: bool
    experiment_id: str
    seed: int
    config: dict[str, Any]
    shard: Shard | None = None
    start_at: datetime | None = None
    """When the first round begins; null: as soon as it can."""

    @property
    def disaggregated(self) -> bool:
        """Whether prefill and decode are known to run on servers of their own."""
        roles = {role for role, _ in self.metrics_urls}
        return self.pd_flow is not None or not roles.isdisjoint({"prefill", "decode"})

    def endpoint(self, round_num: int) -> str:
        """Endpoint of a round: its own, else that of the last round before it that has one.

        A no_reuse round (0) goes where the hits go: the gain is measured on that node.
        """
        wanted = max(2, min(self.endpoints)) if round_num == 0 else round_num
        known = [number for number in self.endpoints if number <= wanted]
        return self.endpoints[max(known) if known else min(self.endpoints)]


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundPlan:
    """One round of a repeat, in the order of sending."""

    arm: Arm
    round_num: int
    salt: Literal["namespace", "fresh", "request"]
    position: str | None = None


def rounds_of(experiment: Experiment, repeat: int) -> list[RoundPlan]:
    """The rounds of one repeat (isolate, cold, barrier, hit; no_reuse before or after).

    no_reuse stands before cold in odd repeats and after the hits in even ones, never between them,
    where its saves could evict what cold stored.
    """
    if experiment.only_round is not None:
        arm = experiment.arm or arm_of(experiment.only_round)
        return [
            RoundPlan(
                arm=arm,
                round_num=experiment.only_round,
                salt="request" if arm == "no_reuse" else "namespace",
            )
        ]
    if experiment.same_arm_twice:
        arm = experiment.arm or "cold"
        salt: Literal["fresh", "request"] = "request" if arm == "no_reuse" else "fresh"
        return [RoundPlan(arm=arm, round_num=number, salt=salt) for number in (1, 2)]
    if experiment.arm is not None:
        salt_of: Literal["request", "namespace"] = (
            "request" if experiment.arm == "no_reuse" else "namespace"
        )
        count = 1 if experiment.arm == "no_reuse" else experiment.rounds
        first = 0 if experiment.arm == "no_reuse" else 1
        return [
            RoundPlan(arm=experiment.arm, round_num=first + number, salt=salt_of)
            for number in range(count)
        ]
    plain = [
        RoundPlan(arm=arm_of(number), round_num=number, salt="namespace")
        for number in range(1, experiment.rounds + 1)
    ]
    if not wants_control(experiment):
        return plain
    before = repeat % 2 == 1
    control = RoundPlan(
        arm="no_reuse", round_num=0, salt="request", position="before" if before else "after"
    )
    return [control, *plain] if before else [*plain, control]


def arm_of(round_num: int) -> Arm:
    """Round 0 is no_reuse, round 1 cold, every later one a hit."""
    return "no_reuse" if round_num == 0 else "cold" if round_num == 1 else "hit"


def wants_control(experiment: Experiment) -> bool:
    """Whether a no_reuse round stands beside cold and hit.

    Across nodes it is what B's hits are compared with; with repeats it is the control of drift and
    the baseline with a steady state. A single ad-hoc run on one node goes without, unless it says
    `control`: then it is one repeat of several that run in processes of their own.
    """
    if experiment.salt == "none" or experiment.rounds < 2:
        return False
    return experiment.control or experiment.tier == "remote" or len(experiment.repeats) > 1


def check(experiment: Experiment) -> None:
    """Raise UsageError for what cannot be asked together."""
    if experiment.only_round is not None and experiment.salt == "auto":
        raise UsageError(
            "--salt auto makes a new namespace in every call, so a later --round 2 could never hit;"
            " use the same --salt TEXT for each round"
        )
    if experiment.tier == "remote" and experiment.only_round is None and experiment.arm is None:
        places = {experiment.endpoint(number) for number in range(1, experiment.rounds + 1)}
        if len(places) == 1 and experiment.rounds > 1 and not experiment.same_arm_twice:
            raise UsageError(
                "--tier remote needs round 2 on another endpoint: --url 1=URL_A --url 2=URL_B"
            )
    alone = experiment.only_round is not None or experiment.arm or experiment.same_arm_twice
    if experiment.control and (alone or experiment.salt == "none" or experiment.rounds < 2):
        raise UsageError(
            "--control adds a no_reuse round to cold and hit: it needs both of them and a salt"
        )
    if experiment.until is not None:
        _check_until(experiment, alone=bool(alone))
    if experiment.only_round is not None and len(experiment.repeats) > 1:
        raise UsageError("--round is one round: give --repeat I, not --repeats N")
    if experiment.shard is not None:
        _check_shard(experiment)


def _check_shard(experiment: Experiment) -> None:
    """Raise UsageError for what one shard of a fleet cannot decide or do alone."""
    assert experiment.shard is not None
    if experiment.salt == "auto":
        raise UsageError(
            "--salt auto makes a new namespace in every shard; use the same --salt TEXT in each"
        )
    if experiment.same_arm_twice:
        raise UsageError(
            "--aa makes new salts, and every shard would make its own: send the two rounds as"
            " --round 1 and --round 2 --arm cold, under two --salt TEXT"
        )
    if experiment.until is not None:
        raise UsageError("--until decides by every request, and a shard sees only its own")
    if experiment.only_round is not None:
        return
    if experiment.rounds > 1 and experiment.shard.count > 1 and experiment.pause_s < SHARDS_PAUSE_S:
        raise UsageError(
            f"--pause {experiment.pause_s:g}: shards see that the servers rest at times a second"
            f" apart, so that one's round 2 would run in another's round 1: {SHARDS_PAUSE_S:g} or"
            " more"
        )
    if experiment.tier == "store":
        raise UsageError(
            "--tier store empties the engine between the rounds, and a shard would do so under the"
            " others: send --round 1, reset the engine (kvclear --local-only), send --round 2"
        )


def _check_until(experiment: Experiment, *, alone: bool) -> None:
    """Raise UsageError for an --until that has nothing to compare or too little to begin with."""
    from kvpipe import stein

    first = len(experiment.repeats)
    if alone or experiment.rounds < 2 or experiment.salt == "none":
        raise UsageError("--until compares cold and hit: it needs both of them and a salt")
    if first < stein.FIRST_REPEATS or experiment.repeats[0] != 1:
        raise UsageError(
            f"--until: the first stage has {stein.FIRST_REPEATS} repeats or more: --repeats"
            f" {stein.FIRST_REPEATS}"
        )
    if experiment.until_max < first:
        raise UsageError(f"--until-max {experiment.until_max}: there are {first} to begin with")
    if experiment.source.keep_plan is not None:
        raise UsageError("--keep-plan is one file, and --until makes later plans as it goes")
