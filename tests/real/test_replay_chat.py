"""A piece of a public trace as chat on real vLLM: lengths as planned, and hits as foretold."""

from __future__ import annotations

import json
from pathlib import Path

from tests.real.engine import Stack
from tests.real.piece import plan_of_a_piece
from tests.real.pipeline import measure


def test_words_of_one_token_make_prompts_as_long_as_the_trace_says(
    empty_stack: Stack, tmp_path: Path
) -> None:
    """vLLM's own tokenizer and template: no drift, and every cached token is the ideal's."""
    node = empty_stack.b.url
    counted = f"--output-tokens 2 --url {node} --model {empty_stack.model}"
    plan = plan_of_a_piece(tmp_path, counted)
    head, *planned = map(json.loads, plan.read_text().splitlines())
    assert head["calibrated"] == "tokenize" and "drift" not in head["note"]

    load = f"kvload --url {node} --workload {plan} --concurrency 1"
    done = measure(tmp_path, f"{load} --round 1 --salt none --warmup 0 --model {empty_stack.model}")
    (only,) = done.rounds
    requests = sorted(only.requests, key=lambda one: one["index"])
    assert [one["prompt_tokens"] for one in requests] == [one["prompt_tokens"] for one in planned]
    cached = [one["cached_tokens"] for one in requests]
    assert cached == [one["ideal_in_round_lo"] for one in requests]
    assert sum(map(bool, cached)) > len(cached) / 3, "the piece has no reuse: this shows nothing"
