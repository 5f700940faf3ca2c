"""A/A: the same arm twice, under drift, autocorrelation and group effects; verdicts must be rare.

With independent noise this would prove nothing. One run may only speak about its own effect, so
what is injected lies in the measurement: what a context does to its requests in one round, what one
request hands on to the next, and how far the whole ground moves between the rounds.
"""

from __future__ import annotations

import math

import pytest
from tests.kvreport.rounds import Setting, Shape, World, make, rerun

from kvpipe.records import Arrival
from kvreport.conclude import conclude
from kvreport.experiments import group
from kvreport.rounds import Round
from kvreport.targets import parse

SEEDS = 150
BOUND = 0.05 + 3 * math.sqrt(0.05 * 0.95 / SEEDS)
SAME = {"miss_s": 0.5, "hit_s": 0.5}


def rounds_of(repeats: int, contexts: int, world: World, seed: int) -> list[Round]:
    """Round 2 of a ground that moved by `world.drift` since round 1."""
    shape = Shape(requests=24, contexts=contexts, uniques=0, sentinels=3)
    still = World(**{name: getattr(world, name) for name in KEPT}, drift=0.0)
    rounds = []
    for repeat in range(1, repeats + 1):
        options = {"shape": shape, "seed": seed, "light": True}
        rounds.append(make("cold", repeat, world=still, **options))  # type: ignore[arg-type]
        rounds.append(make("hit", repeat, world=world, **options))  # type: ignore[arg-type]
    return rounds


KEPT = ("miss_s", "hit_s", "tpot_s", "noise", "group_effect", "ar")


def directional(rounds: list[Round]) -> tuple[bool, bool]:
    """Whether the whole report says faster or slower, and whether its interval alone would have."""
    (found,) = conclude(group(rounds), parse([]), tool_version="test").scenarios
    effects = [found.effects[name] for name in ("ttft", "one_hit")]
    said = any(one.verdict.word in ("faster", "slower") for one in effects)
    ttft = found.effects["ttft"].interval
    return said, ttft is not None and not ttft.low <= 0 <= ttft.high


@pytest.mark.parametrize("contexts", [1, 3, 10])
@pytest.mark.parametrize("repeats", [1, 3])
@pytest.mark.parametrize(
    "world",
    [
        World(**SAME, noise=0.03, group_effect=0.05, ar=0.6),
        World(**SAME, noise=0.03, group_effect=0.05, ar=0.6, drift=0.08),
    ],
    ids=["groups and autocorrelation", "and drift"],
)
def test_false_verdicts_are_rare(world: World, repeats: int, contexts: int) -> None:
    said = sum(directional(rounds_of(repeats, contexts, world, seed))[0] for seed in range(SEEDS))
    assert said / SEEDS <= BOUND


def test_the_drift_would_have_been_taken_for_an_effect() -> None:
    """A guard on the guard: without the control most of these runs would have had a verdict."""
    world = World(**SAME, noise=0.03, drift=0.08)
    found = [directional(rounds_of(3, 10, world, seed)) for seed in range(30)]
    assert sum(alone for _, alone in found) > 25
    assert not any(said for said, _ in found)


@pytest.mark.parametrize("repeats", [1, 3])
def test_an_effect_that_is_there_is_found(repeats: int) -> None:
    """Silence is no proof: a hit at a tenth of a miss is called faster every time."""
    world = World(miss_s=0.5, hit_s=0.05, noise=0.03, group_effect=0.05, ar=0.6)
    found = [directional(rounds_of(repeats, 10, world, seed))[0] for seed in range(30)]
    assert sum(found) >= 29


def test_under_load_the_rounds_without_reuse_are_the_control() -> None:
    """Two of them and nothing moved: a verdict; moved by half: none."""
    setting = Setting(arrival=Arrival(kind="closed", concurrency=5))

    def scenario(late: float) -> str:
        rounds = [
            make("no_reuse", setting=setting),
            make("cold", setting=setting),
            make("hit", setting=setting),
            make("no_reuse", setting=setting, number=0, seed=2, world=World(drift=late)),
        ]
        rounds[3] = rerun(rounds[3], run_id="later", started_at="2026-03-01T11:00:00+00:00")
        (found,) = conclude(group(rounds), parse([]), tool_version="test").scenarios
        return found.effects["ttft"].verdict.word

    assert scenario(0.0) == "faster"
    assert scenario(0.5) == "withheld"
