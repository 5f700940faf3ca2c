"""A piece of a public trace on real vLLM: what was predicted is what is counted, serially exact."""

from __future__ import annotations

import json
from pathlib import Path

from tests.real.engine import BLOCK_TOKENS, Stack
from tests.real.piece import SCALE, plan_of_a_piece, run
from tests.real.pipeline import measure

from kvpipe.jsonl import open_lines, read_records
from kvpipe.records import Planned
from kvplan.analysis.accesses import accesses, planned_visits
from kvplan.analysis.curve import sized


def ideal_of(plan: Path) -> list[int]:
    """Cached tokens of each request with room for everything."""
    with open_lines(str(plan)) as (name, stream):
        planned = [one for one in read_records(stream, name) if isinstance(one, Planned)]
    blocks = sized(accesses(planned_visits(planned)), BLOCK_TOKENS).hits(None)
    ideal: list[int] = (blocks * BLOCK_TOKENS).tolist()
    return ideal


def test_every_request_of_a_trace_hits_what_was_predicted(
    empty_stack: Stack, tmp_path: Path
) -> None:
    """One node's cache holds all of it; the store behind it has nothing that the node has not."""
    node = empty_stack.b.url
    more = "--output-tokens 2 --sentinels 0 --api completions --token-ids 300-4000"
    plan = plan_of_a_piece(tmp_path, more)
    load = f"kvload --url {node} --workload {plan} --api completions --concurrency 1"
    done = measure(tmp_path, f"{load} --round 1 --salt none --warmup 0 --model {empty_stack.model}")
    (only,) = done.rounds
    requests = sorted(only.requests, key=lambda one: one["index"])
    ideal = ideal_of(plan)
    assert [one["cached_tokens"] for one in requests] == ideal
    assert sum(map(bool, ideal)) > len(ideal) / 2, "the piece has no reuse: this shows nothing"

    made = f"kvplan --trace {tmp_path / 'piece.jsonl'} {SCALE}"
    foretold = json.loads(run(*f"{made} --analyze --block-sizes 128".split()))
    (size,) = foretold["sizes"]
    assert size["ideal"]["hit_tokens"] == sum(ideal)
    assert size["ideal"]["hit_ratio"] == only.stats["hit_ratio"]
    assert foretold["requests"] == len(requests)
