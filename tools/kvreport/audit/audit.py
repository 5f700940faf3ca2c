"""The audit itself: plan, tree, conservation, sentinels, counters, interval; verdict and hash."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import msgspec

from kvprompt.hashes import plan_sha256, shape_sha256
from kvprompt.tree import PrefixTree
from kvreport.audit import beside, claims, rounds, searches
from kvreport.audit.bundle import Bundle, RawPlan, Stream, cleared_of
from kvreport.audit.cold import Cold, cold_of
from kvreport.audit.lines import EVERYWHERE, Line, Said, called, held, say, unknown
from kvreport.audit.rebuilt import rebuilt
from kvreport.audit.searches import DerivedCapacity
from kvreport.capacity import Capacities
from kvreport.conclude import conclude
from kvreport.conclusion import Conclusion
from kvreport.experiments import group
from kvreport.rounds import Round
from kvreport.targets import Target

DIGITS = 9
"""Significant digits of what goes into the hash: machines differ in the last ones."""


class Derived(msgspec.Struct, frozen=True, kw_only=True):
    """What the records give for one scenario: log ratios, their interval, and the verdict."""

    name: str
    effect: str
    thetas: list[float]
    interval: tuple[float, float] | None
    method: str | None
    verdict: str
    scope: str | None
    by: list[str]


class Audit(msgspec.Struct, frozen=True, kw_only=True, tag_field="record", tag="audit"):
    """`sha256` is of the records and of the verdicts that they give, in any order of lines."""

    schema: int = 1
    tool_version: str
    records: int
    records_sha256: str
    sha256: str
    agrees: bool
    derived: list[Derived]
    capacities: list[DerivedCapacity]
    lines: list[Line]


def audit(bundle: Bundle, wished: Sequence[Target], *, tool_version: str) -> Audit:
    """Every line that there is to say; nothing is written or asked here."""
    return concluded(bundle, wished, tool_version=tool_version)[0]


def concluded(
    bundle: Bundle, wished: Sequence[Target], *, tool_version: str
) -> tuple[Audit, Conclusion]:
    """The audit, and what a report would conclude from the records alone."""
    lines: list[Line] = [*_plans(bundle)]
    if bundle.loose:
        some = sorted(bundle.loose)[0]
        lines += held("stream", EVERYWHERE, [say("audit_loose", run=some)], say("audit_none"))
    made: list[Round] = []
    for streams in _rounds(bundle):
        round_, found = _round(streams, bundle)
        lines += found
        if not round_.ids & bundle.probes:
            made.append(round_)
    own = conclude(group(made), wished, tool_version=tool_version)
    if bundle.stats:
        stats = [one for one in bundle.stats if not one.ids & bundle.probes]
        published = conclude(group(stats), wished, tool_version=tool_version)
        lines += claims.verdicts(published, own)
        lines += _unpublished(bundle)
    lines += claims.reports(bundle.reports, own)
    cases = searches.derived(bundle)
    for others in (
        searches.lines(bundle, cases),
        beside.outcomes(bundle),
        beside.calibrations(bundle),
        beside.passed_over(bundle),
    ):
        lines += others
    derived, capacities = [*_derived(own)], [*map(_capacity, cases)]
    found_audit = Audit(
        tool_version=tool_version,
        records=len(bundle.lines),
        records_sha256=bundle.sha256,
        sha256=_sha256(bundle.sha256, derived, capacities),
        agrees=all(one.state != "disagrees" for one in lines),
        derived=derived,
        capacities=capacities,
        lines=lines,
    )
    return found_audit, msgspec.structs.replace(own, capacities=cases)


def _capacity(one: Capacities) -> DerivedCapacity:
    return DerivedCapacity(
        name=one.name,
        ratio=one.ratio,
        low=one.low,
        high=one.high,
        verdict=one.verdict,
        by=one.reasons,
    )


def _rounds(bundle: Bundle) -> Iterator[list[Stream]]:
    """Streams of one round: shards together, everything else alone; in order of time."""
    found: dict[tuple[object, ...], list[Stream]] = {}
    for stream in sorted(bundle.streams.values(), key=lambda one: one.run.started_at):
        run = stream.run
        key: tuple[object, ...] = (run.run_id,)
        if run.shard:
            key = (run.experiment_id, run.name, run.repeat, run.round_num, run.position)
        found.setdefault(key, []).append(stream)
    yield from found.values()


def _plans(bundle: Bundle) -> Iterator[Line]:
    """Each plan is what its hashes say, and its new tokens are those of its tree."""
    for plan in bundle.plans:
        wrong = []
        if plan_sha256(plan.planned) != plan.head.plan_sha256:
            wrong.append(say("audit_plan_hash"))
        if shape_sha256(plan.planned) != plan.head.shape_sha256:
            wrong.append(say("audit_shape_hash"))
        if len(plan.planned) != plan.head.requests + plan.head.sentinels:
            planned = plan.head.requests + plan.head.sentinels
            wrong.append(say("audit_plan_count", count=len(plan.planned), planned=planned))
        wrong += _tree(plan)
        where = say("audit_plan", scenario=plan.head.scenario, repeat=plan.head.repeat)
        yield from held("plan", where, wrong, say("audit_plan_right"))
    used = {one.run.plan_sha256 for one in bundle.streams.values()}
    if not used & {one.head.plan_sha256 for one in bundle.plans}:
        yield unknown("plan", EVERYWHERE, say("audit_plan_missing"))


def _tree(plan: RawPlan) -> Iterator[Said]:
    tree = PrefixTree()
    for one in plan.planned:
        new = tree.add(one.blocks)
        if one.blocks and one.new_tokens is not None and new != one.new_tokens:
            yield say("audit_plan_tree", index=one.index, new=new, told=one.new_tokens)


def _round(streams: list[Stream], bundle: Bundle) -> tuple[Round, list[Line]]:
    """A round rebuilt, and everything that is to be said of it."""
    where = rounds.named(streams[0])
    ids = {one.run.run_id for one in streams}
    published = [one for one in bundle.stats if ids & one.ids]
    plan = streams[0].plan_of(bundle.plans)
    lines: list[Line] = []
    for stream in streams:
        for check in (rounds.whole, rounds.stamps, rounds.usage, rounds.sentinels):
            lines += check(stream)
        if plan is not None:
            wrong = [*rounds.as_planned(stream, plan)]
            lines += held("plan", rounds.named(stream), wrong, say("audit_as_planned"))
    counted = [line for stream in streams for line in rounds.counters(stream)]
    broken = [
        "restarted" if one.said.phrase == rounds.RESTARTED else "foreign_traffic"
        for one in counted
        if one.state == "disagrees"
    ]
    if any(claims.admitted(published, code) for code in ("foreign_traffic", "restarted")):
        counted = [_admitted(one) for one in counted]
    cold = cold_of(streams, plan) if streams[0].run.arm != "hit" else None
    lines += counted
    if cold is not None:
        lines += _cold(where, cold, admitted=claims.admitted(published, "contaminated"))
    lines += _isolation(where, streams)
    made = rebuilt(streams, cold, broken)
    for one in published:
        lines += claims.stats(where, one.stats, made.stats, cold)
    return made, lines


def _admitted(line: Line) -> Line:
    """What was published as a finding is no disagreement."""
    if line.state != "disagrees":
        return line
    return msgspec.structs.replace(line, state="agrees", said=say("audit_admitted", said=line.said))


def _cold(where: Said, cold: Cold, *, admitted: bool) -> Iterator[Line]:
    if cold.unknown:
        yield unknown("cold", where, say("audit_cold_unknown", why=cold.unknown))
    elif cold.wrong and admitted:
        found = say("audit_contaminated", why=cold.wrong[0])
        yield Line(check="cold", where=where, state="agrees", said=found)
    else:
        right = say("audit_cold_right", computed=cold.computed, tree=cold.tree)
        yield from held("cold", where, cold.wrong, right)


def _isolation(where: Said, streams: list[Stream]) -> Iterator[Line]:
    cleared = cleared_of(streams)
    if cleared is None:
        return
    proofs = {proof.verified for proof in cleared.proofs}
    wrong = []
    if cleared.verified and (False in proofs or not proofs):
        wrong.append(say("audit_not_proven"))
    yield from held("isolation", where, wrong, say(f"audit_cleared_{cleared.verified}"))


def _unpublished(bundle: Bundle) -> Iterator[Line]:
    """Round stats without their records, and records that no round stats were made of."""
    there = set(bundle.streams)
    for one in bundle.stats:
        if not one.ids & there:
            why = say("audit_without_records", place=one.place)
            yield unknown("stats", called(one.name), why)
    used = {run_id for one in bundle.stats for run_id in one.ids}
    left = [rounds.named(bundle.streams[run_id]) for run_id in sorted(there - used)]
    if left:
        yield from held("stats", left[0], [say("audit_no_stats")], say("audit_none"))


def _derived(own: Conclusion) -> Iterator[Derived]:
    for one in own.scenarios:
        for name in dict.fromkeys(filter(None, (one.value, "ttft"))):
            effect = one.effects.get(name)
            if effect is None:
                continue
            found = effect.interval
            yield Derived(
                name=one.name,
                effect=name,
                thetas=effect.thetas,
                interval=(found.low, found.high) if found else None,
                method=found.method if found else None,
                verdict=effect.verdict.word,
                scope=effect.verdict.scope,
                by=effect.verdict.by,
            )


def _sha256(records: str, derived: Sequence[Derived], capacities: Sequence[DerivedCapacity]) -> str:
    """One hash of all, figures to nine digits."""
    rounded = [
        msgspec.structs.replace(
            one,
            thetas=[_digits(value) for value in one.thetas],
            interval=None
            if one.interval is None
            else (_digits(one.interval[0]), _digits(one.interval[1])),
        )
        for one in sorted(derived, key=lambda one: (one.name, one.effect))
    ]
    rates = [
        msgspec.structs.replace(
            one, ratio=_known(one.ratio), low=_known(one.low), high=_known(one.high)
        )
        for one in sorted(capacities, key=lambda one: one.name)
    ]
    parts = [records, rounded, *rates]
    return hashlib.sha256(msgspec.json.encode(parts, order="sorted")).hexdigest()


def _known(value: float | None) -> float | None:
    return None if value is None else _digits(value)


def _digits(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")
