"""A finished round becomes one `round_stats`: numbers here, judgement in `judgement.py`."""

from __future__ import annotations

from collections.abc import Sequence

from kvpipe.records import RoundStats, Samples, Stat, Timings
from kvstats import metrics
from kvstats.calibration import demand_of
from kvstats.client import apart_s, merged_health
from kvstats.conditions import gaps_of, worst_barrier
from kvstats.distribution import Values, stat_of
from kvstats.flow import flow_of
from kvstats.ideal import ideal_tokens, shares_of, unit_tokens
from kvstats.judgement import Facts, Judgement, judge
from kvstats.phases import phases_of
from kvstats.round import Round
from kvstats.rows import Table
from kvstats.servers import gone_of, servers_of, serving
from kvstats.steady import steady_throughput_rps


def summarise(round_: Round) -> RoundStats:
    """The round's stats, findings included."""
    streams = [round_.streams[run.run_id] for run in round_.runs]
    ends = [stream.end for stream in streams if stream.end is not None]
    table = round_.rows.sorted()
    block = round_.runs[0].block_tokens or round_.tally.block
    ideals = ideal_tokens(table, round_.key.arm, unit_tokens(round_.runs, round_.tally.block))
    timings = timings_of(round_, [name for name in round_.timings if name != "sentinel"])
    health = merged_health([end.client for end in ends if end.client is not None])
    spans = [stream.span for stream in streams]
    known = servers_of(round_.servers)
    servers = serving(known, round_.traffic, gone_of(round_.servers))
    seen = timings_of(round_, list(round_.timings))
    facts = Facts(
        table=table,
        shares=shares_of(table, ideals),
        serving=servers,
        block=block,
        gaps=gaps_of(streams, round_.tally.ok),
        barrier=worst_barrier([end.barrier for end in ends if end.barrier is not None]),
        health=health,
        demand=demand_of(round_.runs, health, round_.delivery, spans),
        apart_s=apart_s((stream.run, stream.span) for stream in streams),
        ttft_p50_s=timings.ttft_s.p50,
        flow=flow_of(servers, round_.runs, seen),
        seen=seen,
    )
    judged = judge(round_, facts)
    return _assemble(round_, facts, judged, timings, samples_of(table, ideals))


def _assemble(
    round_: Round, facts: Facts, judged: Judgement, timings: Timings, samples: Samples
) -> RoundStats:
    tally, runs = round_.tally, round_.runs
    times = [
        metrics.total_time_s(stream.span.first_sent_ns, stream.span.last_end_ns)
        for stream in round_.streams.values()
    ]
    time_s = max((one for one in times if one is not None), default=None)
    shared_s = None if facts.apart_s else time_s
    endpoints = {run.endpoint_url for run in runs}
    prompt, output, uncached = tally.prompt.whole, tally.output.whole, tally.uncached.whole
    resets = [s.end.reset for s in round_.streams.values() if s.end is not None and s.end.reset]
    return RoundStats(
        run=runs[0] if len(runs) == 1 else runs,
        scenario=round_.key.scenario,
        name=round_.key.name,
        round_num=round_.key.round_num,
        endpoint_url=endpoints.pop() if len(endpoints) == 1 else None,
        avg_ttft=timings.ttft_s.mean,
        complete=not facts.gaps,
        total_requests=tally.total,
        successful_requests=tally.ok,
        failed_requests=tally.total - tally.ok,
        total_time_s=time_s,
        request_throughput_rps=metrics.throughput(tally.ok, shared_s),
        output_throughput_tps=metrics.throughput(output, shared_s),
        total_throughput_tps=metrics.throughput(_sum(prompt, output), shared_s),
        uncached_throughput_tps=metrics.throughput(_sum(uncached, output), shared_s),
        steady_throughput_rps=_steady(round_, facts),
        goodput_rps=metrics.throughput(round_.good, shared_s) if round_.slo else None,
        slo=dict(round_.slo),
        timings=timings,
        strata={name: timings_of(round_, [name]) for name in sorted(round_.timings)},
        status_counts=dict(sorted(tally.statuses.items())),
        cold_requests=tally.cold,
        hit_ratio=metrics.hit_ratio(tally.reporting_cached, tally.reporting_prompt),
        ideal_hit_ratio=facts.shares.ideal_hit_ratio,
        efficiency=_efficiency(round_, facts, judged),
        tier_served=judged.tier_served,
        served=judged.served,
        leaders_served=judged.leaders_served,
        cold_proof=judged.cold_proof,
        conservation=judged.conservation,
        phases=phases_of(facts.serving, facts.flow, facts.seen, round_.answered),
        server=sorted(round_.servers, key=lambda one: (one.run_id, one.role, one.url)),
        client=facts.health,
        stamp_source=round_.delivery.stamp_source,
        barrier=facts.barrier,
        reset=resets[0] if resets else None,
        samples=samples,
        findings=judged.findings,
    )


def timings_of(round_: Round, strata: Sequence[str]) -> Timings:
    """Distributions of the successes of some strata together."""

    def stat(name: str) -> Stat:
        parts: list[Values] = [round_.timings[stratum][name] for stratum in strata]
        return stat_of(parts)

    return Timings(
        ttft_s=stat("ttft_s"),
        ttft_due_s=stat("ttft_due_s"),
        tpot_s=stat("tpot_s"),
        itl_s=stat("itl_s"),
        e2e_s=stat("e2e_s"),
        queue_s=stat("queue_s"),
        second_token_s=stat("second_token_s"),
    )


def samples_of(table: Table, ideals: list[int | None]) -> Samples:
    """The rows as columns, by index."""
    return Samples(
        index=[index for index in table.ints("index") if index is not None],
        group=table.group,
        stratum=table.stratum,
        ok=table.ok,
        ttft_s=table.floats("ttft_s"),
        ttft_due_s=table.floats("ttft_due_s"),
        e2e_s=table.floats("e2e_s"),
        tpot_s=table.floats("tpot_s"),
        second_token_s=table.floats("second_token_s"),
        sent_s=[None if ns is None else ns / metrics.NS for ns in table.floats("sent_ns")],
        prompt_tokens=table.ints("prompt_tokens"),
        output_tokens=table.ints("output_tokens"),
        cached_tokens=table.ints("cached_tokens"),
        ideal_tokens=ideals,
        output_sha256=table.output_sha256,
        cached_local_tokens=table.told("cached_local_tokens"),
        cached_remote_tokens=table.told("cached_remote_tokens"),
        total=table.total,
    )


def _steady(round_: Round, facts: Facts) -> float | None:
    """Of shards that ran together the sum; null if one of them has none."""
    rates = [
        steady_throughput_rps(facts.table, run, sampled=round_.rows.sampled) for run in round_.runs
    ]
    known = [rate for rate in rates if rate is not None]
    return None if facts.apart_s or len(known) < len(rates) else sum(known)


def _efficiency(round_: Round, facts: Facts, judged: Judgement) -> float | None:
    if round_.key.arm != "hit" or judged.transfers:
        return None
    return facts.shares.whole.efficiency


def _sum(*parts: int | None) -> int | None:
    known = [part for part in parts if part is not None]
    return sum(known) if len(known) == len(parts) else None
