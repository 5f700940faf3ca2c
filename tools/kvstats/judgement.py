"""All findings of one round, from its sums, rows and servers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kvpipe.records import Barrier, ClientHealth, Conservation, Finding, Run, Served, Timings
from kvstats import calibration, client, conditions, contamination, delivery, exclusive, tiers
from kvstats.contamination import ColdProof, Terms
from kvstats.findings import ordered
from kvstats.flow import Flow
from kvstats.ideal import Shares
from kvstats.loss import lost
from kvstats.overload import overload
from kvstats.round import Round
from kvstats.rows import Table
from kvstats.servers import Serving, served_by, total
from kvstats.transfers import pd_transfer, token_first


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a finished round is judged by."""

    table: Table
    shares: Shares
    serving: Serving
    block: int | None
    gaps: Sequence[str]
    barrier: Barrier | None
    health: ClientHealth | None
    demand: calibration.Demand
    apart_s: float
    ttft_p50_s: float | None
    flow: Flow | None
    seen: Timings
    """Over all successes, sentinels included: as servers count."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What is concluded about one round."""

    cold_proof: ColdProof | None
    conservation: Conservation | None
    transfers: bool
    served: Served | None
    leaders_served: Served | None
    tier_served: tiers.TierServed | None
    findings: list[Finding]


def judge(round_: Round, facts: Facts) -> Judgement:
    """Every finding of kvstats, and what kvload found itself."""
    run = round_.runs[0]
    transfer = pd_transfer(facts.table)
    foreign = exclusive.foreign_traffic(
        facts.serving, round_.traffic, quiet=_counted_whole(facts.barrier, round_.runs)
    )
    restart = exclusive.restarted(facts.serving)
    verdict = cold = None
    if run.arm != "hit":
        trusted = foreign is None and restart is None
        verdict, cold = _judge_cold(round_, facts, transfer is not None, trusted=trusted)
    served = served_by(facts.serving.caches)
    leaders = None if transfer else tiers.leaders_served(round_.tally)
    evidence = tiers.evidence_of(round_.tally, leaders, served, facts.table, run.arm)
    tier = tiers.tier_served(evidence, run.tier, run.arm)
    loss = None
    if run.arm == "hit" and transfer is None:
        loss = lost(facts.shares, facts.serving, round_.tally.created)
    proof = verdict.proof if verdict is not None else None
    return Judgement(
        cold_proof=proof,
        conservation=verdict.conservation if verdict is not None else None,
        transfers=transfer is not None,
        served=served,
        leaders_served=leaders,
        tier_served=tier,
        findings=ordered(
            [
                *(
                    one
                    for stream in round_.streams.values()
                    if stream.end is not None
                    for one in stream.end.findings
                ),
                conditions.incomplete(facts.gaps),
                transfer,
                token_first(facts.flow),
                foreign,
                restart,
                cold,
                loss,
                tiers.tier_not_shown(run.tier, run.arm, tier, evidence),
                *_conditions(round_, facts, proof),
            ]
        ),
    )


def _judge_cold(
    round_: Round, facts: Facts, transfers: bool, *, trusted: bool
) -> tuple[contamination.Verdict, Finding | None]:
    """Conservation and the ordered rule; counters only where nobody else moved them."""
    run = round_.runs[0]
    terms = Terms(
        arm=run.arm,
        calibrated=run.calibrated,
        block=facts.block,
        transfers=transfers,
        serial=run.arrival.kind == "serial",
        complete=not facts.gaps,
    )
    computed = total(facts.serving.caches, "computed_tokens") if trusted else None
    excesses = contamination.excesses_of(facts.table, terms, round_.ledger.scale)
    verdict = contamination.judge(round_.ledger, excesses, computed, terms)
    found = contamination.contaminated(verdict, terms) or contamination.cold_not_shown(verdict)
    return verdict, found


def _conditions(round_: Round, facts: Facts, proof: ColdProof | None) -> list[Finding | None]:
    run, tally = round_.runs[0], round_.tally
    streams = list(round_.streams.values())
    first_error = None if tally.first_error is None else tally.first_error[1]
    return [
        conditions.errors(tally, conditions.planned_requests(streams), first_error),
        conditions.not_isolated(run, proof, salted=_salted(round_)),
        conditions.barrier_unknown(facts.barrier),
        conditions.uncalibrated(run),
        conditions.simulated(run),
        conditions.cached_tokens_not_reported(tally),
        overload(facts.table, run.arm, open_loop=round_.open_loop),
        delivery.stream_buffered(round_.delivery),
        delivery.stamps_mixed(round_.delivery),
        client.client_limited(facts.health, facts.ttft_p50_s, round_.delivery),
        calibration.client_error(round_.runs, facts.demand, facts.ttft_p50_s),
        calibration.calibration_unfit(round_.runs, facts.demand),
        client.shards_apart(facts.apart_s),
    ]


def _salted(round_: Round) -> bool:
    """Whether a namespace of its own was asked for, and nobody saw it ignored."""
    ends = [stream.end for stream in round_.streams.values() if stream.end is not None]
    ignored = {
        one.evidence.get("field")
        for end in ends
        for one in end.findings
        if one.code == "salt_ignored"
    }
    # kvload moves its salts elsewhere when it has seen the field ignored.
    return all(run.salt is not None and run.salt_way not in ignored for run in round_.runs)


def _counted_whole(barrier: Barrier | None, runs: Sequence[Run]) -> bool:
    """Whether every request had been counted when the counters were read, in one window."""
    return barrier is not None and barrier.state == "quiet" and len(runs) == 1
