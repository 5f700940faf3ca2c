"""`make quick` on a real vLLM node: cold is proven, a hit is a hit, and the answer is there."""

from __future__ import annotations

import re
from pathlib import Path

from tests.real.engine import Stack, whole_blocks
from tests.real.pipeline import lines, rounds_of
from tests.test_quick import quick


def test_a_quick_look_tells_the_truth(empty_stack: Stack, tmp_path: Path) -> None:
    done = quick(tmp_path, f"URL={empty_stack.node_a}", f"MODEL={empty_stack.model}", "BUDGET=10")
    assert done.status == 0
    assert re.match(r"A hit on [\d.]+k? tokens saves [\d.]+ ms of [\d.]+ ms \(", done.out)
    assert "cold proven." in done.out and "SIMULATED" not in done.out
    assert "engine prefix cache, as the server counted" in done.out
    cold, hit = rounds_of(lines(done.folder / "run.jsonl"), done.stats)
    assert (cold.run["arm"], cold.stats["cold_proof"]) == ("cold", "proven")
    assert {one["cached_tokens"] for one in cold.requests} == {0}
    for request in hit.own:
        assert request["cached_tokens"] == whole_blocks(request["prompt_tokens"]) > 0
    assert hit.stats["efficiency"] == 1 and hit.stats["tier_served"] == "local"


def test_what_was_asked_before_is_cold_again(real_stack: Stack, tmp_path: Path) -> None:
    """The node has just answered the same question, and remembers it."""
    done = quick(tmp_path, f"URL={real_stack.node_a}", f"MODEL={real_stack.model}", "BUDGET=10")
    assert done.status == 0 and "cold proven." in done.out
    assert [one["cold_proof"] for one in done.stats] == ["proven", None]
