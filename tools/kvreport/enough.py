"""How many repeats are enough for a wished half-width of the TTFT ratio: two-stage, or not at all.

What was decided when the runs were made stands in their heads, and a later report keeps to it: the
first repeats alone give the spread, however many followed. A wish that comes with the report takes
what is there for the first stage, and says how many repeats it would take. `kvpipe.stein` has the
rule and its source.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec

from kvpipe import stein
from kvreport.drift import QUARTER, Drift
from kvreport.effects import Effect
from kvreport.experiments import Experiment


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What the command line asks for; None: as recorded, or not at all."""

    half_width: float | None = None
    first_repeats: int | None = None
    maximum: int | None = None


AS_RECORDED = Wish()


class Need(msgspec.Struct, frozen=True, kw_only=True):
    """One scenario's repeats: how many there are, and how many there should be.

    `sd` is of the first stage's log ratios of TTFT, null below three of them, and then `needed` is
    unknown too. `half_width` is the one that the repeats attain, of the ratio. `control_needed`
    repeats would let the control of drift pass an effect of twice the wished half-width; null:
    there is no such control, or no interval of it. It decides nothing: it is a matter of the
    sentinels' number as much as of the repeats'.
    """

    name: str
    repeats: int
    first_repeats: int
    sd: float | None = None
    needed: int | None = None
    half_width: float | None = None
    control_needed: int | None = None

    @property
    def reached(self) -> bool:
        return self.needed is not None and self.repeats >= self.needed


class Enough(msgspec.Struct, frozen=True, kw_only=True):
    """The same for all scenarios of a report, which are repeated together.

    `needed` is the largest of theirs, `total` that many or the `maximum`; null: not known yet.
    """

    half_width: float
    first_repeats: int
    needed: int | None
    maximum: int | None
    total: int | None
    per_name: list[Need]
    reached: bool


def first_stage(experiment: Experiment, wish: Wish) -> int | None:
    """The last repeat of the first stage; None where there are no stages.

    As recorded; else as wished; else every repeat that is there.
    """
    recorded = [one.run.until.first_repeats for one in experiment if one.run and one.run.until]
    if recorded:
        return min(recorded)
    if wish.half_width is None:
        return None
    return wish.first_repeats or max(one.number for one in experiment.repeats)


def half_width(experiment: Experiment, wish: Wish) -> float | None:
    """As wished now, else as recorded: the narrowest, where runs differ."""
    recorded = [one.run.until.half_width for one in experiment if one.run and one.run.until]
    return wish.half_width or min(recorded, default=None)


def need(
    experiment: Experiment, effects: Mapping[str, Effect], drift: Drift | None, wish: Wish
) -> tuple[float, Need] | None:
    """The wished half-width and what it needs; None where nobody asked for one."""
    first, width = first_stage(experiment, wish), half_width(experiment, wish)
    if first is None or width is None:
        return None
    effect = effects.get("ttft")
    found = Need(name=experiment.name, repeats=effect.repeats if effect else 0, first_repeats=first)
    interval = effect.interval if effect else None
    if effect is None or interval is None or interval.method != "repeats":
        return width, found
    stage = stein.first_stage(effect.thetas[: interval.first])
    if stage is None:
        return width, found
    return width, msgspec.structs.replace(
        found,
        sd=stage.sd,
        needed=stage.needed(width),
        half_width=math.expm1(stage.half(effect.repeats)),
        control_needed=_control(drift, width),
    )


def _control(drift: Drift | None, width: float) -> int | None:
    """Repeats until the control's half-width is a quarter of the wished one."""
    interval = drift.interval if drift else None
    if interval is None or interval.method != "repeats":
        return None
    half = (interval.high - interval.low) / 2
    return math.ceil(interval.units * (half / (QUARTER * stein.log_half_width(width))) ** 2)


def gathered(found: Sequence[tuple[float, Need]], maximum: int | None) -> Enough | None:
    """All scenarios' needs as one; None without any."""
    if not found:
        return None
    needs = [one for _, one in found]
    known = [one.needed for one in needs if one.needed is not None]
    needed = max(known) if len(known) == len(needs) else None
    return Enough(
        half_width=min(width for width, _ in found),
        first_repeats=max(one.first_repeats for one in needs),
        needed=needed,
        maximum=maximum,
        total=None if needed is None else stein.total(needed, maximum),
        per_name=needs,
        reached=all(one.reached for one in needs),
    )
