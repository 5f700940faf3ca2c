"""Cold is proven, contaminated or not shown: provoked, and nearly."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs
from tests.kvstats.streams import (
    BLOCK,
    CONTEXT,
    FLOOR,
    PROMPT,
    Made,
    cached,
    cold,
    failed,
    no_reuse,
    node,
    request,
    run,
)

from kvpipe.records import Arrival, Finding, Request


def contaminated(made: Made) -> Finding | None:
    return next((f for f in made.stats().findings if f.code == "contaminated"), None)


def leader(one: Request) -> bool:
    return one.index == 0


def silent(made: Made) -> Made:
    return made.change(lambda one: True, cached_tokens=None)


def test_a_clean_cold_round_is_proven() -> None:
    stats = cold().stats()
    assert stats.cold_proof == "proven"
    assert stats.findings == []
    kept = stats.conservation
    assert kept is not None
    assert (kept.shortfall_tokens, kept.source) == (0.0, "requests")
    assert kept.computed_tokens is not None
    assert kept.tree_tokens is not None
    assert kept.computed_tokens >= kept.tree_tokens
    assert kept.blind_spot_tokens == len(cold().requests) * (BLOCK - 1)


def test_a_leader_that_hits_is_contamination() -> None:
    found = contaminated(cold().change(leader, cached_tokens=cached(CONTEXT)))
    assert found is not None
    assert found.severity == "invalid"
    # The whole shortfall, but for what the template's head and the followers' rounding may hide.
    surplus = sum(
        (r.prompt_tokens or 0) - (r.cached_tokens or 0) - (r.new_tokens or 0)
        for r in cold().requests
    )
    assert found.evidence["shortfall_tokens"] == CONTEXT - surplus - FLOOR
    assert found.evidence["requests"] == [
        {"index": 0, "cached_tokens": CONTEXT, "allowed_tokens": FLOOR}
    ]
    assert list(found.evidence["groups"]) == ["g0"]
    assert f"{CONTEXT:,}" in found.message


def test_one_block_in_a_unique_is_seen_by_the_ordered_rule() -> None:
    """Conservation alone is blind below n (B - 1) tokens; leaders-first order is not."""
    made = cold().change(lambda one: one.stratum == "unique", cached_tokens=BLOCK)
    assert contaminated(made) is not None


def test_the_template_head_is_no_contamination() -> None:
    head = 2 * BLOCK
    made = cold().change(lambda one: True, floor_tokens=head)
    made = made.change(
        lambda one: one.stratum in ("leader", "unique"),
        cached_tokens=head,
        ideal_in_round_hi=0,
        new_tokens=PROMPT - head,
    ).change(leader, new_tokens=PROMPT)
    assert made.stats().cold_proof == "proven"
    over = made.change(leader, cached_tokens=head + BLOCK)
    assert contaminated(over) is not None


def test_contamination_of_one_group_is_not_paid_for_by_another() -> None:
    """Followers of g1 race and compute their context again: the round's sum hides g0's hits."""
    raced = cold(groups=2, followers=4)
    raced = raced.change(
        lambda one: one.group == "g1" and one.stratum == "follower",
        cached_tokens=0,
        ideal_in_round_lo=0,
    )
    assert contaminated(raced) is None
    # Leader and follower 1 swap their figures: the ordered rule is told a bound it cannot break.
    spoilt = raced.change(leader, cached_tokens=cached(CONTEXT), ideal_in_round_hi=cached(CONTEXT))
    found = contaminated(spoilt)
    assert found is not None
    assert found.evidence["shortfall_tokens"] == 0
    assert list(found.evidence["groups"]) == ["g0"]


def racing(order: random.Random, replicas: int, lost_answers: int) -> Made:
    """A clean concurrent round: an engine of several replicas that computes what it does not have.

    Requests run in any order; a failed one computes and reports nothing.
    """
    plan = cold(groups=3, followers=5, uniques=2, sentinels=2).requests
    doomed = set(order.sample(range(len(plan)), lost_answers))
    have: list[set[str]] = [set() for _ in range(replicas)]
    answered = []
    for one in order.sample(plan, len(plan)):
        cache = order.choice(have)
        shared = CONTEXT if one.group is not None and one.group in cache else 0
        if one.group is not None:
            cache.add(one.group)
        bounds = {"ideal_in_round_lo": 0, "ideal_in_round_hi": cached(CONTEXT) if one.group else 0}
        if one.index in doomed:
            answered.append(structs.replace(failed(one), **bounds))
        else:
            answered.append(structs.replace(one, cached_tokens=cached(shared), **bounds))
    head = run(requests=len(plan) - 2, sentinels=2, arrival=Arrival(kind="closed", concurrency=8))
    return Made(head, answered).closed()


@given(st.randoms(use_true_random=False), st.integers(1, 3), st.integers(0, 4))
def test_no_false_alarm_whatever_the_order(
    order: random.Random, replicas: int, lost_answers: int
) -> None:
    assert contaminated(racing(order, replicas, lost_answers)) is None


@given(st.randoms(use_true_random=False), st.integers(0, 2))
def test_every_leader_served_is_always_seen(order: random.Random, lost_answers: int) -> None:
    """Concurrency cannot hide a whole round that was there before."""
    made = racing(order, 1, lost_answers)
    warm = made.change(
        lambda one: one.status == "ok" and one.stratum != "sentinel", cached_tokens=cached(PROMPT)
    )
    assert contaminated(warm) is not None


def test_a_failed_leader_excuses_what_it_computed() -> None:
    made = cold()
    first = made.requests[0]
    hits = cached(CONTEXT)
    rest = [failed(first), *made.requests[1:]]
    assert contaminated(replace(made, requests=rest).closed()) is None
    # Its followers' own questions are still owed.
    spoilt = [
        structs.replace(one, cached_tokens=cached(PROMPT)) if one.group == "g0" else one
        for one in rest
    ]
    assert contaminated(replace(made, requests=spoilt).closed()) is not None
    assert hits < cached(PROMPT)


def test_a_retried_request_may_find_its_first_attempt() -> None:
    made = cold().change(leader, cached_tokens=cached(PROMPT), retries=1)
    assert contaminated(made) is None
    assert contaminated(cold().change(leader, cached_tokens=cached(PROMPT))) is not None


def test_an_earlier_round_of_the_namespace_is_no_contamination() -> None:
    given_before = cached(CONTEXT)
    made = cold().change(leader, cached_tokens=given_before, ideal_prior_tokens=given_before)
    assert contaminated(made) is None
    more = made.change(leader, cached_tokens=given_before + 2 * BLOCK)
    assert contaminated(more) is not None


def test_no_reuse_owes_every_prompt() -> None:
    assert no_reuse().stats().cold_proof == "proven"
    found = contaminated(
        no_reuse().change(lambda one: one.stratum == "follower", cached_tokens=cached(CONTEXT))
    )
    assert found is not None
    assert found.evidence["shortfall_tokens"] > 0


def test_a_failed_request_of_no_reuse_owes_nothing() -> None:
    made = no_reuse().map(lambda one: failed(one) if one.index == 3 else one)
    assert made.stats().cold_proof == "proven"


def test_without_tokens_nothing_is_shown() -> None:
    """A vLLM that reports null for 0 proves nothing."""
    stats = silent(cold()).stats()
    assert stats.cold_proof == "not shown"
    codes = {f.code for f in stats.findings}
    assert codes == {"cold_not_shown", "cached_tokens_not_reported"}
    assert stats.conservation is not None
    assert stats.conservation.shortfall_tokens is None


def test_counters_stand_in_for_tokens() -> None:
    stats = silent(cold()).seen_by(node(cold())).stats()
    assert stats.cold_proof == "proven"
    assert stats.conservation is not None
    assert stats.conservation.source == "counters"


def test_counters_show_contamination_too() -> None:
    made = cold()
    computed = node(made).counters["computed_tokens"] or 0
    spoilt = silent(made).seen_by(node(made, computed_tokens=computed - CONTEXT))
    assert spoilt.stats().cold_proof == "contaminated"


def test_counters_that_others_moved_prove_nothing() -> None:
    made = cold()
    spoilt = silent(made).seen_by(node(made, requests=len(made.requests) + 1))
    assert spoilt.stats().cold_proof == "not shown"


def test_tokens_of_some_prove_nothing_but_may_convict() -> None:
    some = cold().change(lambda one: one.stratum == "follower", cached_tokens=None)
    assert some.stats().cold_proof == "not shown"
    assert contaminated(some.change(leader, cached_tokens=CONTEXT)) is not None


def test_without_a_chain_there_is_no_tree() -> None:
    made = cold().change(lambda one: True, new_tokens=None, ideal_in_round_hi=None)
    stats = made.stats()
    assert stats.cold_proof == "not shown"
    assert "prefix tree" in stats.findings[0].message


def test_a_failure_that_cannot_be_bounded_proves_nothing() -> None:
    unknown = {"ideal_in_round_lo": None, "ideal_in_round_hi": None}
    made = cold().head(arrival=Arrival(kind="closed", concurrency=4), block_tokens=None)
    made = made.change(lambda one: True, **unknown)
    assert made.stats().cold_proof == "proven"
    broken = made.map(lambda one: failed(one) if one.index == 1 else one)
    assert broken.stats().cold_proof == "not shown"
    assert broken.head(arrival=Arrival(kind="serial")).stats().cold_proof == "proven"


@pytest.mark.parametrize(("share", "spoilt"), [(0.01, False), (0.05, True)])
def test_estimated_lengths_are_given_two_per_cent(share: float, spoilt: bool) -> None:
    """All unique, so that nothing but the tolerance is between the tree and what was computed."""
    made = cold(groups=0, uniques=20, sentinels=0).head(calibrated="none")
    tokens = round(share * PROMPT) // BLOCK * BLOCK
    found = contaminated(made.change(lambda one: True, cached_tokens=tokens))
    assert (found is not None) == spoilt
    if found is not None:
        assert "estimates" in found.message
    exact = contaminated(
        made.head(calibrated="tokenize").change(lambda one: True, cached_tokens=tokens)
    )
    assert exact is not None


def test_an_overestimated_plan_is_no_contamination() -> None:
    """Lengths from characters may be a quarter too long."""
    made = cold(groups=0, uniques=20, sentinels=0).head(calibrated="none")
    assert contaminated(made.change(lambda one: True, new_tokens=round(1.25 * PROMPT))) is None


def test_overestimated_questions_are_no_contamination() -> None:
    """Followers' own tokens are short, so nothing but the leaders shows that all are too long."""
    made = cold(groups=2, followers=20).head(calibrated="none")
    longer = made.map(lambda one: structs.replace(one, new_tokens=5 * (one.new_tokens or 0) // 4))
    assert contaminated(longer) is None
    assert contaminated(longer.change(leader, cached_tokens=cached(CONTEXT))) is not None


def test_a_shared_part_that_ends_later_than_guessed_is_no_contamination() -> None:
    """Code is denser in tokens than prose: the guess puts the end of the context too early."""

    def guessed(one: Request) -> Request:
        new, given = one.new_tokens or 0, one.ideal_in_round_hi or 0
        if one.stratum != "follower":
            return one
        return structs.replace(
            one, new_tokens=new + new // 3, ideal_in_round_hi=max(0, given - new // 3)
        )

    made = cold(groups=2, followers=20).head(calibrated="none").map(guessed)
    assert contaminated(made) is None
    assert contaminated(made.head(calibrated="tokenize")) is not None
    assert contaminated(made.change(leader, cached_tokens=cached(CONTEXT))) is not None


def test_tokens_that_merge_where_texts_meet_are_no_contamination() -> None:
    made = cold(groups=0, uniques=20, sentinels=0)
    assert contaminated(made.change(lambda one: True, new_tokens=PROMPT + 3)) is None


def test_the_floor_is_given_to_every_request_of_no_reuse() -> None:
    head = {"floor_tokens": 2 * BLOCK, "cached_tokens": 2 * BLOCK}
    assert no_reuse().change(lambda one: True, **head).stats().cold_proof == "proven"
    more = no_reuse().change(lambda one: True, **head)
    more = more.change(lambda one: one.stratum != "sentinel", cached_tokens=3 * BLOCK)
    assert more.stats().cold_proof == "contaminated"


def test_a_warm_group_among_estimates_is_seen() -> None:
    made = cold(groups=4).head(calibrated="none")
    assert contaminated(made.change(leader, cached_tokens=cached(CONTEXT))) is not None


def test_the_hit_round_is_not_judged() -> None:
    made = cold().head(arm="hit", round_num=2)
    assert made.stats().cold_proof is None


def test_groups_that_share_a_system_prompt() -> None:
    """What g1's leader owes g0 by plan may have come from either."""
    system = 30 * BLOCK
    made = cold(groups=2, followers=2, uniques=0, sentinels=0)
    made = made.change(
        lambda one: one.index == 3, new_tokens=PROMPT - system, ideal_in_round_hi=system
    )
    # g1's leader was faster and computed it: g0's leader found it.
    swapped = made.change(leader, cached_tokens=system, ideal_in_round_hi=system)
    assert contaminated(swapped) is None
    assert contaminated(made.change(leader, cached_tokens=cached(CONTEXT))) is not None


def test_requests_of_one_group_need_not_be_unique() -> None:
    made = Made(run(requests=3), [request(n, group="g", stratum="leader") for n in range(3)])
    assert contaminated(made.closed()) is None
