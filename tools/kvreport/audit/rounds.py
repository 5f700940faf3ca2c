"""One round at a time: is its stream whole, are its stamps possible, was it what it says it was?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

from kvpipe.records import Request
from kvreport.audit.bundle import RawPlan, Stream
from kvreport.audit.lines import Line, held, unknown

CLOCK_SLACK = 0.01
"""Part of the servers' own sum of TTFT that two clocks and their rounding may make."""
START_SLACK_S = 1.0
RESTARTED = "restarted during the round"


def named(stream: Stream) -> str:
    """`a name, repeat 2, round 1`."""
    run = stream.run
    number = "without reuse" if run.arm == "no_reuse" else f"round {run.round_num}"
    shard = f", shard {run.shard}" if run.shard else ""
    return f"{run.name}, repeat {run.repeat}, {number}{shard}"


def whole(stream: Stream) -> Iterator[Line]:
    """Every request that was planned is there, once, and the end says so too."""
    wrong = []
    run, end, there = stream.run, stream.end, sorted(stream.requests)
    if stream.twice:
        wrong.append(f"request {stream.twice[0]} is there twice, with different contents")
    if end is None:
        wrong.append("the stream has no end")
    else:
        ok = sum(one.status == "ok" for one in stream.requests.values())
        if (end.ok, end.failed) != (ok, len(there) - ok):
            wrong.append(
                f"{ok} requests succeeded and {len(there) - ok} failed, "
                f"but the end says {end.ok} and {end.failed}"
            )
    planned = run.requests + run.sentinels
    if not run.shard and end is not None and end.complete and len(there) != planned:
        missing = sorted(set(range(planned)) - set(there))
        which = f" (request {missing[0]} is missing)" if missing else ""
        wrong.append(f"{len(there)} requests are there, but {planned} were planned{which}")
    yield from held("stream", named(stream), wrong, f"{len(there)} requests, each once, and an end")


def stamps(stream: Stream) -> Iterator[Line]:
    """Times are in the order in which things can happen; the chunks repeat the tokens' stamps."""
    wrong = [said for one in stream.requests.values() for said in _impossible(one)]
    arrival = stream.run.arrival
    if arrival.kind == "serial" or (arrival.kind == "closed" and arrival.concurrency == 1):
        wrong += _overlapping(stream)
    yield from held("stamps", named(stream), wrong, "possible, and in order")


def _impossible(one: Request) -> Iterator[str]:
    order = ("sent_ns", "first_token_ns", "second_token_ns", "last_token_ns", "end_ns")
    told = [(name, stamp) for name in order if (stamp := getattr(one, name)) is not None]
    for (earlier, first), (later, second) in pairwise(told):
        if second < first:
            yield f"request {one.index}: {later} lies before {earlier}"
    if one.status == "ok" and (one.sent_ns is None or one.first_token_ns is None):
        yield f"request {one.index}: succeeded without having been sent and answered"
    chunks = one.chunk_ns
    if not chunks:
        return
    if sorted(chunks) != chunks:
        yield f"request {one.index}: its chunks are not in order"
    repeated = [("first_token_ns", chunks[0]), ("last_token_ns", chunks[-1])]
    repeated += [("second_token_ns", chunks[1])] if len(chunks) > 1 else []
    for name, stamp in repeated:
        if getattr(one, name) not in (None, stamp):
            yield f"request {one.index}: {name} is not the stamp of its chunk"


def _overlapping(stream: Stream) -> list[str]:
    """A serial client sends one at a time."""
    sent = sorted((one for one in stream.requests.values() if one.sent_ns), key=_sent)
    return [
        f"request {two.index} was sent before request {one.index} had ended, in a serial run"
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
                    f"request {one.index}: {name} is {kept}, but its usage says {verbatim}"
                )
    if not told:
        yield unknown("usage", named(stream), "no answer's usage was kept")
        return
    yield from held("usage", named(stream), wrong, "tokens are those of the answers' usage")


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
        yield unknown("sentinels", where, "there are none")
        return
    bought = transfers(stream)
    if bought:
        said = (
            f"{len(bought)} of {len(found)} report cached tokens that they cannot have: cached "
            "tokens here are transfers"
        )
        yield unknown("sentinels", where, said)
        return
    wrong = []
    if not stream.run.shard and len(found) != stream.run.sentinels:
        wrong.append(f"{len(found)} are there, but {stream.run.sentinels} were planned")
    yield from held("sentinels", where, wrong, f"{len(found)}, none of them from a cache")


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
    if not own:
        yield unknown("counters", where, "no server's own counters were published")
        return
    wrong: list[str] = []
    for server in own:
        before, after = server.start_before_s, server.start_after_s
        if server.fell or (before and after and abs(after - before) > START_SLACK_S):
            wrong.append(f"{server.url} {RESTARTED}")
    if not wrong and not stream.run.shard and len(own) == 1:
        wrong = [*_unbalanced(stream, own[0].counters)]
    yield from held("counters", where, wrong, "the servers counted what was sent, and no more")


def _unbalanced(stream: Stream, counted: dict[str, float | None]) -> Iterator[str]:
    """Counters against sums over the requests; only where each of them succeeded at once."""
    requests = [*stream.requests.values()]
    if any(one.status != "ok" or one.retries for one in requests):
        return
    told = counted.get("requests")
    if told is not None and told != len(requests):
        yield f"the server counted {told:.0f} requests, and {len(requests)} are published"
    if counted.get("preemptions"):
        return
    prompts, cached = _sum(requests, "prompt_tokens"), _sum(requests, "cached_tokens")
    told = counted.get("prompt_tokens")
    if told is not None and prompts is not None and told != prompts:
        yield f"the server counted {told:,.0f} prompt tokens, the requests sum up to {prompts:,}"
    told = counted.get("computed_tokens")
    if told is not None and prompts is not None and cached is not None and told != prompts - cached:
        yield (
            f"the server computed {told:,.0f} prompt tokens, by the requests it was "
            f"{prompts - cached:,}"
        )
    yield from _sooner(requests, counted)


def _sum(requests: Sequence[Request], name: str) -> int | None:
    values: list[int | None] = [getattr(one, name) for one in requests]
    known = [one for one in values if one is not None]
    return sum(known) if len(known) == len(values) else None


def _sooner(requests: Sequence[Request], counted: dict[str, float | None]) -> Iterator[str]:
    """A client cannot have seen its first tokens sooner than the server had made them."""
    told, count = counted.get("ttft_sum_s"), counted.get("ttft_count")
    if not told or count != len(requests):
        return
    seen = sum((one.first_token_ns or 0) - (one.sent_ns or 0) for one in requests) / 1e9
    if seen < told * (1 - CLOCK_SLACK):
        yield (
            f"the server's own TTFTs sum up to {told:.3f} s, the client's to {seen:.3f} s: first "
            "tokens were seen before they were made"
        )


def as_planned(stream: Stream, plan: RawPlan) -> Iterator[str]:
    """Whether each request is the one that its plan has in this place."""
    by_index = {one.index: one for one in plan.planned}
    for one in stream.requests.values():
        planned = by_index.get(one.index)
        if planned is None:
            yield f"request {one.index} is not in the plan"
        elif (one.group, one.stratum) != (planned.group, planned.stratum):
            yield f"request {one.index} is no {planned.stratum} of {planned.group}, as planned"
        elif one.new_tokens != planned.new_tokens:
            yield (
                f"request {one.index}: new_tokens is {one.new_tokens}, in the plan "
                f"{planned.new_tokens}"
            )
