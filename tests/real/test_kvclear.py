"""kvclear against real vLLM nodes around a real Mooncake store.

What it says is held against what a plain client sees (engine.py shares no code with the tools).
"""

from __future__ import annotations

import asyncio

from tests.real.engine import BLOCK_TOKENS, Stack, kvclear, proofs, random_prompt, whole_blocks

from kvengine import mooncake
from kvengine.identify import identify
from kvengine.server import Server

LENGTH = 1_500
BLOCKS = LENGTH // BLOCK_TOKENS


def everything(stack: Stack) -> list[str]:
    return ["--vllm", stack.node_a, "--vllm", stack.node_b, "--mooncake", stack.mooncake]


def test_two_nodes_and_their_store_are_cleared_and_shown_empty(empty_stack: Stack) -> None:
    prompt = random_prompt("cleared", LENGTH)
    empty_stack.a.complete(prompt)
    empty_stack.store.wait_for_objects(BLOCKS)
    assert empty_stack.b.complete(prompt).cached_tokens == whole_blocks(LENGTH)

    status, record = kvclear(*everything(empty_stack))

    assert (status, record["verified"]) == (0, True)
    [store] = proofs(record, "store")
    assert store["keys_before"] > BLOCKS and store["keys_after"] == 0
    for proof in proofs(record, "engine"):
        assert proof["control_tokens"] >= 2 * BLOCK_TOKENS
        assert proof["control_tokens"] % BLOCK_TOKENS == 0
        assert proof["after_tokens"] == 0
    assert empty_stack.a.complete(prompt).cached_tokens == 0
    # Node B computed nothing: what it reports now can only be what node A just saved again.
    assert record["floor_tokens"] == 0


def test_local_only_leaves_the_store_which_serves_the_probe(empty_stack: Stack) -> None:
    prompt = random_prompt("local only", LENGTH)
    empty_stack.a.complete(prompt)
    empty_stack.store.wait_for_objects(BLOCKS)

    status, record = kvclear("--vllm", empty_stack.node_a, "--local-only")

    assert (status, record["verified"]) == (0, True)
    assert all(proof["after_tokens"] >= 2 * BLOCK_TOKENS for proof in proofs(record, "engine"))
    before = empty_stack.a.sources()["local_cache_hit"]
    assert empty_stack.a.complete(prompt).cached_tokens == whole_blocks(LENGTH)
    assert empty_stack.a.sources()["local_cache_hit"] == before


def test_nodes_without_their_store_are_not_cold(empty_stack: Stack) -> None:
    """The trap of a local reset: success is true, and the next prompt comes from the store."""
    status, record = kvclear("--vllm", empty_stack.node_a)

    [reset] = [step for step in record["steps"] if step["what"] == "reset prefix cache"]
    assert reset["ok"] is True
    assert (status, record["verified"]) == (1, False)
    assert "0 from its own cache" in record["reason"]


def test_a_store_without_its_nodes_is_filled_again_and_shows_nothing(empty_stack: Stack) -> None:
    """The order trap: a store that is emptied first is undone by the nodes' next local hit."""
    prompt = random_prompt("order", LENGTH)
    empty_stack.a.complete(prompt)
    empty_stack.store.wait_for_objects(BLOCKS)

    status, record = kvclear("--mooncake", empty_stack.mooncake, "--global")

    [removal] = [step for step in record["steps"] if step["what"] == "remove every object"]
    assert removal["ok"] is True and empty_stack.store.keys() == 0
    assert (status, record["verified"]) == (1, None), "success and no key left, yet not shown"
    assert empty_stack.a.complete(prompt).cached_tokens == whole_blocks(LENGTH)
    empty_stack.store.wait_for_objects(BLOCKS)
    assert empty_stack.store.keys() >= BLOCKS, "undone"


def test_a_node_that_is_not_named_is_not_vouched_for(empty_stack: Stack) -> None:
    """Node B keeps its blocks; what it stored is of our model and is gone, and no more is said."""
    prompt = random_prompt("left out", LENGTH)
    empty_stack.b.complete(prompt)
    empty_stack.store.wait_for_objects(BLOCKS)

    status, record = kvclear("--vllm", empty_stack.node_a, "--mooncake", empty_stack.mooncake)

    assert (status, record["verified"]) == (0, True), "of what was named, nothing is left"
    assert record["engines"] == [f"vllm={empty_stack.node_a}", f"mooncake={empty_stack.mooncake}"]
    assert empty_stack.b.complete(prompt).cached_tokens == whole_blocks(LENGTH)


def test_an_unforced_removal_within_a_lease_is_caught(empty_stack: Stack) -> None:
    prompt = random_prompt("lease", LENGTH)
    empty_stack.a.complete(prompt)
    empty_stack.store.wait_for_objects(BLOCKS)
    empty_stack.a.reset()
    assert empty_stack.a.complete(prompt).cached_tokens == whole_blocks(LENGTH), "leases taken"

    async def remove() -> tuple[mooncake.Outcome, frozenset[str] | None, int | None]:
        async with Server(empty_stack.mooncake) as server:
            outcome = await mooncake.remove_all(server, force=False)
            return outcome, await mooncake.keys(server), await mooncake.key_count(server)

    async def root_of_the_model() -> str | None:
        async with Server(empty_stack.node_a) as server:
            return (await identify(server, None)).root

    outcome, keys, count = asyncio.run(remove())
    root = asyncio.run(root_of_the_model())

    assert outcome.ok is True and mooncake.removed_count(outcome.answer.partition(" ")[2]) == 0
    assert keys is not None and len(keys) == count == BLOCKS, "it said success and kept them all"
    assert root is not None and all(mooncake.is_of(key, [root]) for key in keys)
    status, record = kvclear(*everything(empty_stack))
    assert (status, record["verified"]) == (0, True), "by force they go"


def test_foreign_keys_are_found_by_the_models_name(empty_stack: Stack) -> None:
    """A store with keys of another model: here ours, seen by somebody who serves another one."""
    empty_stack.a.complete(random_prompt("foreign", LENGTH))
    empty_stack.store.wait_for_objects(BLOCKS)

    status, record = kvclear("--mooncake", empty_stack.mooncake, "--model", "somebody-elses")

    [removal] = [step for step in record["steps"] if step["what"] == "remove every object"]
    assert removal["ok"] is False and "--global" in removal["answer"]
    assert (status, record["verified"]) == (1, None)
    assert empty_stack.store.keys() == BLOCKS
