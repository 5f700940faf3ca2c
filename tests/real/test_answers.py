"""Same answer on real engines: cold against a hit in the engine's own cache, and out of the store.

Whether the texts are equal is the engine's matter; what is asserted is that each difference is
explained by the log probabilities that it told, as an independent look at the records has them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.real.engine import Stack
from tests.real.pipeline import Done, Record, measure

PLAN = (
    "--scenario long_context_high_reuse --requests 6 --contexts 2 --sentinels 1"
    " --context-tokens 700 --output-tokens 12 --pause 0 --warmup 0 --keep-output"
)
NEAR_TIE_NATS, SHIFT_NATS = 0.25, 1.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("answers")


@pytest.fixture(scope="module", params=["local", "store"])
def done(request: pytest.FixtureRequest, real_stack: Stack, folder: Path) -> Done:
    real_stack.empty()
    load = f"kvload --url {real_stack.node_a} --tier {request.param} {PLAN}"
    if request.param == "store":
        load += f" --metrics-url store={real_stack.mooncake}"
    return measure(folder, load, name=request.param)


def places(one: Record) -> list[dict[str, Any]]:
    """An answer's tokens, each with its candidates, as the engine told them."""
    found: list[dict[str, Any]] = one["logprobs"]
    assert len(found) == one["output_tokens"] and all(len(at["top_logprobs"]) == 5 for at in found)
    return found


def test_every_answer_has_its_log_probabilities(done: Done) -> None:
    assert "likeliest tokens" in done.err
    for one in done.rounds:
        for request in one.own:
            told = places(request)
            assert request["output_text"] == "".join(place["token"] for place in told)
            for place in told:
                best = max(place["top_logprobs"], key=lambda at: at["logprob"])
                assert best["logprob"] <= place["logprob"] + NEAR_TIE_NATS, "temperature is 0"


def test_differences_are_as_the_log_probabilities_have_them(done: Done) -> None:
    cold, hit = done.round_of("cold"), done.round_of("hit")
    told = hit.stats["answers"]
    before = {one["index"]: one for one in cold.own}
    parted = {
        one["index"]: (before[one["index"]], one)
        for one in hit.own
        if one["output_sha256"] != before[one["index"]]["output_sha256"]
    }
    assert told["compared"] == len(hit.own) == 6
    assert told["equal"] == 6 - len(parted)
    assert told["near_ties"] + told["wrong"] + told["unknown"] == len(parted)
    assert {one["index"] for one in told["divergences"]} <= set(parted)
    for found in told["divergences"]:
        base, other = (places(one)[found["token"]] for one in parted[found["index"]])
        assert base["token"] != other["token"]
        gap = max(known(base, other), known(other, base))
        assert found["gap"] == pytest.approx(gap)
        if found["kind"] == "near_tie":
            assert gap < NEAR_TIE_NATS
        elif found["kind"] == "wrong":
            assert gap >= NEAR_TIE_NATS or found["shift"] >= SHIFT_NATS
    severities = {None, "info", "warning"} | ({"invalid"} if told["wrong"] else set())
    assert hit.findings().get("answers_differ") in severities


def known(place: dict[str, Any], rival: dict[str, Any]) -> float:
    """How much likelier its own token was than the other's, or at least was."""
    top = {one["token"]: one["logprob"] for one in place["top_logprobs"]}
    return float(place["logprob"] - top.get(rival["token"], min(top.values())))


def test_the_hits_were_hits(done: Done) -> None:
    hit = done.round_of("hit")
    assert all(one["cached_tokens"] > 0 for one in hit.own)
    assert hit.stats["tier_served"] in ("local", "store", "mixed")
