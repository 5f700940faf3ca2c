"""Which rounds belong together, and what part each plays."""

from __future__ import annotations

import pytest
from tests.kvreport.rounds import NODE_A, NODE_B, SETTING, Setting, experiment, make, rerun

from kvpipe.process import ToolError
from kvpipe.records import Arrival
from kvreport.experiments import group, same_endpoint
from kvreport.rounds import Round


def with_id(one: Round, experiment_id: str) -> Round:
    assert one.run is not None
    return rerun(one, experiment_id=experiment_id, run_id=f"{experiment_id}-{one.run.run_id}")


def test_repeats_and_roles() -> None:
    (found,) = group(experiment(3, arms=("no_reuse", "cold", "hit")))
    assert [one.number for one in found.repeats] == [1, 2, 3]
    for repeat in found.repeats:
        assert repeat.cold is not None and repeat.cold.arm == "cold"
        assert repeat.hit is not None and repeat.hit.arm == "hit"
        assert len(repeat.no_reuse) == 1
    assert len(found.matched("cold")) == len(found.matched("no_reuse")) == 3
    assert (found.kind, found.nodes, found.tier) == ("unit cost", None, "local")


def test_rounds_from_three_on_stay_apart() -> None:
    rounds = [*experiment(2), *(make("hit", repeat, number=3) for repeat in (1, 2))]
    (found,) = group(rounds)
    assert [one.hit.number for one in found.repeats if one.hit] == [2, 2]
    assert list(found.later()) == [3]
    assert [one.repeat for one in found.later()[3]] == [1, 2]


def test_order_of_the_files_does_not_matter() -> None:
    rounds = experiment(2, arms=("cold", "hit", "no_reuse"))
    (one,), (two,) = group(rounds), group(rounds[::-1])
    assert one.repeats == two.repeats


def test_names_part_an_experiment() -> None:
    rounds = experiment(1) + experiment(1, setting=Setting(name="other"))
    assert [one.name for one in group(rounds)] == ["long_context_high_reuse", "other"]


def test_one_name_twice_is_told_apart_by_id() -> None:
    rounds = [
        with_id(one, name) for name in ("20260301-aaa", "20260301-bbb") for one in experiment()
    ]
    names = [one.name for one in group(rounds)]
    assert names == [f"{SETTING.name} ({name})" for name in ("20260301-aaa", "20260301-bbb")]


def test_rounds_of_two_invocations_are_joined_by_name() -> None:
    cold, hit = experiment(1)
    (found,) = group([with_id(cold, "x"), with_id(hit, "y")])
    assert found.joined and found.comparable
    (alone,) = group([cold, hit])
    assert not alone.joined


def test_complete_experiments_are_never_joined() -> None:
    rounds = [with_id(one, name) for name in ("x", "y") for one in experiment(1)]
    assert len(group(rounds)) == 2


def test_bare_rounds_join_a_complete_experiment_whatever_the_order() -> None:
    cold, hit, bare = experiment(1, arms=("cold", "hit", "no_reuse"))
    for order in ((cold, hit, with_id(bare, "z")), (with_id(bare, "z"), cold, hit)):
        (found,) = group(order)
        assert found.matched("no_reuse")


def test_a_place_that_is_taken_is_an_error() -> None:
    cold, hit = experiment(1)
    with pytest.raises(ToolError, match=r"round 2 of repeat 1.*label them"):
        group([cold, hit, rerun(hit, run_id="another")])


def test_kinds() -> None:
    for arrival, kind, is_open in (
        (Arrival(kind="serial"), "unit cost", False),
        (Arrival(kind="closed", concurrency=1), "unit cost", False),
        (Arrival(kind="closed", concurrency=5), "load", False),
        (Arrival(kind="poisson", rate_rps=2.0), "load", True),
    ):
        (found,) = group(experiment(1, setting=Setting(arrival=arrival)))
        assert (found.kind, found.open_loop) == (kind, is_open)


def test_nodes_are_endpoints_that_differ_in_more_than_spelling() -> None:
    assert same_endpoint("http://a:1/v1", "http://a:1/") and not same_endpoint(NODE_A, NODE_B)
    (one,) = group(experiment(1, setting=Setting(node_a=NODE_A, node_b=f"{NODE_A}/")))
    (two,) = group(experiment(1, setting=Setting(node_b=NODE_B, tier="remote")))
    assert (one.nodes, two.nodes) == (None, (NODE_A, NODE_B))


def test_the_same_arm_twice_is_an_aa_check() -> None:
    (found,) = group([make("cold"), make("cold", number=2, setting=SETTING)])
    assert found.same_arm and found.comparable


def test_one_round_alone_is_not_comparable() -> None:
    assert [one.comparable for one in group([make("cold")])] == [False]
    assert [one.comparable for one in group([make("hit")])] == [False]
    assert [one.comparable for one in group([make("no_reuse"), make("hit")])] == [True]
