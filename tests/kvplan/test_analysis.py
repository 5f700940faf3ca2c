"""Stack distances against caches that are really run, and figures against counting by hand."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from kvplan.analysis.accesses import Visit, accesses
from kvplan.analysis.curve import sized
from kvplan.analysis.distances import Order

LINK = 8
ORDERS: tuple[Order, ...] = ("tail-first", "head-first")


def visits(prompts: Sequence[tuple[str, int]]) -> list[Visit]:
    """Each prompt is a word, whose letters name blocks of 8 tokens, and tokens of the last one."""
    made = []
    for word, last in prompts:
        names = [word[: at + 1] for at in range(len(word))]
        tokens = [LINK] * (len(word) - 1) + [last]
        made.append(Visit(links=list(zip(names, tokens, strict=True)), output_tokens=1))
    return made


def blocks_of(word: str, last: int, size: int) -> list[tuple[str, int]]:
    """Names of the whole blocks of a prompt: what stands before their end, and where that is."""
    tokens = LINK * (len(word) - 1) + last
    return [(word[: -(-end // LINK)], end) for end in range(size, tokens + 1, size)]


def run_lru(
    prompts: Sequence[tuple[str, int]], size: int, capacity: int, order: Order
) -> list[int]:
    """Blocks that a prefix cache finds, request by request: a list, walked and cut."""
    cache: OrderedDict[tuple[str, int], None] = OrderedDict()
    found = []
    for word, last in prompts:
        blocks = blocks_of(word, last, size)
        tokens = LINK * (len(word) - 1) + last
        hits = 0
        while hits < len(blocks) and blocks[hits] in cache:
            hits += 1
        found.append(min(hits, (tokens - 1) // size))
        for block in blocks if order == "head-first" else reversed(blocks):
            cache[block] = None
            cache.move_to_end(block)
        while len(cache) > capacity:
            cache.popitem(last=False)
    return found


words = st.lists(
    st.tuples(st.text("ab", min_size=1, max_size=7), st.integers(1, LINK)), min_size=1, max_size=30
)


@settings(deadline=None)
@given(words, st.sampled_from([2, 4, 5, 8, 12, 16]), st.integers(1, 40), st.sampled_from(ORDERS))
def test_distances_are_what_a_cache_does(
    prompts: list[tuple[str, int]], size: int, capacity: int, order: Order
) -> None:
    taken = sized(accesses(visits(prompts)), size, order)
    assert taken.hits(capacity).tolist() == run_lru(prompts, size, capacity, order)
    assert taken.hits(None).tolist() == run_lru(prompts, size, 10**9, order)
    assert taken.hits(taken.enough()).tolist() == taken.hits(None).tolist()
    if taken.enough():
        assert taken.hit_tokens(taken.enough() - 1) < taken.hit_tokens(None)
    within = [need for need in taken.needs().tolist() if need <= capacity]
    assert len(within) * size == taken.hit_tokens(capacity)
