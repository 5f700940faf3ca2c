"""kvstats on long streams: beside jq computing one mean, and DuckDB the same percentiles.

  python -m bench.stats                    `make bench-stats`: 1,000 to 1,000,000 requests
  python -m bench.stats --full             and 10,000,000 (13 GB of temporary disk)

Streams are made from a seed and written as they are made. All three read the same file, one after
the other; every figure is the median over the runs. DuckDB is no dependency: where its Python
package is missing, its column stays empty and says so.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator

from kvpipe.jsonl import encode
from kvpipe.records import Arrival, Barrier, ClientHealth, End, Host, Request, Run

ENDPOINT = "http://127.0.0.1:8001"
MS = 1_000_000
GROUP_REQUESTS = 8
CONTEXT_TOKENS = 8_000
QUESTION_TOKENS = 128
BLOCK_TOKENS = 16
ANSWER_TOKENS = 16


def stream_of(requests: int, seed: int = 1) -> Iterator[bytes]:
    """The lines of a cold round of a well-behaved endpoint, as kvload writes them."""
    chance = random.Random(seed)
    yield encode(_run(requests))
    for index in range(requests):
        yield encode(_request(index, chance))
    yield encode(_end(requests))


def _run(requests: int) -> Run:
    return Run(
        run_id="bench-run-000001",
        experiment_id="bench-stats",
        name="long_context_high_reuse",
        scenario="long_context_high_reuse",
        arm="cold",
        tier="local",
        round_num=1,
        rounds=2,
        endpoint_url=ENDPOINT,
        model="m",
        plan_sha256="a" * 64,
        shape_sha256="b" * 64,
        seed=1,
        calibrated="tokenize",
        requests=requests,
        arrival=Arrival(kind="closed", concurrency=32),
        salt="s",
        salt_way="cache_salt",
        block_tokens=BLOCK_TOKENS,
        tool_version="0.1.0",
        host=Host(name="h", system="Linux", python="3.11", cpus=2),
        started_at="2026-01-02T03:04:05+00:00",
    )


def _request(index: int, chance: random.Random) -> Request:
    """One in `GROUP_REQUESTS` leads a context; the others find it cached."""
    leads = index % GROUP_REQUESTS == 0
    prompt = CONTEXT_TOKENS + QUESTION_TOKENS
    cached = 0 if leads else CONTEXT_TOKENS // BLOCK_TOKENS * BLOCK_TOKENS
    sent = index * 4 * MS + chance.randrange(MS)
    first = sent + round(chance.lognormvariate(0, 0.3) * (900 if leads else 60) * MS)
    stamps = [first]
    for _ in range(ANSWER_TOKENS - 1):
        stamps.append(stamps[-1] + round(chance.expovariate(1) * 4 * MS) + 16 * MS)
    return Request(
        run_id="bench-run-000001",
        index=index,
        request_id=f"bench-stats-1-cold-{index}",
        server_request_id=f"chatcmpl-{chance.getrandbits(128):032x}",
        group=f"context-{index // GROUP_REQUESTS}",
        stratum="leader" if leads else "follower",
        endpoint_url=ENDPOINT,
        scheduled_ns=sent - chance.randrange(200_000),
        start_ns=sent - chance.randrange(100_000),
        sent_ns=sent,
        body_sent_ns=sent + 60_000,
        headers_ns=first - 100_000,
        first_byte_ns=first - 100_000,
        first_chunk_ns=first - 50_000,
        first_token_ns=first,
        first_content_ns=first,
        second_token_ns=stamps[1],
        last_token_ns=stamps[-1],
        end_ns=stamps[-1] + MS,
        chunk_ns=stamps,
        stamp_source="kernel",
        merged_reads=0,
        reads=ANSWER_TOKENS + 1,
        connection="reused",
        body_bytes=4 * prompt,
        prompt_tokens=prompt,
        output_tokens=ANSWER_TOKENS,
        cached_tokens=cached,
        token_source="usage",
        usage={
            "prompt_tokens": prompt,
            "total_tokens": prompt + ANSWER_TOKENS,
            "completion_tokens": ANSWER_TOKENS,
            "prompt_tokens_details": {"cached_tokens": cached},
        },
        new_tokens=prompt if leads else QUESTION_TOKENS,
        floor_tokens=10,
        ideal_in_round_lo=cached,
        ideal_in_round_hi=cached,
        ideal_prior_tokens=0,
        status="ok",
        http_status=200,
        finish_reason="length",
        output_sha256=hashlib.sha256(b"%d" % index).hexdigest(),
    )


def _end(requests: int) -> End:
    return End(
        run_id="bench-run-000001",
        complete=True,
        planned=requests,
        sent=requests,
        ok=requests,
        failed=0,
        wall_s=requests * 0.004,
        barrier=Barrier(state="quiet", waited_s=2.0),
        client=ClientHealth(lateness_p99_s=0.0002, loop_lag_p99_s=0.0003),
    )
