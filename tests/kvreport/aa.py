"""A/A and planted effects: experiments whose truth is known, on a ground that is not still.

Both rounds of a repeat are dispatched on one time line, sentinels spread through each, and what is
injected lies in the measurement, as it does on a machine:

- `groups`: what a context does to all its requests in one round, to each round anew;
- `memory`: how much of one request's noise the next one inherits, over the ends of rounds too;
- `slope`: how far the ground moves from one round to the next, evenly, in every repeat alike;
- `walk`: how far it wanders between two requests, at random;
- `repeats`: what a repeat does to its hit round, sentinels apart: the spread that `--until` reads.

Times move as log ratios; TPOT moves with the ground as TTFT does. Nothing reads a clock.

Under load a round without reuse stands before cold in odd repeats and after the hits in even ones,
as kvload sends them (a single repeat has both), and the ground moves on from repeat to repeat:
what these rounds see of it is the control.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from tests.kvreport.rounds import SETTING, Shape, rerun, run_of, stats_of

from kvpipe.records import Arm, Arrival, Samples, Stratum
from kvreport.rounds import Round

Floats = npt.NDArray[np.float64]
TTFT_S, TPOT_S = 0.5, 0.02
SERIAL_ARMS: tuple[Arm, ...] = ("cold", "hit")
LOAD = Arrival(kind="closed", concurrency=5)


@dataclass(frozen=True, kw_only=True)
class Ground:
    """What moves, as standard deviations or shifts of log time; `noise` is each request's own."""

    noise: float = 0.03
    groups: float = 0.0
    memory: float = 0.0
    slope: float = 0.0
    walk: float = 0.0
    repeats: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Sent:
    """What a round sends: so many requests over so many contexts, with sentinels between."""

    contexts: int
    requests: int = 24
    sentinels: int = 4

    def rows(self) -> list[tuple[Stratum, str | None]]:
        shape = Shape(
            requests=self.requests, contexts=self.contexts, uniques=0, sentinels=self.sentinels
        )
        rows = shape.rows()
        own, sentinels = rows[: self.requests], rows[self.requests :]
        places = np.linspace(0, len(rows) - 1, self.sentinels).round().astype(int)
        mixed = iter(own)
        spread = iter(sentinels)
        return [next(spread if at in places else mixed) for at in range(len(rows))]


def rounds_of(
    ground: Ground, sent: Sent, repeats: range, seed: int, effect: float = 0.0
) -> list[Round]:
    """Cold and hit rounds of some repeats; `effect` is planted in the hit rounds' log TTFT.

    A repeat is the same whichever others are asked for with it.
    """
    found = []
    for repeat in repeats:
        rng = np.random.default_rng([seed, repeat])
        rows = sent.rows()
        common = float(rng.normal(0, ground.repeats)) if ground.repeats else 0.0
        moved = _ground(ground, 2 * len(rows), rng)
        for number, arm in enumerate(SERIAL_ARMS):
            part = moved[number * len(rows) : (number + 1) * len(rows)]
            shift = effect + common if arm == "hit" else 0.0
            found.append(_round(ground, sent, rows, part, arm, repeat, shift, rng))
    return found


def load_of(
    ground: Ground, sent: Sent, repeats: range, seed: int, effect: float = 0.0
) -> list[Round]:
    """The same under load, with rounds without reuse; the ground moves on between repeats."""
    between = np.random.default_rng([seed, 0]).normal(0, 1, max(repeats) + 1)
    found = []
    for repeat in repeats:
        rng = np.random.default_rng([seed, repeat])
        rows = sent.rows()
        arms = arms_under_load(repeat, alone=len(repeats) == 1)
        before = (repeat - 1) * len(arms)
        walked = ground.walk * np.sqrt(len(rows) * 3) * between[:repeat].sum()
        common = float(rng.normal(0, ground.repeats)) if ground.repeats else 0.0
        moved = _ground(ground, len(arms) * len(rows), rng, rounds=len(arms))
        moved += ground.slope * before + walked
        for place, arm in enumerate(arms):
            part = moved[place * len(rows) : (place + 1) * len(rows)]
            shift = effect + common if arm == "hit" else 0.0
            one = _round(ground, sent, rows, part, arm, repeat, shift, rng, LOAD)
            assert one.run is not None
            changed = {
                "run_id": f"{one.run.run_id}-{place}",
                "started_at": f"2026-03-01T10:{repeat:02}:{place:02}+00:00",
            }
            found.append(rerun(one, **changed))
    return found


def arms_under_load(repeat: int, *, alone: bool) -> tuple[Arm, ...]:
    if alone:
        return ("no_reuse", "cold", "hit", "no_reuse")
    return ("no_reuse", "cold", "hit") if repeat % 2 else ("cold", "hit", "no_reuse")


def _ground(ground: Ground, count: int, rng: np.random.Generator, rounds: int = 2) -> Floats:
    """Where the ground lies at each request of some rounds: a slope, and a walk."""
    even = ground.slope * np.arange(count) / (count / rounds)
    return even + np.cumsum(rng.normal(0, ground.walk, count) if ground.walk else np.zeros(count))


def _noise(ground: Ground, count: int, rng: np.random.Generator) -> Floats:
    """Autocorrelated noise of an unchanging spread."""
    shocks = rng.normal(0, 1, count)
    found = np.empty(count)
    last = float(rng.normal(0, 1))
    for at, shock in enumerate(shocks):
        last = ground.memory * last + np.sqrt(1 - ground.memory**2) * float(shock)
        found[at] = last
    return ground.noise * found


def _round(
    ground: Ground,
    sent: Sent,
    rows: list[tuple[Stratum, str | None]],
    moved: Floats,
    arm: Arm,
    repeat: int,
    shift: float,
    rng: np.random.Generator,
    arrival: Arrival = SETTING.arrival,
) -> Round:
    count = len(rows)
    contexts = {group: rng.normal(0, ground.groups) for _, group in rows if group}
    own = np.array([contexts.get(group, 0.0) if group else 0.0 for _, group in rows])
    planted = np.array([0.0 if stratum == "sentinel" else shift for stratum, _ in rows])
    ttft = TTFT_S * np.exp(moved + _noise(ground, count, rng) + own + planted)
    tpot = TPOT_S * np.exp(moved + _noise(ground, count, rng) / 3)
    samples = Samples(
        index=list(range(count)),
        group=[group for _, group in rows],
        stratum=[stratum for stratum, _ in rows],
        ok=[True] * count,
        ttft_s=ttft.tolist(),
        ttft_due_s=ttft.tolist(),
        e2e_s=(ttft + 15 * tpot).tolist(),
        tpot_s=tpot.tolist(),
        second_token_s=tpot.tolist(),
        sent_s=np.arange(float(count)).tolist(),
        prompt_tokens=[1000] * count,
        output_tokens=[16] * count,
        cached_tokens=[0] * count,
        ideal_tokens=[0] * count,
        output_sha256=[None] * count,
        total=count,
    )
    shape = Shape(requests=sent.requests, contexts=sent.contexts, uniques=0)
    setting = replace(SETTING, arrival=arrival)
    numbers: dict[Arm, int] = {"no_reuse": 0, "cold": 1, "hit": 2}
    run = run_of(setting, shape, arm, repeat, numbers[arm])
    return Round(stats=stats_of(run, samples, light=True), place="stats.jsonl:1")
