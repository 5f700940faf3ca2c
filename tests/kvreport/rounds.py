"""Factories of round stats: an experiment as a model of misses and hits, made from a seed.

`Shape` says what is sent, `World` how long things take, and `experiment(...)` runs both through the
arms. Figures are drawn, so that tests can repeat them; nothing here reads a clock.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
import numpy as np

from kvpipe.records import (
    Arm,
    Arrival,
    Finding,
    Host,
    RoundStats,
    Run,
    Samples,
    Served,
    Stat,
    Stratum,
    Timings,
)
from kvreport.rounds import Round

NODE_A, NODE_B = "http://10.0.0.1:8000/v1", "http://10.0.0.2:8000/v1"
SERIAL = Arrival(kind="serial", concurrency=1)


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What is sent: followers are spread over the contexts, leaders first."""

    requests: int = 30
    contexts: int = 8
    uniques: int = 3
    sentinels: int = 3
    prompt_tokens: int = 2700
    output_tokens: int = 16

    def rows(self) -> list[tuple[Stratum, str | None]]:
        leaders: list[tuple[Stratum, str | None]] = [
            ("leader", f"g{at}") for at in range(self.contexts)
        ]
        uniques: list[tuple[Stratum, str | None]] = [("unique", None)] * self.uniques
        left = self.requests - self.contexts - self.uniques
        followers: list[tuple[Stratum, str | None]] = [
            ("follower", f"g{at % self.contexts}") for at in range(left)
        ]
        sentinels: list[tuple[Stratum, str | None]] = [("sentinel", None)] * self.sentinels
        return [*leaders, *uniques, *followers, *sentinels]


@dataclass(frozen=True, kw_only=True)
class World:
    """How long things take, in seconds; `noise` is the relative spread of each request.

    `group_effect` is the spread of what a group's context does to all its requests in a round,
    `ar` the correlation of neighbouring requests' noise, `drift` the factor on a whole round.
    """

    miss_s: float = 0.885
    hit_s: float = 0.060
    tpot_s: float = 0.020
    noise: float = 0.02
    group_effect: float = 0.0
    ar: float = 0.0
    drift: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What the heads say."""

    experiment_id: str = "exp-1"
    name: str = "long_context_high_reuse"
    scenario: str = "long_context_high_reuse"
    tier: Any = "local"
    arrival: Arrival = SERIAL
    node_a: str = NODE_A
    node_b: str = NODE_A
    model: str = "Qwen2.5-72B"
    engine: str = "vllm"
    simulated: bool = False
    plan: str = "plan"
    shape: str = "shape"
    run: dict[str, Any] = field(default_factory=dict)


SHAPE, WORLD, SETTING = Shape(), World(), Setting()


def run_of(setting: Setting, shape: Shape, arm: Arm, repeat: int, number: int) -> Run:
    hit_node = arm != "cold"
    return Run(
        run_id=f"{setting.experiment_id}-{setting.name}-{repeat}-{arm}-{number}",
        experiment_id=setting.experiment_id,
        name=setting.name,
        scenario=setting.scenario,
        arm=arm,
        tier=setting.tier,
        repeat=repeat,
        round_num=number,
        endpoint_url=setting.node_b if hit_node else setting.node_a,
        model=setting.model,
        engine=setting.engine,
        engine_version="0.32.0",
        simulated=setting.simulated,
        plan_sha256=f"{setting.plan}-{repeat}",
        shape_sha256=setting.shape,
        seed=7,
        calibrated="tokenize",
        requests=shape.requests,
        sentinels=shape.sentinels,
        contexts=shape.contexts or None,
        arrival=setting.arrival,
        salt=f"salt-{repeat}-{arm if arm == 'no_reuse' else ''}",
        salt_way="cache_salt",
        block_tokens=16,
        tool_version="0.1.0",
        host=Host(name="client", system="Linux 6.1", python="3.11.7", cpus=2),
        started_at=f"2026-03-01T10:{repeat:02}:{20 if number == 0 else number:02}+00:00",
        **setting.run,
    )


def samples_of(
    shape: Shape, world: World, arm: Arm, rng: np.random.Generator, *, remote: bool = False
) -> Samples:
    """One round: who is a miss follows from the arm and the stratum."""
    rows = shape.rows()
    count = len(rows)
    effects = {f"g{at}": rng.normal(0, 1) for at in range(shape.contexts)}
    shock, ttft = 0.0, []
    for stratum, group in rows:
        missed = stratum == "sentinel" or arm == "no_reuse"
        missed |= arm == "cold" and stratum != "follower"
        shock = world.ar * shock + np.sqrt(1 - world.ar**2) * rng.normal(0, 1)
        common = effects[group] if group else rng.normal(0, 1)
        factor = world.drift + world.noise * shock
        factor += 0.0 if stratum == "sentinel" else world.group_effect * common
        ttft.append(float((world.miss_s if missed else world.hit_s) * np.exp(factor)))
    tpot = [float(world.tpot_s * np.exp(world.noise * rng.normal())) for _ in rows]
    e2e = [one + (shape.output_tokens - 1) * two for one, two in zip(ttft, tpot, strict=True)]
    block = shape.prompt_tokens // 16 * 16
    found = {"cold": ("follower",), "hit": ("leader", "follower", "unique"), "no_reuse": ()}
    cached = [block if stratum in found[arm] else 0 for stratum, _ in rows]
    return Samples(
        index=list(range(count)),
        group=[group for _, group in rows],
        stratum=[stratum for stratum, _ in rows],
        ok=[True] * count,
        ttft_s=list(ttft),
        ttft_due_s=list(ttft),
        e2e_s=list(e2e),
        tpot_s=list(tpot),
        second_token_s=list(tpot),
        sent_s=[float(at) for at in range(count)],
        prompt_tokens=[shape.prompt_tokens] * count,
        output_tokens=[shape.output_tokens] * count,
        cached_tokens=list(cached),
        ideal_tokens=list(cached),
        output_sha256=[f"sha-{at}" for at in range(count)],
        total=count,
    )


def stat(values: Iterable[float | None]) -> Stat:
    told = [value for value in values if value is not None]
    if not told:
        return Stat(n=0)
    p50, p90, p95, p99 = (float(np.percentile(told, rank)) for rank in (50, 90, 95, 99))
    return Stat(
        n=len(told),
        mean=float(np.mean(told)),
        p50=p50,
        p90=p90,
        p95=p95,
        p99=p99 if len(told) >= 100 else None,
        min=min(told),
        max=max(told),
    )


def timings_of(samples: Samples, keep: Sequence[bool]) -> Timings:
    def column(name: str) -> Stat:
        values = zip(getattr(samples, name), samples.ok, keep, strict=True)
        return stat(value for value, ok, kept in values if ok and kept)

    return Timings(
        ttft_s=column("ttft_s"),
        ttft_due_s=column("ttft_due_s"),
        tpot_s=column("tpot_s"),
        itl_s=column("tpot_s"),
        e2e_s=column("e2e_s"),
        queue_s=Stat(n=0),
        second_token_s=column("second_token_s"),
    )


def stats_of(run: Run, samples: Samples, *, light: bool = False, **changes: Any) -> RoundStats:
    """Round stats as kvstats would make them of these samples; `light` leaves the strata out."""
    own = [stratum != "sentinel" for stratum in samples.stratum]
    good = sum(ok and kept for ok, kept in zip(samples.ok, own, strict=True))
    total = sum(own)
    timings = timings_of(samples, own)
    time_s = (
        sum(value or 0.0 for value, kept in zip(samples.e2e_s, own, strict=True) if kept) or None
    )
    known = [
        (cached, prompt)
        for cached, prompt, kept in zip(
            samples.cached_tokens, samples.prompt_tokens, own, strict=True
        )
        if kept and cached is not None and prompt is not None
    ]
    cached, prompt = sum(one for one, _ in known), sum(two for _, two in known)
    hit = run.arm == "hit"
    base: dict[str, Any] = {
        "run": run,
        "scenario": run.scenario,
        "name": run.name,
        "round_num": run.round_num,
        "endpoint_url": run.endpoint_url,
        "avg_ttft": timings.ttft_s.mean,
        "complete": True,
        "total_requests": total,
        "successful_requests": good,
        "failed_requests": total - good,
        "total_time_s": time_s,
        "request_throughput_rps": good / time_s if time_s else None,
        "timings": timings,
        "strata": {
            name: timings_of(samples, [one == name for one in samples.stratum])
            for name in sorted(set(samples.stratum) if not light else ())
        },
        "status_counts": {"ok": good},
        "cold_requests": sum(one in ("leader", "unique") for one in samples.stratum),
        "hit_ratio": cached / prompt if prompt else None,
        "ideal_hit_ratio": cached / prompt if prompt else None,
        "efficiency": 1.0 if hit else None,
        "tier_served": served_by(run),
        "leaders_served": Served(
            computed=100.0,
            local=0.0 if run.tier != "local" else 20_000.0,
            external=0.0 if run.tier == "local" else 20_000.0,
        )
        if hit
        else None,
        "cold_proof": None if hit else "proven",
        "samples": samples,
    }
    return RoundStats(**base | changes)


def served_by(run: Run) -> Any:
    if run.arm == "no_reuse":
        return "computed"
    return "local" if run.arm == "cold" else run.tier


def make(
    arm: Arm,
    repeat: int = 1,
    *,
    number: int | None = None,
    shape: Shape = SHAPE,
    world: World = WORLD,
    setting: Setting = SETTING,
    seed: int = 1,
    findings: Sequence[Finding] = (),
    place: str = "stats.jsonl:1",
    **changes: Any,
) -> Round:
    """One round of an arm, in its usual place."""
    numbers = {"cold": 1, "hit": 2, "no_reuse": 0}
    at = numbers[arm] if number is None else number
    rng = np.random.default_rng([seed, repeat, at, len(arm)])
    samples = samples_of(shape, world, arm, rng)
    run = run_of(setting, shape, arm, repeat, at)
    return Round(stats=stats_of(run, samples, findings=list(findings), **changes), place=place)


def experiment(
    repeats: int = 1, *, arms: Sequence[Arm] = ("cold", "hit"), seed: int = 1, **options: Any
) -> list[Round]:
    """Every round of so many repeats."""
    return [
        make(arm, repeat, seed=seed, **options) for repeat in range(1, repeats + 1) for arm in arms
    ]


def edited(one: Round, **changes: Any) -> Round:
    """A round with other stats."""
    return replace(one, stats=msgspec.structs.replace(one.stats, **changes))


def rerun(one: Round, **changes: Any) -> Round:
    """A round with another head."""
    return edited(one, run=msgspec.structs.replace(one.run, **changes))


def resampled(one: Round, **changes: Any) -> Round:
    """A round with other samples, its stats made anew from them."""
    assert one.stats.samples is not None and one.run is not None
    samples = msgspec.structs.replace(one.stats.samples, **changes)
    return replace(one, stats=stats_of(one.run, samples, findings=one.stats.findings))


def lines(rounds: Iterable[Round]) -> str:
    """As kvstats writes them."""
    return "".join(msgspec.json.encode(one.stats).decode() + "\n" for one in rounds)


def finding(code: Any, severity: Any = "warning", message: str = "something was seen") -> Finding:
    return Finding(code=code, severity=severity, message=message)
