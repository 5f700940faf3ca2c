"""Groups rounds into experiments: repeats of arms that may be compared with each other.

Rounds of one `experiment_id` and name belong together. Rounds that were made one invocation at a
time (`kvload --round 1`, then `--round 2`) have an id each; they are joined by name where neither
half could be compared alone and no round would be there twice. Whether their plans were equal is
then seen in their hashes, not assumed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from kvpipe.process import ToolError
from kvpipe.records import Tier
from kvreport.rounds import Round

Kind = Literal["unit cost", "load"]
Role = Literal["cold", "hit", "no_reuse"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Repeat:
    """One repeat: what is missing is None or empty."""

    number: int
    cold: Round | None
    hit: Round | None
    later: tuple[Round, ...]
    no_reuse: tuple[Round, ...]

    def of(self, role: Role) -> tuple[Round, ...]:
        if role == "no_reuse":
            return self.no_reuse
        one = self.cold if role == "cold" else self.hit
        return (one,) if one else ()

    def __iter__(self) -> Iterator[Round]:
        """Every round: cold, hit, later ones, then those without reuse."""
        yield from (*self.of("cold"), *self.of("hit"), *self.later, *self.no_reuse)


@dataclass(frozen=True, slots=True, kw_only=True)
class Matched:
    """The rounds of one repeat that are set against each other.

    There may be two base rounds (no_reuse before and after); their mean is the base.
    """

    repeat: int
    bases: tuple[Round, ...]
    other: Round


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """All repeats of one name. `joined`: its rounds were made by several invocations."""

    name: str
    id: str | None
    scenario: str
    repeats: tuple[Repeat, ...]
    joined: bool = False

    def __iter__(self) -> Iterator[Round]:
        for repeat in self.repeats:
            yield from repeat

    def matched(self, base: Role, other: Role = "hit") -> tuple[Matched, ...]:
        """Every repeat that has both roles."""
        return tuple(
            Matched(repeat=one.number, bases=one.of(base), other=one.of(other)[0])
            for one in self.repeats
            if one.of(base) and one.of(other)
        )

    def later(self) -> dict[int, tuple[Matched, ...]]:
        """Rounds 3 and later against the cold one, by round number; never pooled with round 2."""
        found: dict[int, list[Matched]] = {}
        for one in self.repeats:
            for late in one.later if one.cold else ():
                matched = Matched(repeat=one.number, bases=one.of("cold"), other=late)
                found.setdefault(late.number, []).append(matched)
        return {number: tuple(found[number]) for number in sorted(found)}

    def first(self, role: Role) -> Round | None:
        return next((one for repeat in self.repeats for one in repeat.of(role)), None)

    @property
    def comparable(self) -> bool:
        return bool(self.matched("cold") or self.matched("no_reuse"))

    @property
    def old(self) -> bool:
        return all(one.old for one in self)

    @property
    def simulated(self) -> bool:
        return any(one.simulated for one in self)

    @property
    def same_arm(self) -> bool:
        """An A/A check: the same arm twice, so that no difference is expected."""
        cold, hit = self.first("cold"), self.first("hit")
        return bool(cold and hit and hit.arm == cold.arm)

    @property
    def kind(self) -> Kind | None:
        """`unit cost` is serial, `load` everything else; None where only old files were read."""
        told = [one.serial for one in self if one.serial is not None]
        if not told:
            return None
        return "unit cost" if all(told) else "load"

    @property
    def open_loop(self) -> bool:
        return any(one.open_loop for one in self)

    @property
    def nodes(self) -> tuple[str, str] | None:
        """Endpoints of the cold and the hit round where they differ: the experiment crosses nodes.

        Without a cold round, those of the first and the last hit round would tell nothing: None.
        """
        cold, hit = self.first("cold"), self.first("hit")
        if not (cold and hit and cold.endpoint and hit.endpoint):
            return None
        if same_endpoint(cold.endpoint, hit.endpoint):
            return None
        return cold.endpoint, hit.endpoint

    @property
    def tier(self) -> Tier | None:
        """Tier under test as recorded, the documents' default for old files; None without a hit."""
        hit = self.first("hit")
        if hit is None:
            return None
        if hit.run:
            return hit.run.tier
        return "remote" if self.nodes else None


def same_endpoint(one: str, other: str) -> bool:
    """Whether two URLs name the same API, with or without `/v1` and slash."""

    def base(url: str) -> str:
        return url.rstrip("/").removesuffix("/v1").rstrip("/")

    return base(one) == base(other)


def group(rounds: Sequence[Round]) -> list[Experiment]:
    """Experiments in the order in which their first rounds were read.

    Raises ToolError where two different rounds claim the same place in one experiment.
    """
    parts: dict[tuple[str | None, str], list[Round]] = {}
    for one in rounds:
        parts.setdefault((one.run.experiment_id if one.run else None, one.name), []).append(one)
    joined = _join(list(parts.values()))
    experiments = [_experiment(part, joined=len({_id(one) for one in part}) > 1) for part in joined]
    return _told_apart(experiments)


def _id(one: Round) -> str | None:
    return one.run.experiment_id if one.run else None


def _place(one: Round) -> tuple[object, ...]:
    """What may be there once in an experiment; each no_reuse round has a place of its own."""
    if one.arm == "no_reuse" and one.number == 0:
        return ("no_reuse", one.repeat, one.run.run_id if one.run else one.place)
    return (one.number, one.repeat)


def _join(parts: list[list[Round]]) -> list[list[Round]]:
    """Joins parts of one name that cannot be compared alone, as long as no round is there twice.

    Rounds without reuse, made on their own, may join a part that is complete otherwise.
    """
    result = [list(part) for part in parts if _comparable(part)]
    for part in parts:
        if _comparable(part):
            continue
        bare = all(one.number == 0 for one in part)
        for other in result:
            clash = {_place(one) for one in other} & {_place(one) for one in part}
            same = (other[0].name, other[0].stats.scenario) == (
                part[0].name,
                part[0].stats.scenario,
            )
            if same and not clash and (bare or not _comparable(other)):
                other.extend(part)
                break
        else:
            result.append(list(part))
    first = {id(part[0]): place for place, part in enumerate(parts)}
    return sorted(result, key=lambda part: first[id(part[0])])


def _kin(one: Round) -> tuple[str, str]:
    return one.name, one.stats.scenario


def _comparable(part: Iterable[Round]) -> bool:
    numbers = {(one.repeat, one.number) for one in part}
    return any((repeat, number + 1) in numbers for repeat, number in numbers if number)


def _experiment(part: list[Round], *, joined: bool) -> Experiment:
    by_repeat: dict[int, list[Round]] = {}
    taken: dict[tuple[object, ...], Round] = {}
    for one in part:
        before = taken.setdefault(_place(one), one)
        if before is not one:
            raise ToolError(
                f"{one.place}: round {one.number} of repeat {one.repeat} of '{one.name}' is also "
                f"in {before.place}; to compare the two, label them: kvreport A=FILE B=FILE"
            )
        by_repeat.setdefault(one.repeat, []).append(one)
    return Experiment(
        name=part[0].name,
        id=_id(part[0]),
        scenario=part[0].stats.scenario,
        repeats=tuple(_repeat(number, by_repeat[number]) for number in sorted(by_repeat)),
        joined=joined,
    )


def _repeat(number: int, rounds: list[Round]) -> Repeat:
    numbered = sorted((one for one in rounds if one.number > 0), key=lambda one: one.number)
    cold = next((one for one in numbered if one.arm == "cold"), None)
    rest = [one for one in numbered if one is not cold and (not cold or one.number > cold.number)]
    return Repeat(
        number=number,
        cold=cold,
        hit=rest[0] if rest else None,
        later=tuple(rest[1:]),
        no_reuse=tuple(one for one in rounds if one.number == 0),
    )


def _told_apart(experiments: list[Experiment]) -> list[Experiment]:
    """Names made unique: experiments under one name carry as much of their ids as it takes."""
    names = [one.name for one in experiments]
    ids = [one.id or "old file" for one in experiments]
    length = next(
        (n for n in (8, 12, 20, 40) if len({one[:n] for one in ids}) == len(set(ids))), None
    )
    return [
        replace(one, name=f"{one.name} ({(one.id or 'old file')[:length]})")
        if names.count(one.name) > 1
        else one
        for one in experiments
    ]
