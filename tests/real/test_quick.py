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
    # On a machine that is slow or busy the look is short, and may truly show no saving.
    assert re.match(r"A hit on [\d.]+k? tokens (saves|takes) ", done.out)
    assert "cold proven." in done.out and "SIMULATED" not in done.out
    assert "engine prefix cache, as the server counted" in done.out
    rounds = [*rounds_of(lines(done.folder / "run.jsonl"), done.stats)]
    assert {"cold", "hit"} <= {one.run["arm"] for one in rounds}
    for one in rounds:
        if one.run["arm"] != "hit":
            assert one.stats["cold_proof"] == "proven"
            assert {request["cached_tokens"] for request in one.requests} == {0}
            continue
        for request in one.own:
            assert request["cached_tokens"] == whole_blocks(request["prompt_tokens"]) > 0
        assert one.stats["efficiency"] == 1 and one.stats["tier_served"] == "local"


def test_what_was_asked_before_is_cold_again(real_stack: Stack, tmp_path: Path) -> None:
    """The node has just answered the same question, and remembers it."""
    done = quick(tmp_path, f"URL={real_stack.node_a}", f"MODEL={real_stack.model}", "BUDGET=10")
    assert done.status == 0 and "cold proven." in done.out
    proofs = {one["run"]["arm"]: one["cold_proof"] for one in done.stats}
    assert proofs["cold"] == "proven" and proofs["hit"] is None
