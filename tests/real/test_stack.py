"""The facts about vLLM and Mooncake that the tools stand on, seen on the real engines.

Only counts are asserted. Each test begins with nothing cached on either node or in the store.
"""

from __future__ import annotations

import threading
import time
import urllib.error

import pytest
from tests.real.engine import (
    BLOCK_TOKENS,
    Node,
    Stack,
    Usage,
    call,
    random_prompt,
    until,
    whole_blocks,
)

LENGTH = 1_500  # 11 whole blocks and a rest
BLOCKS = LENGTH // BLOCK_TOKENS
HIT = whole_blocks(LENGTH)
LEASE_S = 5.0  # stack/arrangement.py gives it to the master


def sources_of(node: Node, prompt: list[int], **more: object) -> tuple[Usage, dict[str, int]]:
    """One request, alone, and what it added to the node's counters of prompt tokens."""
    before = node.sources()
    usage = node.complete(prompt, **more)
    # The page is a moment behind the answer.
    until(lambda: sum(node.sources().values()) >= sum(before.values()) + len(prompt), "counters")
    after = node.sources()
    return usage, {source: after[source] - before[source] for source in after}


def test_cold_computes_everything_and_the_repeat_hits_locally(empty_stack: Stack) -> None:
    prompt = random_prompt("local", LENGTH)

    cold, cold_sources = sources_of(empty_stack.a, prompt)
    hit, hit_sources = sources_of(empty_stack.a, prompt)

    assert (cold.prompt_tokens, cold.cached_tokens) == (LENGTH, 0)
    assert cold_sources == {
        "local_compute": LENGTH,
        "local_cache_hit": 0,
        "external_kv_transfer": 0,
    }
    assert hit.cached_tokens == HIT
    assert hit_sources == {
        "local_compute": LENGTH - HIT,
        "local_cache_hit": HIT,
        "external_kv_transfer": 0,
    }


def test_a_local_reset_is_not_cold_when_the_store_stands_behind_it(empty_stack: Stack) -> None:
    prompt = random_prompt("store", LENGTH)
    empty_stack.a.complete(prompt)
    empty_stack.store.wait_for_objects(BLOCKS)

    empty_stack.a.reset()
    hit, sources = sources_of(empty_stack.a, prompt)

    assert hit.cached_tokens == HIT
    assert sources == {
        "local_compute": LENGTH - HIT,
        "local_cache_hit": 0,
        "external_kv_transfer": HIT,
    }


def test_what_one_node_computed_the_other_loads(empty_stack: Stack) -> None:
    prompt, control = random_prompt("remote", LENGTH), random_prompt("control", LENGTH)
    empty_stack.a.complete(prompt)
    empty_stack.store.wait_for_objects(BLOCKS)

    hit, sources = sources_of(empty_stack.b, prompt)
    no_reuse, control_sources = sources_of(empty_stack.b, control)

    assert hit.cached_tokens == HIT
    assert (sources["external_kv_transfer"], sources["local_cache_hit"]) == (HIT, 0)
    assert no_reuse.cached_tokens == 0
    assert control_sources["local_compute"] == LENGTH


def test_a_prefix_with_another_tail_hits_as_far_as_it_goes(empty_stack: Stack) -> None:
    shared = random_prompt("head", 5 * BLOCK_TOKENS + 50)
    empty_stack.a.complete(shared + random_prompt("tail 1", 700))
    empty_stack.store.wait_for_objects((len(shared) + 700) // BLOCK_TOKENS)

    for node, tail in ((empty_stack.a, "tail 2"), (empty_stack.b, "tail 3")):
        other = shared + random_prompt(tail, 700)
        assert node.complete(other).cached_tokens == 5 * BLOCK_TOKENS


def test_a_salt_isolates_in_the_node_and_in_the_store(empty_stack: Stack) -> None:
    prompt = random_prompt("salt", LENGTH)
    first = empty_stack.a.complete(prompt, cache_salt="one")
    empty_stack.store.wait_for_objects(BLOCKS)

    other_salt = empty_stack.a.complete(prompt, cache_salt="two")
    no_salt = empty_stack.b.complete(prompt)
    same_salt = empty_stack.a.complete(prompt, cache_salt="one")
    same_salt_elsewhere = empty_stack.b.complete(prompt, cache_salt="one")

    assert [first.cached_tokens, other_salt.cached_tokens, no_salt.cached_tokens] == [0, 0, 0]
    assert [same_salt.cached_tokens, same_salt_elsewhere.cached_tokens] == [HIT, HIT]


def test_an_empty_salt_is_refused(real_stack: Stack) -> None:
    with pytest.raises(urllib.error.HTTPError) as refusal:
        real_stack.a.complete(random_prompt("empty salt", 10), cache_salt="")
    with refusal.value as answer:
        assert answer.code == 400


def test_a_reset_under_load_says_200_and_does_nothing(empty_stack: Stack) -> None:
    node, prompt = empty_stack.a, random_prompt("busy", LENGTH)
    long_answer = threading.Thread(
        target=node.complete, args=(prompt, 600), kwargs={"ignore_eos": True}
    )
    long_answer.start()
    try:
        until(node.busy, "running request")
        refused = not node.try_reset()
        assert node.busy(), "the request ended too soon for this test to mean anything"
    finally:
        long_answer.join()

    assert refused
    assert node.complete(prompt).cached_tokens == HIT
    node.reset()


def test_an_external_reset_clears_the_store_too(empty_stack: Stack) -> None:
    prompt = random_prompt("external", LENGTH)
    empty_stack.a.complete(prompt)
    empty_stack.store.wait_for_objects(BLOCKS)

    until(lambda: empty_stack.a.try_reset("?reset_external=true"), "successful reset")

    assert empty_stack.store.keys() == 0
    assert empty_stack.a.complete(prompt).cached_tokens == 0


def test_removal_within_a_lease_says_success_and_keeps_every_key(empty_stack: Stack) -> None:
    prompt, store = random_prompt("lease", LENGTH), empty_stack.store
    empty_stack.a.complete(prompt)
    store.wait_for_objects(BLOCKS)
    keys = store.keys()

    removed = None
    while removed is None:
        # The lookup of a node that finds them takes a lease on every key.
        began = time.monotonic()
        assert empty_stack.b.complete(prompt).cached_tokens == HIT
        removed = store.remove_all(force=False)
        if removed and time.monotonic() - began > LEASE_S:  # a crawling machine: once more
            removed = None
            empty_stack.a.complete(prompt)
            store.wait_for_objects(BLOCKS)

    assert removed == 0
    assert store.keys() == keys
    assert store.remove_all(force=True) == keys
    assert store.keys() == 0


def test_a_store_cleared_before_the_nodes_is_filled_again(empty_stack: Stack) -> None:
    prompt, store = random_prompt("order", LENGTH), empty_stack.store
    empty_stack.a.complete(prompt)
    store.wait_for_objects(BLOCKS)

    assert store.remove_all(force=True) == BLOCKS
    assert store.keys() == 0
    assert empty_stack.a.complete(prompt).cached_tokens == HIT
    store.wait_for_objects(BLOCKS)

    empty_stack.empty()
    assert empty_stack.a.complete(prompt).cached_tokens == 0


def test_tokenize_counts_a_conversation_as_the_chat_does(real_stack: Stack) -> None:
    messages = [
        {"role": "system", "content": "Answer in one sentence."},
        {"role": "user", "content": "What does the licence say about patents?"},
    ]

    counted = call(
        f"{real_stack.node_a}/tokenize", {"model": real_stack.model, "messages": messages}
    )
    usage = real_stack.a.chat(messages)["usage"]

    assert counted["count"] == len(counted["tokens"]) == usage["prompt_tokens"]


def test_every_output_token_of_the_tiny_model_is_text(real_stack: Stack) -> None:
    """Streams of the real stack then carry a text in every chunk, whatever the prompt."""
    for seed in range(8):
        answer = real_stack.a.chat(
            [{"role": "user", "content": f"Write line {seed}."}], max_tokens=16, temperature=1
        )
        text = answer["choices"][0]["message"]["content"]
        assert text and text.isascii()
        assert answer["usage"]["completion_tokens"] == 16
