"""A piece of a public trace as chat on real vLLM: lengths as planned, and hits as foretold."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.family import ROOT, environment
from tests.real.engine import Stack
from tests.real.pipeline import measure

TRACE = ROOT / "tests/data/traces/conversation_trace.jsonl.gz"


def run(*words: str) -> bytes:
    return subprocess.run(words, env=environment(), stdout=subprocess.PIPE, check=True).stdout


def test_words_of_one_token_make_prompts_as_long_as_the_trace_says(
    empty_stack: Stack, tmp_path: Path
) -> None:
    """vLLM's own tokenizer and template: no drift, and every cached token is the ideal's."""
    piece, plan = tmp_path / "piece.jsonl", tmp_path / "plan.jsonl"
    sample = (str(ROOT / "stack/sample.py"), str(TRACE), "--one-in", "200", "--which", "42")
    piece.write_bytes(run(sys.executable, *sample, "--longest", "20", "--blocks", "250"))
    node = empty_stack.b.url
    made = f"kvplan --trace {piece} --scale 1/4 --block-tokens 128 --output-tokens 2"
    plan.write_bytes(run(*f"{made} --url {node} --model {empty_stack.model}".split()))
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
