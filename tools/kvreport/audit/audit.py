"""The audit itself: plan, tree, conservation, sentinels, counters, interval; verdict and hash."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import msgspec

from kvprompt.hashes import plan_sha256, shape_sha256
from kvprompt.tree import PrefixTree
from kvreport.audit import claims, rounds
from kvreport.audit.bundle import Bundle, RawPlan, Stream, cleared_of
from kvreport.audit.cold import Cold, cold_of
from kvreport.audit.lines import Line, held, unknown
from kvreport.audit.rebuilt import rebuilt
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
    lines: list[Line]


def audit(bundle: Bundle, wished: Sequence[Target], *, tool_version: str) -> Audit:
    """Every line that there is to say; nothing is written or asked here."""
    lines: list[Line] = [*_plans(bundle)]
    if bundle.loose:
        some = sorted(bundle.loose)[0]
        lines += held("stream", "all", [f"records of run {some}, and no such run"], "")
    made: list[Round] = []
    for streams in _rounds(bundle):
        round_, found = _round(streams, bundle)
        made.append(round_)
        lines += found
    own = conclude(group(made), wished, tool_version=tool_version)
    if bundle.stats:
        said = conclude(group(bundle.stats), wished, tool_version=tool_version)
        lines += claims.verdicts(said, own)
        lines += _unpublished(bundle)
    lines += claims.reports(bundle.reports, own)
    derived = [*_derived(own)]
    return Audit(
        tool_version=tool_version,
        records=len(bundle.lines),
        records_sha256=bundle.sha256,
        sha256=_sha256(bundle.sha256, derived),
        agrees=all(one.state != "disagrees" for one in lines),
        derived=derived,
        lines=lines,
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
            wrong.append("the requests are not those of its plan_sha256")
        if shape_sha256(plan.planned) != plan.head.shape_sha256:
            wrong.append("the requests are not of the shape of its shape_sha256")
        if len(plan.planned) != plan.head.requests + plan.head.sentinels:
            wrong.append(
                f"{len(plan.planned)} requests are there, and its head says "
                f"{plan.head.requests + plan.head.sentinels}"
            )
        wrong += _tree(plan)
        where = f"{plan.head.scenario}, plan {plan.head.repeat}"
        yield from held("plan", where, wrong, "hashes and prefix tree are those of its requests")
    used = {one.run.plan_sha256 for one in bundle.streams.values()}
    if not used & {one.head.plan_sha256 for one in bundle.plans}:
        why = "the plan was not published: new tokens are taken as recorded"
        yield unknown("plan", "all", why)


def _tree(plan: RawPlan) -> Iterator[str]:
    tree = PrefixTree()
    for one in plan.planned:
        new = tree.add(one.blocks)
        if one.blocks and one.new_tokens is not None and new != one.new_tokens:
            yield f"request {one.index} adds {new} tokens to the tree, and says {one.new_tokens}"


def _round(streams: list[Stream], bundle: Bundle) -> tuple[Round, list[Line]]:
    """A round rebuilt, and everything that is to be said of it."""
    where = rounds.named(streams[0])
    ids = {one.run.run_id for one in streams}
    said = [one for one in bundle.stats if ids & _ids(one)]
    plan = streams[0].plan_of(bundle.plans)
    lines: list[Line] = []
    for stream in streams:
        for check in (rounds.whole, rounds.stamps, rounds.usage, rounds.sentinels):
            lines += check(stream)
        if plan is not None:
            wrong = [*rounds.as_planned(stream, plan)]
            lines += held("plan", rounds.named(stream), wrong, "the requests are those of the plan")
    counted = [line for stream in streams for line in rounds.counters(stream)]
    broken = [
        "restarted" if one.said.endswith(rounds.RESTARTED) else "foreign_traffic"
        for one in counted
        if one.state == "disagrees"
    ]
    if claims.admitted(said, "foreign_traffic") or claims.admitted(said, "restarted"):
        counted = [_admitted(one) for one in counted]
    cold = cold_of(streams, plan) if streams[0].run.arm != "hit" else None
    lines += counted
    if cold is not None:
        lines += _cold(where, cold, admitted=claims.admitted(said, "contaminated"))
    lines += _isolation(where, streams)
    made = rebuilt(streams, cold, broken)
    for one in said:
        lines += claims.stats(where, one.stats, made.stats, cold)
    return made, lines


def _ids(one: Round) -> set[str]:
    runs = one.stats.run if isinstance(one.stats.run, list) else [one.stats.run]
    return {run.run_id for run in runs}


def _admitted(line: Line) -> Line:
    """What was published as a finding is no disagreement."""
    if line.state != "disagrees":
        return line
    return msgspec.structs.replace(line, state="agrees", said=f"{line.said}: as published")


def _cold(where: str, cold: Cold, *, admitted: bool) -> Iterator[Line]:
    if cold.unknown:
        yield unknown("cold", where, f"cold is not shown: {cold.unknown}")
    elif cold.wrong and admitted:
        said = f"contaminated, as published: {cold.wrong[0]}"
        yield Line(check="cold", where=where, state="agrees", said=said)
    else:
        right = f"cold: {cold.computed:,} tokens computed of a tree of {cold.tree:,}"
        yield from held("cold", where, cold.wrong, right)


def _isolation(where: str, streams: list[Stream]) -> Iterator[Line]:
    cleared = cleared_of(streams)
    if cleared is None:
        return
    shown = {True: "empty, shown", False: "NOT empty", None: "not shown to be empty"}
    proofs = {proof.verified for proof in cleared.proofs}
    wrong = []
    if cleared.verified and (False in proofs or not proofs):
        wrong.append("kvclear's record says verified, and none of its proofs, or not all, do")
    yield from held("isolation", where, wrong, f"cleared, {shown[cleared.verified]}")


def _unpublished(bundle: Bundle) -> Iterator[Line]:
    """Round stats without their records, and records that no round stats were made of."""
    there = set(bundle.streams)
    for one in bundle.stats:
        if not _ids(one) & there:
            yield unknown("stats", one.name, f"{one.place}: the records of this round are not here")
    used = {run_id for one in bundle.stats for run_id in _ids(one)}
    left = [rounds.named(bundle.streams[run_id]) for run_id in sorted(there - used)]
    if left:
        yield from held("stats", left[0], ["it was measured, and is in no round stats"], "")


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


def _sha256(records: str, derived: Sequence[Derived]) -> str:
    """One hash of both, figures to nine digits."""
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
    return hashlib.sha256(msgspec.json.encode([records, rounded], order="sorted")).hexdigest()


def _digits(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")
