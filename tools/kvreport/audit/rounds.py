"""One round at a time: is its stream whole, are its stamps possible, was it what it says it was?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

from kvpipe.records import Request, ServerMetrics
from kvreport.audit.bundle import RawPlan, Stream
from kvreport.audit.lines import Line, Said, held, say, unknown

CLOCK_SLACK = 0.01
"""Part of the servers' own sum of TTFT that two clocks and their rounding may make."""
START_SLACK_S = 1.0
HALVES = ("prefill", "decode")
RESTARTED = "audit_restarted"


def named(stream: Stream) -> Said:
    """`a name, repeat 2, round 1`."""
    run = stream.run
    number = say("audit_round", number=run.round_num)
    if run.arm == "no_reuse":
        number = say("audit_bare")
    where = say("audit_where", name=run.name, repeat=run.repeat, round=number)
    return say("audit_shard", where=where, shard=run.shard) if run.shard else where


def whole(stream: Stream) -> Iterator[Line]:
    """Every request that was planned is there, once, and the end says so too."""
    wrong = []
    run, end, there = stream.run, stream.end, sorted(stream.requests)
    if stream.twice:
        wrong.append(say("audit_twice", index=stream.twice[0]))
    if end is None:
        wrong.append(say("audit_no_end"))
    else:
        ok = sum(one.status == "ok" for one in stream.requests.values())
        if (end.ok, end.failed) != (ok, len(there) - ok):
            told = {"told_ok": end.ok, "told_failed": end.failed}
            wrong.append(say("audit_end_counts", ok=ok, failed=len(there) - ok, **told))
    planned = run.requests + run.sentinels
    if not run.shard and end is not None and end.complete and len(there) != planned:
        missing = sorted(set(range(planned)) - set(there))
        form = "audit_missing" if missing else "audit_planned"
        first = missing[0] if missing else None
        wrong.append(say(form, count=len(there), planned=planned, index=first))
    right = say("audit_stream_right", count=len(there))
    yield from held("stream", named(stream), wrong, right)


def stamps(stream: Stream) -> Iterator[Line]:
    """Times are in the order in which things can happen; the chunks repeat the tokens' stamps."""
    wrong = [found for one in stream.requests.values() for found in _impossible(one)]
    arrival = stream.run.arrival
    if arrival.kind == "serial" or (arrival.kind == "closed" and arrival.concurrency == 1):
        wrong += _overlapping(stream)
    yield from held("stamps", named(stream), wrong, say("audit_stamps_right"))


def _impossible(one: Request) -> Iterator[Said]:
    order = ("sent_ns", "first_token_ns", "second_token_ns", "last_token_ns", "end_ns")
    told = [(name, stamp) for name in order if (stamp := getattr(one, name)) is not None]
    for (earlier, first), (later, second) in pairwise(told):
        if second < first:
            yield say("audit_before", index=one.index, later=later, earlier=earlier)
    if one.status == "ok" and (one.sent_ns is None or one.first_token_ns is None):
        yield say("audit_unsent", index=one.index)
    chunks = one.chunk_ns
    if not chunks:
        return
    if sorted(chunks) != chunks:
        yield say("audit_chunks", index=one.index)
    repeated = [("first_token_ns", chunks[0]), ("last_token_ns", chunks[-1])]
    repeated += [("second_token_ns", chunks[1])] if len(chunks) > 1 else []
    for name, stamp in repeated:
        if getattr(one, name) not in (None, stamp):
            yield say("audit_chunk", index=one.index, name=name)


def _overlapping(stream: Stream) -> list[Said]:
    """A serial client sends one at a time."""
    sent = sorted((one for one in stream.requests.values() if one.sent_ns), key=_sent)
    return [
        say("audit_overlap", index=two.index, other=one.index)
        for one, two in pairwise(sent)
        if _sent(two) < one.end_ns
    ]


def _sent(one: Request) -> int:
    return one.sent_ns or 0


def usage(stream: Stream) -> Iterator[Line]:
    """Tokens are those of the answers' own usage, which is kept verbatim."""
    wrong, told = [], 0
    for one in stream.requests.values():
        for name, kept, verbatim in _verbatim(one):
            told += 1
            if kept != verbatim:
                wrong.append(
                    say("audit_usage", index=one.index, name=name, kept=kept, told=verbatim)
                )
    if not told:
        yield unknown("usage", named(stream), say("audit_no_usage"))
        return
    yield from held("usage", named(stream), wrong, say("audit_usage_right"))


def _verbatim(one: Request) -> Iterator[tuple[str, int | None, int]]:
    found: dict[str, Any] = one.usage or {}
    details = found.get("prompt_tokens_details")
    pairs = [("prompt_tokens", one.prompt_tokens, found.get("prompt_tokens"))]
    if one.token_source == "usage":
        pairs.append(("output_tokens", one.output_tokens, found.get("completion_tokens")))
    if isinstance(details, dict):
        pairs.append(("cached_tokens", one.cached_tokens, details.get("cached_tokens")))
    yield from ((name, kept, told) for name, kept, told in pairs if isinstance(told, int))


def sentinels(stream: Stream) -> Iterator[Line]:
    """Requests that nobody can have cached, each with text of its own in every round."""
    found = [one for one in stream.requests.values() if one.stratum == "sentinel"]
    where = named(stream)
    if not found:
        yield unknown("sentinels", where, say("audit_no_sentinels"))
        return
    bought = transfers(stream)
    if bought:
        why = say("audit_transfers", count=len(bought), sentinels=len(found))
        yield unknown("sentinels", where, why)
        return
    wrong = []
    if not stream.run.shard and len(found) != stream.run.sentinels:
        planned = stream.run.sentinels
        wrong.append(say("audit_sentinels", count=len(found), planned=planned))
    right = say("audit_sentinels_right", count=len(found))
    yield from held("sentinels", where, wrong, right)


def transfers(stream: Stream) -> list[int]:
    """Sentinels that report more than every prompt here shares: a decoder's transfers."""
    return [
        one.index
        for one in stream.requests.values()
        if one.stratum == "sentinel"
        and one.status == "ok"
        and one.floor_tokens is not None
        and (one.cached_tokens or 0) > max(one.floor_tokens, one.ideal_in_round_hi or 0)
    ]


def counters(stream: Stream) -> Iterator[Line]:
    """What the servers counted is what was sent, where they are known to have served us alone."""
    where = named(stream)
    own = [
        one
        for one in stream.servers
        if one.role == "node" and one.error is None and one.endpoint_url is not None
    ]
    halves = [one for one in stream.servers if one.role in HALVES and one.error is None]
    if not own and not halves:
        yield unknown("counters", where, say("audit_no_counters"))
        return
    wrong: list[Said] = []
    for server in own or halves:
        before, after = server.start_before_s, server.start_after_s
        if server.fell or (before and after and abs(after - before) > START_SLACK_S):
            wrong.append(say(RESTARTED, url=server.url))
    if not wrong and not stream.run.shard:
        if len(own) == 1:
            wrong = [*_unbalanced(stream, own[0].counters)]
        elif not own:
            wrong = [*_halved(stream, halves)]
    yield from held("counters", where, wrong, say("audit_counters_right"))


def _halved(stream: Stream, servers: Sequence[ServerMetrics]) -> Iterator[Said]:
    """Behind a proxy each request goes to a prefiller and to a decoder, once each."""
    requests = [*stream.requests.values()]
    if any(one.status != "ok" or one.retries for one in requests):
        return
    for role in HALVES:
        told = [one.counters.get("requests") for one in servers if one.role == role]
        known = [one for one in told if one is not None]
        if known and len(known) == len(told) and sum(known) != len(requests):
            half = say(f"audit_half_{role}")
            yield say("audit_counted_half", half=half, told=sum(known), count=len(requests))


def _unbalanced(stream: Stream, counted: dict[str, float | None]) -> Iterator[Said]:
    """Counters against sums over the requests; only where each of them succeeded at once."""
    requests = [*stream.requests.values()]
    if any(one.status != "ok" or one.retries for one in requests):
        return
    told = counted.get("requests")
    if told is not None and told != len(requests):
        yield say("audit_counted_requests", told=told, count=len(requests))
    if counted.get("preemptions"):
        return
    prompts, cached = _sum(requests, "prompt_tokens"), _sum(requests, "cached_tokens")
    told = counted.get("prompt_tokens")
    if told is not None and prompts is not None and told != prompts:
        yield say("audit_counted_prompts", told=told, sum=prompts)
    told = counted.get("computed_tokens")
    if told is not None and prompts is not None and cached is not None and told != prompts - cached:
        yield say("audit_counted_computed", told=told, sum=prompts - cached)
    yield from _sooner(requests, counted)


def _sum(requests: Sequence[Request], name: str) -> int | None:
    values: list[int | None] = [getattr(one, name) for one in requests]
    known = [one for one in values if one is not None]
    return sum(known) if len(known) == len(values) else None


def _sooner(requests: Sequence[Request], counted: dict[str, float | None]) -> Iterator[Said]:
    """A client cannot have seen its first tokens sooner than the server had made them."""
    told, count = counted.get("ttft_sum_s"), counted.get("ttft_count")
    if not told or count != len(requests):
        return
    seen = sum((one.first_token_ns or 0) - (one.sent_ns or 0) for one in requests) / 1e9
    if seen < told * (1 - CLOCK_SLACK):
        yield say("audit_sooner", told=told, seen=seen)


def as_planned(stream: Stream, plan: RawPlan) -> Iterator[Said]:
    """Whether each request is the one that its plan has in this place."""
    by_index = {one.index: one for one in plan.planned}
    for one in stream.requests.values():
        planned = by_index.get(one.index)
        if planned is None:
            yield say("audit_not_planned", index=one.index)
        elif (one.group, one.stratum) != (planned.group, planned.stratum):
            role = {"stratum": planned.stratum, "group": planned.group or "-"}
            yield say("audit_other_role", index=one.index, **role)
        elif one.new_tokens != planned.new_tokens:
            told = {"kept": one.new_tokens, "planned": planned.new_tokens}
            yield say("audit_new_tokens", index=one.index, **told)
