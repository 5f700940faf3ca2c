"""A piece of the public conversation trace that has reuse and fits a node on CPU."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.family import ROOT, environment

TRACE = ROOT / "tests/data/traces/conversation_trace.jsonl.gz"
SCALE = "--scale 1/4 --block-tokens 128"
"""Blocks of 512 tokens become whole blocks of the engine, of 128."""


def run(*words: str) -> bytes:
    return subprocess.run(words, env=environment(), stdout=subprocess.PIPE, check=True).stdout


def plan_of_a_piece(folder: Path, flags: str) -> Path:
    """kvplan's plan of some whole conversations of the trace, 250 blocks of it, with `flags`."""
    piece, plan = folder / "piece.jsonl", folder / "plan.jsonl"
    sample = (str(ROOT / "stack/sample.py"), str(TRACE), "--one-in", "200", "--which", "42")
    piece.write_bytes(run(sys.executable, *sample, "--longest", "20", "--blocks", "250"))
    plan.write_bytes(run(*f"kvplan --trace {piece} {SCALE} {flags}".split()))
    return plan
