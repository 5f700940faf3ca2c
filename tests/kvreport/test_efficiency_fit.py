"""The fit finds what was planted, says how sure it is as often as it claims, and else refuses."""

from __future__ import annotations

import numpy as np
import pytest
from tests.kvreport.worlds import TERMS, Planted, Shape, rows

from kvreport.efficiency_fit import fit, held_out, levels, usable
from kvreport.efficiency_line import Fit, Refused, Rows
from kvreport.efficiency_worth import break_even, gain, prefill_cost, worth_loading

SEEDS = 500
LEAST = 0.93
"""Of 500 fits at 95 %, fewer than this within their interval would come about by chance in less
than one of twenty cases."""
WORLD = Planted()


def fitted(data: Rows) -> Fit:
    found = fit(data)
    assert isinstance(found, Fit), found
    return found


def crossing(world: Planted) -> float:
    """The planted break-even: the positive root of b n + b2 n^2 = c n + d."""
    slope = world.b - world.c_remote
    root = np.sqrt(slope**2 + 4 * world.b2 * world.d_remote)
    return float((root - slope) / (2 * world.b2))


@pytest.mark.parametrize(
    ("repeats", "shape"),
    [(3, Shape()), (5, Shape(contexts=1)), (1, Shape()), (1, Shape(contexts=1))],
    ids=["three repeats", "five of few contexts", "one run", "one run of few contexts"],
)
def test_intervals_hold_the_truth_as_often_as_they_say(repeats: int, shape: Shape) -> None:
    within = dict.fromkeys((*TERMS, "even", "prefill"), 0)
    even = crossing(WORLD)
    for seed in range(SEEDS):
        found = fitted(rows(seed, repeats, shape, WORLD))
        assert found.terms == TERMS
        for name in TERMS:
            span = found.term(name)
            within[name] += span.low <= WORLD.of(name) <= span.high
        speed = prefill_cost(found, 2000)
        within["prefill"] += speed.low <= WORLD.b + WORLD.b2 * 2000 <= speed.high
        # Fieller's set holds the crossing exactly where the gain there may be zero.
        at_truth = gain(found, "remote", even)
        within["even"] += at_truth.low <= 0 <= at_truth.high
    shares = {name: count / SEEDS for name, count in within.items()}
    assert all(share >= LEAST - 0.005 for share in shares.values()), f"{shares}"
    assert np.mean([*shares.values()]) >= LEAST


def test_break_even_and_its_interval_hold_the_crossing() -> None:
    found = [
        break_even(fitted(rows(seed, 3, Shape(), WORLD)), "remote", 4000) for seed in range(60)
    ]
    assert all(one.word == "from" for one in found)
    held = [(one.low or 0) <= crossing(WORLD) <= (one.high or 0) for one in found]
    assert sum(held) >= 50
    middle = float(np.median([one.tokens or 0 for one in found]))
    assert middle == pytest.approx(crossing(WORLD), rel=0.25)


def test_a_slow_link_never_pays_and_a_slightly_fast_one_may() -> None:
    slow = Planted(c_remote=1 / 1000, b2=0.0)
    assert break_even(fitted(rows(1, 3, Shape(), slow)), "remote", 4000).word == "never"
    free = Planted(d_remote=0.0, c_remote=1e-6)
    even = break_even(fitted(rows(1, 3, Shape(), free)), "remote", 4000)
    assert even.word == "from"
    assert even.low == 0
    close = Planted(c_remote=WORLD.b + WORLD.b2 * 4000 - WORLD.d_remote / 4000)
    even = break_even(fitted(rows(1, 3, Shape(), close)), "remote", 4000)
    assert (even.word, even.reason) == ("none", "contains_zero")


def test_the_speed_that_a_link_needs_is_where_the_gain_is_nothing() -> None:
    found = fitted(rows(7, 3, Shape(), WORLD))
    tokens = 3000.0
    needed = worth_loading(found, "remote", tokens)
    faster = Planted(c_remote=needed.value)
    truth = WORLD.b + WORLD.b2 * tokens - WORLD.d_remote / tokens
    assert needed.low <= truth <= needed.high
    assert abs(faster.c_remote / truth - 1) < 0.2


def test_a_line_without_a_bend_shows_none() -> None:
    straight = Planted(b2=0.0)
    zero = [fitted(rows(seed, 3, Shape(), straight)).term("b2") for seed in range(40)]
    assert sum(one.low <= 0 <= one.high for one in zero) >= 34


@pytest.mark.parametrize(
    ("lengths", "sentinel", "reason"),
    [
        ((2700,), 2700, "one_length"),
        ((2700,), 1024, "few_lengths"),
        ((2700, 2710), 2700, "one_length"),
    ],
)
def test_too_few_lengths_are_refused(lengths: tuple[int, ...], sentinel: int, reason: str) -> None:
    found = fit(rows(1, 3, Shape(lengths=lengths, sentinel=sentinel, contexts=4), WORLD))
    assert isinstance(found, Refused)
    assert found.reason == reason


def test_loads_of_one_length_have_no_fixed_cost_of_their_own() -> None:
    data = rows(1, 3, Shape(), WORLD)
    one = data.kept((data.cached["remote"] == 0) | (data.prompt > 4000))
    found = fitted(one)
    assert "d_remote" not in found.terms
    even = break_even(found, "remote", 4000)
    assert (even.word, even.reason, even.tokens) == ("none", "one_loaded_length", None)


def test_two_repeats_give_no_interval() -> None:
    assert fit(rows(1, 2, Shape(), WORLD)) == Refused("two_repeats")


def test_few_groups_in_one_run_are_refused() -> None:
    shape = Shape(lengths=(700, 1500, 4000), contexts=1)
    data = rows(1, 1, shape, WORLD)
    few = data.kept(data.group < 9)
    found = fit(few)
    assert isinstance(found, Refused)


def test_what_has_no_coefficient_is_left_out() -> None:
    data = rows(1, 3, Shape(), WORLD)
    store = data.cached["store"].copy()
    store[:2] = 128
    odd = Rows(
        ttft_s=data.ttft_s,
        prompt=data.prompt,
        uncached=data.uncached,
        cached={**data.cached, "store": store},
        repeat=data.repeat,
        group=data.group,
    )
    assert (~usable(odd)).sum() == 2


def test_repeats_that_cannot_stand_alone_are_left_out() -> None:
    """A repeat without loads says nothing of them, and three make no interval of one."""
    data = rows(1, 3, Shape(), WORLD)
    bare = data.kept((data.repeat == 0) | (data.cached["remote"] == 0))
    kept = bare.kept(usable(bare))
    assert set(kept.repeat) == {0}
    assert fitted(kept).method == "groups"


def test_a_length_left_out_is_foretold() -> None:
    quiet = Planted(noise=0.005, between_groups=0.005, between_repeats=0.0)
    data = rows(3, 3, Shape(), quiet)
    out = data.prompt > 3500
    said = held_out(data, out, TERMS)
    assert said is not None
    assert np.mean(said) == pytest.approx(np.mean(data.ttft_s[out]), rel=0.05)
    assert held_out(data, data.prompt > 600, TERMS) is None


def test_levels_are_lengths_that_differ() -> None:
    assert levels(np.array([1000.0, 1010.0, 2700.0, 2690.0, 5.0])) == [5.0, 1005.0, 2695.0]
