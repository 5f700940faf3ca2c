"""The shape of a plan: shares, strata, order, sentinels; the documented figures."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvpipe.process import UsageError
from kvplan.scenarios import SCENARIOS, Lengths
from kvplan.shape import Item, Wish, context_count, draw_shape

SHARES = {
    "long_context_high_reuse": 90,
    "code_generation": 80,
    "multi_turn_conversation": 85,
    "batch_processing": 95,
    "cold_start": 0,
}


def wish(name: str, **change: object) -> Wish:
    scenario = SCENARIOS[name]
    asked: dict[str, object] = {
        "scenario": scenario,
        "requests": 30,
        "context": scenario.context,
        "contexts": None,
        "order": "leaders-first",
        "sentinels": None,
        "seed": 0,
    }
    return Wish(**(asked | change))  # type: ignore[arg-type]


wishes = st.builds(
    wish,
    st.sampled_from(sorted(SCENARIOS)),
    requests=st.integers(1, 120),
    contexts=st.none() | st.integers(1, 12),
    order=st.sampled_from(["leaders-first", "shuffled"]),
    seed=st.integers(0, 1000),
    context=st.just(Lengths(low=8000, high=9000)),
    sentinels=st.none() | st.integers(0, 9),
)


def shape_of(asked: Wish) -> list[Item] | None:
    """The shape; None for a wish that cannot be."""
    try:
        return draw_shape(asked)
    except UsageError:
        return None


def own(items: list[Item]) -> list[Item]:
    return [item for item in items if item.stratum != "sentinel"]


def test_the_scenarios_are_the_five_with_their_shares() -> None:
    assert {name: scenario.share_percent for name, scenario in SCENARIOS.items()} == SHARES
    context = SCENARIOS["long_context_high_reuse"].context
    assert (context.low, context.high) == (16_000, 32_000)
    assert SCENARIOS["code_generation"].context == Lengths(low=8_000, high=8_000)


@pytest.mark.parametrize(
    ("name", "requests", "cold"),
    [
        ("long_context_high_reuse", 30, 4),
        ("long_context_high_reuse", 300, 31),
        ("batch_processing", 30, 3),
        ("batch_processing", 300, 16),
        ("code_generation", 30, 7),
        ("multi_turn_conversation", 28, 4),
        ("multi_turn_conversation", 30, 5),
        ("cold_start", 30, 30),
    ],
)
def test_so_many_requests_are_cold(name: str, requests: int, cold: int) -> None:
    items = own(draw_shape(wish(name, requests=requests)))
    assert len(items) == requests
    assert sum(item.stratum != "follower" for item in items) == cold


@given(wishes)
def test_shares_are_exact(asked: Wish) -> None:
    items = shape_of(asked)
    if items is None or asked.scenario.turns > 1:
        return
    grouped = [item for item in items if item.group is not None]
    assert len(grouped) == asked.requests * asked.scenario.share_percent // 100
    sizes = Counter(item.group for item in grouped).values()
    if sizes:
        assert len(sizes) == context_count(asked) == (asked.contexts or 1)
        assert max(sizes) - min(sizes) <= 1


@given(wishes)
def test_strata_follow_the_order(asked: Wish) -> None:
    """Leader: first of its group. Nothing waits for what comes later."""
    items = shape_of(asked)
    seen: dict[str, int] = {}
    for index, item in enumerate(items or []):
        if item.group is None:
            assert item.stratum in ("unique", "sentinel")
            assert item.after is None
            continue
        assert item.stratum == ("follower" if item.group in seen else "leader")
        leader = seen.setdefault(item.group, index)
        if item.turn is None and item.stratum == "follower":
            assert item.after == (leader if asked.order == "leaders-first" else None)


@given(wishes)
def test_turns_come_in_order_and_wait_for_each_other(asked: Wish) -> None:
    items = shape_of(asked) or []
    last: dict[str, int] = {}
    for index, item in enumerate(items):
        if item.turn is None:
            continue
        assert item.group is not None
        before = last.get(item.group)
        assert item.turn == (1 if before is None else items[before].turn + 1)  # type: ignore[operator]
        assert item.after == before
        if before is not None:
            assert item.asked_tokens > items[before].asked_tokens
        last[item.group] = index


@given(wishes)
def test_sentinels_are_in_addition_and_spread(asked: Wish) -> None:
    items = shape_of(asked)
    if items is None:
        return
    places = [index for index, item in enumerate(items) if item.stratum == "sentinel"]
    count = max(3, -(-asked.requests // 20)) if asked.sentinels is None else asked.sentinels
    assert len(places) == count
    assert len(own(items)) == asked.requests
    assert 0 not in places
    assert all(items[at].asked_tokens <= 1024 for at in places)
    for part in range(count if asked.requests >= 4 * count else 0):
        # One in each of `count` equal parts of the round.
        low, high = (bound * len(items) / count for bound in (part, part + 1))
        assert sum(low <= at < high for at in places) == 1


@given(wishes)
def test_the_order_changes_no_length(asked: Wish) -> None:
    items = shape_of(asked)
    other = "shuffled" if asked.order == "leaders-first" else "leaders-first"
    again = shape_of(wish_like(asked, order=other))
    assert sorted((item.seat, item.asked_tokens) for item in items or []) == sorted(
        (item.seat, item.asked_tokens) for item in again or []
    )


def wish_like(asked: Wish, **change: object) -> Wish:
    names = ("requests", "context", "contexts", "order", "sentinels", "seed")
    return wish(asked.scenario.name, **({name: getattr(asked, name) for name in names} | change))


def test_each_context_draws_a_length_of_its_own() -> None:
    items = draw_shape(wish("long_context_high_reuse", requests=100, contexts=8))
    lengths = {item.group: item.context_tokens for item in items if item.group}
    assert len(set(lengths.values())) == 8
    assert all(16_000 <= tokens <= 32_000 for tokens in lengths.values())
    uniques = {item.context_tokens for item in items if item.stratum == "unique"}
    assert len(uniques) == 10


def test_leaders_do_not_all_come_first() -> None:
    items = own(draw_shape(wish("code_generation", requests=60, contexts=8)))
    strata = [item.stratum for item in items]
    assert strata[:8] != ["leader"] * 8
    assert "unique" in strata[:20]


def test_another_seed_is_another_shape() -> None:
    one, other = (draw_shape(wish("long_context_high_reuse", seed=seed)) for seed in (1, 2))
    assert [item.asked_tokens for item in one] != [item.asked_tokens for item in other]


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (wish("code_generation", requests=5, contexts=9), "only 4 of 5"),
        (wish("cold_start", contexts=2), "shares none"),
        (wish("multi_turn_conversation", requests=3, contexts=4), "more conversations"),
        (
            wish("multi_turn_conversation", context=Lengths(low=100, high=100)),
            "too short for 7 turns; ask for 448",
        ),
    ],
)
def test_what_cannot_be_is_said(asked: Wish, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        draw_shape(asked)


def test_conversations_are_dealt_when_their_number_is_given() -> None:
    items = own(draw_shape(wish("multi_turn_conversation", contexts=4)))
    assert sorted(Counter(item.group for item in items).values()) == [7, 7, 8, 8]


# --- another share -------------------------------------------------------------------------------


@given(st.integers(1, 120), st.integers(0, 100), st.integers(1, 3))
def test_the_share_may_be_another_than_the_scenarios(
    requests: int, percent: int, contexts: int
) -> None:
    asked = wish(
        "long_context_high_reuse",
        requests=requests,
        shared_ratio=percent / 100,
        contexts=contexts,
    )
    sharing = requests * percent // 100
    items = shape_of(asked)
    assert (items is None) == (0 < sharing < contexts)
    if items is not None:
        assert sum(item.group is not None for item in own(items)) == sharing
        assert len(own(items)) == requests


def test_a_share_that_differs_is_another_text() -> None:
    seeds = {
        wish("cold_start", shared_ratio=ratio).text_seed for ratio in (None, 0.0, 0.25, 0.5, 1.0)
    }
    assert len(seeds) == 5


def test_conversations_have_no_other_share() -> None:
    with pytest.raises(UsageError, match=r"--shared-ratio: .* every turn shares"):
        context_count(wish("multi_turn_conversation", shared_ratio=0.5))
