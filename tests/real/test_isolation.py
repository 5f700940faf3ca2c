"""Isolation on real engines: clean rounds stay clean, planted blocks are found, salts are probed.

Two arrangements: vLLM and Mooncake, which honour `cache_salt`, and one vLLM node with
ExampleConnector, which knows neither salts nor resets. KV_REAL_FULL=1 runs fifty clean rounds
instead of four.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.family import environment
from tests.real.engine import (
    BLOCK_TOKENS,
    Node,
    Stack,
    call,
    kvclear,
    random_prompt,
    stack_up,
    verdicts,
    whole_blocks,
)
from tests.real.pipeline import Done, Record, Round, lines, measure

pytestmark = pytest.mark.real

CLEAN_ROUNDS = 50 if os.environ.get("KV_REAL_FULL") == "1" else 4
A_TIME = min(CLEAN_ROUNDS, 5)
SHAPE = (
    "--scenario long_context_high_reuse --requests 10 --contexts 3 --sentinels 1"
    " --context-tokens 700 --output-tokens 4"
)
COLD = "--rounds 1 --pause 0 --warmup 0 --concurrency 4"
LENGTH = 1_100


# --- clean rounds --------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["leaders-first", "shuffled"])
def test_concurrent_rounds_under_salts_raise_no_alarm(
    real_stack: Stack, tmp_path: Path, order: str
) -> None:
    """The same texts again and again, on a node and a store that are full of them."""
    for batch in range(CLEAN_ROUNDS // 2 // A_TIME or 1):
        repeats = min(A_TIME, CLEAN_ROUNDS // 2)
        done = measure(
            tmp_path,
            f"kvload -q --url {real_stack.node_a} {SHAPE} {COLD} --order {order}"
            f" --salt auto --repeats {repeats}",
            name=f"clean-{batch}",
        )
        assert len(done.rounds) == repeats
        assert [one.stats["cold_proof"] for one in done.rounds] == ["proven"] * repeats


def test_a_cleared_stack_without_salts_raises_none_either(
    empty_stack: Stack, tmp_path: Path
) -> None:
    done = measure(
        tmp_path,
        f"kvload -q --url {empty_stack.node_a} {SHAPE} {COLD} --order shuffled --salt none",
    )
    [one] = done.rounds
    assert one.stats["cold_proof"] == "proven"
    assert "contaminated" not in one.findings()
    assert "not_isolated" not in one.findings(), "a cold round that is proven is its own proof"


# --- planted blocks ------------------------------------------------------------------------------


def plan_of(stack: Stack, folder: Path, order: str) -> tuple[Path, list[Record]]:
    path = folder / "plan.jsonl"
    with path.open("wb") as out:
        subprocess.run(
            f"kvplan -q --url {stack.node_a} {SHAPE} --order {order} --seed 11".split(),
            stdout=out,
            env=environment(),
            timeout=120,
            check=True,
        )
    return path, [record for record in lines(path) if record["record"] == "planned"]


def ids_of(node: Node, planned: Record) -> list[int]:
    body = {"model": node.model, "messages": planned["messages"]}
    tokens: list[int] = call(f"{node.url}/tokenize", body)["tokens"]
    return tokens


def cold_round(stack: Stack, folder: Path, plan: Path, salt: str) -> Round:
    load = f"kvload -q --url {stack.node_a} --workload {plan} {COLD} --salt {salt}"
    [one] = measure(folder, load).rounds
    return one


@pytest.mark.parametrize("stratum", ["leader", "unique"])
def test_two_blocks_under_a_leader_or_a_unique_are_found(
    real_stack: Stack, tmp_path: Path, stratum: str
) -> None:
    """Far below the blind spot of the sums: in leaders-first order each has a bound of its own."""
    path, planned = plan_of(real_stack, tmp_path, "leaders-first")
    victim = next(one for one in planned if one["stratum"] == stratum)
    planted = 2 * BLOCK_TOKENS
    salt = f"two-blocks-{stratum}"
    head = ids_of(real_stack.a, victim)[: planted + 1]
    real_stack.a.complete(head, cache_salt=salt)

    one = cold_round(real_stack, tmp_path, path, salt)

    [found] = [f for f in one.stats["findings"] if f["code"] == "contaminated"]
    assert found["severity"] == "invalid"
    assert [
        (request["index"], request["cached_tokens"]) for request in found["evidence"]["requests"]
    ] == [(victim["index"], planted)]
    assert planted < found["evidence"]["blind_spot_tokens"]
    assert one.stats["cold_proof"] == "contaminated"


def test_more_than_the_blind_spot_is_found_in_any_order(real_stack: Stack, tmp_path: Path) -> None:
    path, planned = plan_of(real_stack, tmp_path, "shuffled")
    have: set[tuple[int, ...]] = set()
    for one in planned:
        if one["stratum"] in ("leader", "unique"):
            ids = ids_of(real_stack.a, one)
            real_stack.a.complete(ids, cache_salt="shuffled")
            have |= {
                tuple(ids[:end]) for end in range(BLOCK_TOKENS, len(ids), BLOCK_TOKENS)
            }  # fmt: skip
    done = cold_round(real_stack, tmp_path, path, "shuffled")
    kept = done.stats["conservation"]
    assert done.stats["cold_proof"] == "contaminated"
    assert 0 < kept["shortfall_tokens"] <= BLOCK_TOKENS * len(have)


# --- salts, and a store behind the engine that honours them --------------------------------------


def test_vllm_and_mooncake_honour_cache_salt(real_stack: Stack) -> None:
    status, record = kvclear(
        "--vllm", real_stack.node_a, "--vllm", real_stack.node_b, "--probe-salt"
    )
    assert status == 0
    assert verdicts(record) == 2 * [
        ("salt probe: cache_salt", "engine", True),
        ("salt probe: cache_salt", "store", True),
    ]
    assert record["verified"] is None, "nothing was shown to be empty"


# --- and one that does not -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def example_node(installed_stack: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """One vLLM node with ExampleConnector over a folder."""
    folder = tmp_path_factory.mktemp("example-connector")
    with stack_up(folder, "--nodes", "1", "--connector", "example") as up:
        yield Node(url=up["nodes"][0], model=up["model"])


def test_an_external_reset_that_says_success_and_clears_nothing(example_node: Node) -> None:
    prompt = random_prompt("external", LENGTH)
    assert example_node.complete(prompt).cached_tokens == 0
    assert example_node.try_reset("?reset_external=true") is True
    before = example_node.sources()["external_kv_transfer"]
    assert example_node.complete(prompt).cached_tokens == whole_blocks(LENGTH)
    moved = example_node.sources()["external_kv_transfer"] - before
    assert moved == whole_blocks(LENGTH), "all of it from the folder"


def test_kvclear_does_not_believe_it(example_node: Node) -> None:
    status, record = kvclear("--vllm", example_node.url)
    assert (status, record["verified"]) == (1, False)
    assert "from behind it" in record["reason"]


def test_a_connector_that_ignores_salts_is_found_out(example_node: Node) -> None:
    status, record = kvclear("--vllm", example_node.url, "--probe-salt")
    found = verdicts(record)
    assert ("salt probe: cache_salt", "engine", True) in found
    assert ("salt probe: cache_salt", "store", False) in found
    assert ("salt probe: lmcache_tag", "store", False) in found
    assert found[-2:] == [
        ("salt probe: prompt_head", "engine", True),
        ("salt probe: prompt_head", "store", True),
    ]
    assert status == 0 and "prompt_head isolates here" in record["reason"]


def example_round(node: Node, folder: Path, name: str, flags: str) -> Done:
    shape = "--scenario cold_start --requests 4 --sentinels 1 --context-tokens 500 --seed 5"
    load = f"kvload -q --url {node.url} {shape} --output-tokens 2 --rounds 1 --pause 0 {flags}"
    return measure(folder, load, name=name)


def test_salts_that_are_taken_on_trust_do_not_isolate_there(
    example_node: Node, tmp_path: Path
) -> None:
    """The field alone, without the probe: the second round is warm, and is called that."""
    trusted = "--warmup 0 --concurrency 2"
    [first] = example_round(example_node, tmp_path, "first", f"{trusted} --salt one").rounds
    [again] = example_round(example_node, tmp_path, "again", f"{trusted} --salt two").rounds
    assert first.stats["cold_proof"] == "proven"
    assert again.run["salt_way"] == "cache_salt"
    assert again.stats["cold_proof"] == "contaminated"


def test_kvload_finds_another_way_there(example_node: Node, tmp_path: Path) -> None:
    """With its warm-up it probes, says what it found, and puts the salt where it counts."""
    for name in ("first", "again"):
        [one] = example_round(example_node, tmp_path, name, "--warmup 1 --salt auto").rounds
        assert one.run["salt_way"] == "prompt_head"
        assert "salt_ignored" in one.findings()
        assert one.stats["cold_proof"] == "proven"
