"""What leases and the watermark do to a store, where LRU alone would say otherwise."""

from __future__ import annotations

from kvplan.analysis.accesses import Accesses, Visit, accesses
from kvplan.analysis.store import Stored, StoreRules, run_store

BLOCK = 8


def workload(*prompts: str) -> Accesses:
    """Each letter is a block of eight tokens; every prompt ends in a token of its own."""
    visits = []
    for at, word in enumerate(prompts):
        links = [(word[: end + 1], BLOCK) for end in range(len(word))]
        visits.append(Visit(links=[*links, (f"end {at}", 1)], output_tokens=1))
    return accesses(visits)


def run(taken: Accesses, capacity: int, *, every_s: float = 1.0, **rules: float) -> Stored:
    begun = [at * every_s for at in range(taken.requests)]
    ended = [at + every_s / 2 for at in begun]
    made = StoreRules(capacity_blocks=capacity, **rules)  # type: ignore[arg-type]
    return run_store(taken, BLOCK, made, begun, ended, seed=None)


def test_what_was_put_is_found() -> None:
    assert run(workload("abc", "abd", "abc"), 100).hits.tolist() == [0, 2, 3]


def test_above_the_watermark_the_oldest_go() -> None:
    """Ten blocks of room and a watermark of 0.9: the tenth block is one too many, and two go:
    five in a hundred and what is above, of ten."""
    taken = workload("abcdefgh", "ij", "abcdefgh")
    assert run(taken, 10, lease_s=0.0).evicted >= 2
    assert run(taken, 10, lease_s=0.0).hits.tolist() == [0, 0, 0], "the head went first"
    assert run(taken, 20, lease_s=0.0).hits.tolist() == [0, 0, 8]


def test_what_was_asked_for_outlives_what_was_put() -> None:
    """`ab` is asked for and so leased: newer blocks, which nobody asked for, go before it."""
    taken = workload("ab", "ab", "cdefg", "hij", "ab", "cdefg")
    leased = run(taken, 10, lease_s=100.0)
    assert leased.hits.tolist()[4] == 2
    assert leased.hits.tolist()[5] < 5
    bare = run(taken, 10, lease_s=0.0)
    assert bare.hits.tolist()[4] == 0


def test_a_store_full_of_leases_takes_nothing_in() -> None:
    """All blocks are under lease when new ones come: there is no room for them, and none goes."""
    taken = workload("abcdefgh", "abcdefgh", "ijklm", "ijklm", "abcdefgh")
    full = run(taken, 8, lease_s=1000.0, watermark=1.0)
    assert full.hits.tolist() == [0, 8, 0, 0, 8]
    assert (full.failed, full.evicted) == (10, 0)
    late = run(taken, 8, lease_s=1.0, every_s=10.0, watermark=1.0)
    assert late.failed == 0 and late.evicted > 0
