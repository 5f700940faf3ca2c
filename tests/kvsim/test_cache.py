"""The prefix cache against a model of it, and the rules that vLLM's block pool keeps."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kvsim.cache import BlockPool, chain_all

SIZE = 4


def names(tokens: list[int], salt: str | None = None) -> list[bytes]:
    return list(chain_all(tokens, SIZE, salt))


def store(pool: BlockPool, tokens: list[int]) -> None:
    """What a request does that computes a prompt and ends."""
    wanted = names(tokens)
    found = pool.match(wanted)
    pool.take(found)
    fresh = pool.allocate(len(wanted) - len(found))
    assert fresh is not None
    blocks = found + fresh
    for block, name in zip(blocks, wanted, strict=True):
        pool.name(block, name)
    pool.release(blocks)


@given(st.lists(st.integers(0, 3), max_size=40), st.lists(st.integers(0, 3), max_size=40))
def test_names_agree_exactly_on_the_common_prefix(a: list[int], b: list[int]) -> None:
    common = 0
    while common < min(len(a), len(b)) and a[common] == b[common]:
        common += 1
    same = [x == y for x, y in zip(names(a), names(b), strict=False)]
    assert same == [at < common // SIZE for at in range(len(same))]


@given(st.lists(st.integers(0, 3), min_size=SIZE, max_size=40))
def test_a_salt_changes_every_name(tokens: list[int]) -> None:
    plain, salted = names(tokens), names(tokens, "salt")
    assert len(plain) == len(salted) == len(tokens) // SIZE
    assert not set(plain) & set(salted)
    assert salted == names(tokens, "salt")


@given(st.lists(st.lists(st.integers(0, 1), max_size=24), max_size=20), st.integers(8, 20))
def test_what_is_found_was_stored_and_nothing_is_lost_while_there_is_room(
    prompts: list[list[int]], capacity: int
) -> None:
    pool = BlockPool(capacity)
    stored: set[bytes] = set()
    for prompt in prompts:
        store(pool, prompt)
        stored |= set(names(prompt))
        found = pool.match(names(prompt))
        assert [block.digest for block in found] == names(prompt)  # the latest always fits
        assert pool.named <= capacity - 1
        if len(stored) <= capacity - 1:
            assert pool.named == len(stored)
            assert pool.evicted == 0
    assert pool.used == 0


def test_the_least_recently_used_goes_first_and_its_tail_before_its_head() -> None:
    pool = BlockPool(5)  # four usable
    old, new = [1] * 8, [2] * 8
    store(pool, old)
    store(pool, new)
    store(pool, [3] * 4)  # one block: the tail of the oldest
    assert len(pool.match(names(old))) == 1
    assert len(pool.match(names(new))) == 2
    store(pool, old[:4])  # used again: no longer the oldest
    store(pool, [4] * 4)
    assert len(pool.match(names(old))) == 1
    assert len(pool.match(names(new))) == 1


def test_held_blocks_are_neither_evicted_nor_cleared() -> None:
    pool = BlockPool(4)
    store(pool, [1] * 8)
    held = pool.match(names([1] * 8))
    pool.take(held)
    assert pool.allocate(2) is None
    assert not pool.clear()
    assert len(pool.match(names([1] * 8))) == 2
    pool.release(held)
    assert pool.clear()
    assert pool.match(names([1] * 8)) == []


def test_a_block_held_twice_is_free_after_the_second_release() -> None:
    pool = BlockPool(4)
    store(pool, [1] * 4)
    found = pool.match(names([1] * 4))
    pool.take(found)
    pool.take(found)
    pool.release(found)
    assert pool.used == 1
    pool.release(found)
    assert pool.used == 0
