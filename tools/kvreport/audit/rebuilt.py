"""Round stats a second time, from the records alone, with no more in them than a verdict needs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from kvpipe.records import Finding, Request, RoundStats, Samples, Stat, Timings
from kvreport.audit.bundle import Stream, cleared_of
from kvreport.audit.cold import Cold
from kvreport.rounds import Round

NS = 1e9
TOO_MANY_ERRORS = 0.01


def rebuilt(streams: Sequence[Stream], cold: Cold | None, broken: Sequence[str]) -> Round:
    """The round as its records have it; `broken` are codes of what its counters showed."""
    requests = sorted(
        (one for stream in streams for one in stream.requests.values()), key=lambda one: one.index
    )
    own = [one for one in requests if one.stratum != "sentinel"]
    good = [one for one in own if one.status == "ok"]
    run = streams[0].run
    time_s = max((span for stream in streams if (span := _span_s(stream))), default=None)
    ttft = _stat([ttft_s(one) for one in good])
    stats = RoundStats(
        run=run if len(streams) == 1 else [one.run for one in streams],
        scenario=run.scenario,
        name=run.name,
        round_num=run.round_num,
        endpoint_url=run.endpoint_url,
        avg_ttft=ttft.mean,
        complete=all(one.end is not None and one.end.complete for one in streams),
        total_requests=len(own),
        successful_requests=len(good),
        failed_requests=len(own) - len(good),
        total_time_s=time_s,
        request_throughput_rps=len(good) / time_s if time_s else None,
        timings=Timings(
            ttft_s=ttft,
            ttft_due_s=_stat([due_s(one) for one in good]),
            tpot_s=_stat([tpot_s(one) for one in good]),
            itl_s=Stat(n=0),
            e2e_s=_stat([e2e_s(one) for one in good]),
            queue_s=Stat(n=0),
            second_token_s=Stat(n=0),
        ),
        hit_ratio=_hit_ratio(good),
        cold_proof=_proof(cold),
        samples=samples_of(requests),
        findings=[*_findings(streams, requests, cold, broken)],
    )
    return Round(stats=stats, place=streams[0].place)


def ttft_s(one: Request) -> float | None:
    return _seconds(one.sent_ns, one.first_token_ns)


def e2e_s(one: Request) -> float | None:
    return _seconds(one.sent_ns, one.last_token_ns)


def tpot_s(one: Request) -> float | None:
    decode = _seconds(one.first_token_ns, one.last_token_ns)
    if decode is None or one.output_tokens is None or one.output_tokens < 2:
        return None
    return decode / (one.output_tokens - 1)


def due_s(one: Request) -> float | None:
    """TTFT from when the request was due: what its user waited."""
    return _seconds(one.scheduled_ns, one.first_token_ns)


def second_token_s(one: Request) -> float | None:
    return _seconds(one.first_token_ns, one.second_token_ns)


def samples_of(requests: Sequence[Request]) -> Samples:
    """A row a request, sentinels included; ideals are not needed here."""
    return Samples(
        index=[one.index for one in requests],
        group=[one.group for one in requests],
        stratum=[one.stratum for one in requests],
        ok=[one.status == "ok" for one in requests],
        ttft_s=[ttft_s(one) for one in requests],
        ttft_due_s=[due_s(one) for one in requests],
        e2e_s=[e2e_s(one) for one in requests],
        tpot_s=[tpot_s(one) for one in requests],
        second_token_s=[second_token_s(one) for one in requests],
        sent_s=[None if one.sent_ns is None else one.sent_ns / NS for one in requests],
        prompt_tokens=[one.prompt_tokens for one in requests],
        output_tokens=[one.output_tokens for one in requests],
        cached_tokens=[one.cached_tokens for one in requests],
        ideal_tokens=[None for _ in requests],
        output_sha256=[one.output_sha256 for one in requests],
        total=len(requests),
    )


def _span_s(stream: Stream) -> float | None:
    """First sent to last end, on one host's clock; sentinels apart."""
    own = [one for one in stream.requests.values() if one.stratum != "sentinel"]
    sent = [one.sent_ns for one in own if one.sent_ns is not None]
    ends = [one.end_ns for one in own if one.sent_ns is not None]
    return (max(ends) - min(sent)) / NS if sent else None


def _hit_ratio(good: Sequence[Request]) -> float | None:
    told = [
        (one.cached_tokens, one.prompt_tokens)
        for one in good
        if one.cached_tokens is not None and one.prompt_tokens is not None
    ]
    prompts = sum(prompt for _, prompt in told)
    return sum(cached for cached, _ in told) / prompts if prompts else None


def _proof(cold: Cold | None) -> Literal["proven", "contaminated", "not shown"] | None:
    if cold is None:
        return None
    return "contaminated" if cold.contaminated else "not shown" if cold.unknown else "proven"


def _findings(
    streams: Sequence[Stream],
    requests: Sequence[Request],
    cold: Cold | None,
    broken: Sequence[str],
) -> list[Finding]:
    """What would withhold a verdict, and what kvload itself had seen."""
    found = [one for stream in streams if stream.end for one in stream.end.findings]
    found += [_invalid(code, "by the servers' own counters") for code in dict.fromkeys(broken)]
    if cold and cold.wrong:
        found.append(_invalid("contaminated", "; ".join(map(str, cold.wrong))))
    if any(one.end is None or not one.end.complete for one in streams):
        found.append(_invalid("incomplete", "the stream has no end, or stopped early"))
    failed = sum(one.status != "ok" for one in requests)
    if failed > TOO_MANY_ERRORS * len(requests):
        found.append(_invalid("errors", f"{failed} of {len(requests)} requests failed"))
    cleared = cleared_of(streams)
    if cleared and cleared.verified is False and cold and (cold.contaminated or cold.unknown):
        found.append(_invalid("not_isolated", f"kvclear: {cleared.reason}"))
    return found


def _invalid(code: str, message: str) -> Finding:
    return Finding(code=code, severity="invalid", message=message)  # type: ignore[arg-type]


def _stat(values: Sequence[float | None]) -> Stat:
    told = [one for one in values if one is not None]
    if not told:
        return Stat(n=0)
    return Stat(n=len(told), mean=sum(told) / len(told), min=min(told), max=max(told))


def _seconds(start_ns: int | None, stop_ns: int | None) -> float | None:
    return None if start_ns is None or stop_ns is None else (stop_ns - start_ns) / NS
