"""Rounds out of planted coefficients: what a fit must find again.

Everything is drawn from a seed. Each repeat's machine is a little faster or slower by itself, each
group's requests have something in common, and every request is off by itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
from tests.kvreport.rounds import NODE_B, Setting, run_of, stats_of
from tests.kvreport.rounds import Shape as Plan

from kvpipe.records import Arm, Samples, Stratum
from kvreport.efficiency_line import SOURCES, Rows
from kvreport.rounds import Round

BLOCK = 128
Times = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Planted:
    """Seconds: in all, a computed token, its square, a cached token by tier, and a load."""

    a: float = 0.020
    b: float = 1 / 4000
    b2: float = 1.5e-8
    c_local: float = 2e-6
    c_remote: float = 1.2e-5
    d_remote: float = 0.012
    noise: float = 0.03
    between_groups: float = 0.02
    between_repeats: float = 0.03

    def of(self, name: str) -> float:
        return float(getattr(self, name))


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Prompts of each length: contexts of three requests each, two uniques, two sentinels."""

    lengths: tuple[int, ...] = (700, 1500, 2700, 4000)
    contexts: int = 2
    sentinel: int = 512


@dataclass(frozen=True, kw_only=True)
class Sent:
    """One request of one round, before anybody knows how long it takes."""

    index: int
    stratum: Stratum
    group: str | None
    prompt: int
    computed: int
    local: int
    remote: int


def requests(shape: Shape, arm: Arm, rng: np.random.Generator) -> list[Sent]:
    """A round: leaders hit the other node in a hit round, followers always their own."""
    found: list[Sent] = []

    def add(stratum: Stratum, group: str | None, length: int) -> None:
        prompt = length + int(rng.integers(0, 64))
        whole = (prompt - 1) // BLOCK * BLOCK
        first = stratum != "follower"
        missed = arm == "no_reuse" or stratum == "sentinel" or (first and arm == "cold")
        hit = 0 if missed else whole
        found.append(
            Sent(
                index=len(found),
                stratum=stratum,
                group=group,
                prompt=prompt,
                computed=prompt - hit,
                local=0 if first else hit,
                remote=hit if first else 0,
            )
        )

    for length in shape.lengths:
        for context in range(shape.contexts):
            for of in range(3):
                add("follower" if of else "leader", f"{length}.{context}", length)
        for _ in range(2):
            add("unique", None, length)
            add("sentinel", None, shape.sentinel)
    return found


def columns_of(sent: Sequence[Sent]) -> npt.NDArray[np.float64]:
    """What each coefficient is taken times, a row a request."""
    return np.array(
        [[1, one.computed, one.computed**2, one.local, one.remote, one.remote > 0] for one in sent],
        dtype=np.float64,
    )


def timed(
    columns: npt.NDArray[np.float64],
    group: npt.NDArray[np.int64],
    world: Planted,
    scales: npt.NDArray[np.float64],
    common: npt.NDArray[np.float64],
    rng: np.random.Generator,
) -> npt.NDArray[np.float64]:
    """How long each takes; `common` is what each group's requests share."""
    planted = np.array([world.of(name) for name in TERMS])
    shock = world.between_groups * common[group] + world.noise * rng.normal(size=len(columns))
    return np.asarray((columns @ (planted * scales)) * np.exp(shock))


TERMS = ("a", "b", "b2", "c_local", "c_remote", "d_remote")
ARMS: tuple[Arm, ...] = ("no_reuse", "cold", "hit")


@cache
def plan(shape: Shape) -> tuple[list[list[Sent]], list[npt.NDArray[np.int64]]]:
    """The rounds of a repeat, and the numbers of the groups of their requests."""
    rng = np.random.default_rng(len(shape.lengths))
    sent = [requests(shape, arm, rng) for arm in ARMS]
    names = {one.group or f"#{one.index}" for lot in sent for one in lot}
    places = {name: at for at, name in enumerate(sorted(names))}
    return sent, [np.array([places[one.group or f"#{one.index}"] for one in lot]) for lot in sent]


def drawn(seed: int, repeats: int, shape: Shape, world: Planted) -> Iterator[list[Times]]:
    """TTFTs, repeat by repeat and round by round."""
    rng = np.random.default_rng(seed)
    sent, group = plan(shape)
    count = 1 + max(int(one.max()) for one in group)
    spread = world.between_repeats if repeats > 1 else 0.0
    for _ in range(repeats):
        scales, common = np.exp(spread * rng.normal(size=len(TERMS))), rng.normal(size=count)
        yield [
            timed(columns_of_plan(shape)[at], group[at], world, scales, common, rng)
            for at in range(len(sent))
        ]


@cache
def columns_of_plan(shape: Shape) -> list[npt.NDArray[np.float64]]:
    return [columns_of(one) for one in plan(shape)[0]]


def rows(seed: int, repeats: int, shape: Shape, world: Planted) -> Rows:
    """What a fit is given, without the detour over rounds."""
    sent, group = plan(shape)
    every = [one for lot in sent for one in lot] * repeats
    own = np.concatenate(group)
    cached = {name: np.zeros(len(every)) for name in SOURCES}
    cached["local"] = np.array([float(one.local) for one in every])
    cached["remote"] = np.array([float(one.remote) for one in every])
    return Rows(
        ttft_s=np.concatenate([np.concatenate(one) for one in drawn(seed, repeats, shape, world)]),
        prompt=np.array([float(one.prompt) for one in every]),
        uncached=np.array([float(one.computed) for one in every]),
        cached=cached,
        repeat=np.repeat(np.arange(repeats), len(own)),
        group=np.concatenate([own + at * (own.max() + 1) for at in range(repeats)]),
    )


def rounds(
    repeats: int,
    *,
    shape: Shape | None = None,
    world: Planted | None = None,
    told: bool = True,
    seed: int = 1,
    setting: Setting | None = None,
) -> list[Round]:
    """The same as kvstats would hand it on; `told`: requests say which tier they hit."""
    setting = setting or Setting(tier="remote", node_a=NODE_B, node_b=NODE_B)
    shape, world = shape or Shape(), world or Planted()
    made: list[Round] = []
    for repeat, times in enumerate(drawn(seed, repeats, shape, world), 1):
        for number, (arm, sent) in enumerate(zip(ARMS, plan(shape)[0], strict=True)):
            samples = samples_of(sent, times[number].tolist(), told=told)
            run = run_of(setting, Plan(), arm, repeat, number)
            place = f"stats.jsonl:{len(made) + 1}"
            made.append(Round(stats=stats_of(run, samples, light=True), place=place))
    return made


def samples_of(sent: Sequence[Sent], ttft: Sequence[float], *, told: bool) -> Samples:
    count = len(sent)
    return Samples(
        index=[one.index for one in sent],
        group=[one.group for one in sent],
        stratum=[one.stratum for one in sent],
        ok=[True] * count,
        ttft_s=list(ttft),
        ttft_due_s=list(ttft),
        e2e_s=[time + 0.1 for time in ttft],
        tpot_s=[0.02] * count,
        second_token_s=[0.02] * count,
        sent_s=[float(at) for at in range(count)],
        prompt_tokens=[one.prompt for one in sent],
        output_tokens=[8] * count,
        cached_tokens=[one.local + one.remote for one in sent],
        ideal_tokens=[one.local + one.remote for one in sent],
        output_sha256=[None] * count,
        cached_local_tokens=[one.local for one in sent] if told else [],
        cached_remote_tokens=[one.remote for one in sent] if told else [],
        total=count,
    )
