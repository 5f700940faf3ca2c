"""The trees against brute force over token lists."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvpipe.records import Block
from kvprompt.chains import chains, token_symbols
from kvprompt.tree import DonorTree, PrefixTree, reusable

# A tiny alphabet and shared heads: prompts that often agree, part anywhere, or are prefixes.
prompts = st.lists(st.lists(st.integers(0, 2), max_size=12), min_size=1, max_size=10)


def common(one: list[int], other: list[int]) -> int:
    length = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        length += 1
    return length


def linked(lists: list[list[int]]) -> list[list[Block]]:
    return chains([token_symbols(ids) for ids in lists])


@given(prompts)
def test_what_prompts_add_is_what_no_earlier_prompt_had(lists: list[list[int]]) -> None:
    tree = PrefixTree()
    new = [tree.add(blocks) for blocks in linked(lists)]
    for at, ids in enumerate(lists):
        longest = max((common(ids, earlier) for earlier in lists[:at]), default=0)
        assert new[at] == len(ids) - longest
    distinct = {tuple(ids[: n + 1]) for ids in lists for n in range(len(ids))}
    assert sum(new) == tree.size == len(distinct)


@given(prompts)
def test_a_chain_is_as_long_as_its_prompt_and_shares_what_the_tokens_share(
    lists: list[list[int]],
) -> None:
    found = linked(lists)
    for ids, blocks in zip(lists, found, strict=True):
        assert sum(block.tokens for block in blocks) == len(ids)
        for others, theirs in zip(lists, found, strict=True):
            shared = 0
            for mine, other in zip(blocks, theirs, strict=False):
                if mine.id != other.id:
                    break
                shared += mine.tokens
            assert shared == common(ids, others)


@given(prompts)
def test_names_do_not_depend_on_the_other_prompts(lists: list[list[int]]) -> None:
    """The last link stands for the whole prompt, however often it was split."""
    for ids, blocks in zip(lists, linked(lists), strict=True):
        if ids:
            assert blocks[-1].id == linked([ids])[0][-1].id


donations = st.lists(
    st.tuples(
        st.lists(st.integers(0, 1), min_size=1, max_size=8), st.integers(0, 9), st.integers(0, 9)
    ),
    min_size=1,
    max_size=8,
)


@given(donations, st.integers(0, 20), st.booleans())
def test_donors_are_those_before_the_bound_and_never_oneself(
    given_: list[tuple[list[int], int, int]], bound: int, by_end: bool
) -> None:
    found = linked([ids for ids, _, _ in given_])
    tree = DonorTree()
    for blocks, (_, sent, lasting) in zip(found, given_, strict=True):
        tree.sent(blocks, sent)
        tree.ended(blocks, sent + lasting)
    for me, (ids, sent, lasting) in enumerate(given_):
        stamps = [b[1] + b[2] if by_end else b[1] for b in given_]
        others = [
            common(ids, donor[0])
            for at, donor in enumerate(given_)
            if at != me and stamps[at] < bound
        ]
        if by_end:
            shared = tree.shared(found[me], ended_before_ns=bound, own_ended_ns=sent + lasting)
        else:
            shared = tree.shared(found[me], sent_before_ns=bound, own_sent_ns=sent)
        assert shared == max(others, default=0)


def test_without_a_bound_every_donor_that_was_sent_counts() -> None:
    tree = DonorTree()
    chain = [Block("a", 5), Block("b", 3)]
    tree.ended(chain, 1)
    assert tree.shared(chain) == 0
    tree.sent(chain[:1], 7)
    assert tree.shared(chain) == 5


def test_two_bounds_at_once_are_refused() -> None:
    with pytest.raises(ValueError, match="one bound"):
        DonorTree().shared([], sent_before_ns=1, ended_before_ns=1)


@given(st.integers(0, 500), st.integers(0, 500), st.integers(1, 64))
def test_reusable_is_whole_blocks_and_leaves_the_last_token(
    shared: int, prompt: int, block: int
) -> None:
    got = reusable(shared, prompt, block)
    assert got % block == 0
    assert 0 <= got <= max(0, min(shared, prompt - 1))
    assert got + block > min(shared, prompt - 1)
