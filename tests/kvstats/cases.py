"""Writes the inputs of the golden cases anew: `python -m tests.kvstats.cases`.

They come from the factory in `streams.py`, so that a new required field is one change and one
`make record` away.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tests.kvstats.streams import CONTEXT, PROMPT, Made, cached, cold, failed, hit, node, shards

from kvpipe.jsonl import encode
from kvpipe.records import Arrival, Barrier, ServerMetrics

CASES = Path(__file__).parents[1] / "cases" / "kvstats"


def inputs() -> Mapping[str, bytes]:
    """What each case reads, by path below the cases."""
    small = cold(groups=1, followers=1, uniques=1, sentinels=1)
    pair = watched(cold()).lines() + watched(hit()).lines()
    whole = shards(cold(), 2)
    store = ServerMetrics(
        run_id="r2", url="http://s:9003/metrics", role="store", counters={"store_evicted_keys": 21}
    )
    gone = hit(tier="store").change(
        lambda one: one.group == "g1", cached_tokens=0, cached_local_tokens=0
    )
    return {
        "one-round-one-line/in.jsonl": small.lines(),
        "warm-is-faster/in.jsonl": pair,
        "interrupted/in.jsonl": cold().foot(complete=False, reason="SIGINT").lines(),
        "cold-was-warm/in.jsonl": contaminated().lines() + hit().lines(),
        "lost-in-the-store/in.jsonl": gone.seen_by(store).lines(),
        "decoder-tells-transfers/in.jsonl": cold()
        .change(lambda one: True, cached_tokens=PROMPT - 1)
        .lines(),
        "shards-in-any-order/a.jsonl": whole[0].lines(),
        "shards-in-any-order/b.jsonl": whole[1].lines(),
        "nothing-succeeded/in.jsonl": small.map(failed).lines(),
        "goodput/in.jsonl": cold().head(arrival=Arrival(kind="poisson", rate_rps=2.0)).lines(),
        "a-line-per-request/in.jsonl": small.lines(),
        "broken-record/in.jsonl": small.lines().replace(b'"index":2', b'"index":"two"'),
        "request-before-its-run/in.jsonl": b"".join(encode(one) for one in small.requests),
        "index-twice/in.jsonl": small.lines() + small.named("again").lines(),
        "barrier-unknown/in.jsonl": small.foot(
            barrier=Barrier(state="unknown", waited_s=30.0, reason="1 request is still running")
        ).lines(),
    }


def watched(made: Made) -> Made:
    """With the endpoint's own counters."""
    return made.seen_by(node(made))


def contaminated() -> Made:
    """g0's leader and both uniques found their prompts."""
    made = cold().change(lambda one: one.index == 0, cached_tokens=cached(CONTEXT))
    return made.change(lambda one: one.stratum == "unique", cached_tokens=cached(PROMPT))


if __name__ == "__main__":
    for path, content in inputs().items():
        target = CASES / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
