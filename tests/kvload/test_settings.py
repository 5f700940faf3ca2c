"""Which rounds a repeat has, on which endpoint, under whose salt."""

from __future__ import annotations

import dataclasses

import pytest

from kvload.cli import experiments_of, parser
from kvload.console import Console
from kvload.namespaces import Salts
from kvload.settings import Experiment, rounds_of
from kvpipe.process import UsageError


def experiment(*flags: str) -> Experiment:
    args = parser().parse_args(
        ["--url", "http://127.0.0.1:1", "--scenario", "cold_start", *flags]
        if "--url" not in flags
        else [*flags, "--scenario", "cold_start"]
    )
    return experiments_of(args, Console(True))[0]


def arms(asked: Experiment, repeat: int = 1) -> list[tuple[str, int]]:
    return [(plan.arm, plan.round_num) for plan in rounds_of(asked, repeat)]


TWO = ("--url", "1=http://a:1", "--url", "2=http://b:1")


def test_two_rounds_are_cold_and_hit() -> None:
    assert arms(experiment()) == [("cold", 1), ("hit", 2)]
    assert arms(experiment("--rounds", "3")) == [("cold", 1), ("hit", 2), ("hit", 3)]


def test_repeats_bring_the_control_before_and_after_in_turn_and_never_between() -> None:
    asked = experiment("--repeats", "2")
    assert arms(asked, 1) == [("no_reuse", 0), ("cold", 1), ("hit", 2)]
    assert arms(asked, 2) == [("cold", 1), ("hit", 2), ("no_reuse", 0)]


def test_one_repeat_alone_has_its_control_where_it_is_asked_for() -> None:
    for repeat, control in ((1, "before"), (2, "after"), (3, "before")):
        plans = rounds_of(experiment("--repeat", str(repeat), "--control"), repeat)
        told = [(plan.arm, plan.position) for plan in plans]
        plain: list[tuple[str, str | None]] = [("cold", None), ("hit", None)]
        beside = ("no_reuse", control)
        assert told == ([beside, *plain] if control == "before" else [*plain, beside])
    assert arms(experiment("--repeat", "2"), 2) == [("cold", 1), ("hit", 2)]


@pytest.mark.parametrize(
    "flags", [("--round", "1"), ("--rounds", "1"), ("--salt", "none"), ("--aa",), ("--arm", "cold")]
)
def test_a_control_needs_cold_and_hit(flags: tuple[str, ...]) -> None:
    with pytest.raises(UsageError, match="--control"):
        experiment("--control", *flags)


def test_across_nodes_the_control_runs_where_the_hits_go() -> None:
    asked = experiment(*TWO)
    assert asked.tier == "remote"
    assert arms(asked) == [("no_reuse", 0), ("cold", 1), ("hit", 2)]
    assert [asked.endpoint(number) for number in (0, 1, 2, 3)] == [
        "http://b:1",
        "http://a:1",
        "http://b:1",
        "http://b:1",
    ]


def test_one_round_alone_has_no_salt_unless_one_is_given() -> None:
    assert experiment("--round", "1").salt == "none"
    assert arms(experiment("--round", "2")) == [("hit", 2)]
    assert arms(experiment("--round", "0")) == [("no_reuse", 0)]
    assert experiment("--round", "1", "--salt", "mine").salt == "mine"
    with pytest.raises(UsageError, match="--salt auto makes a new namespace"):
        experiment("--round", "1", "--salt", "auto")


def test_the_same_arm_twice_gets_two_salts() -> None:
    asked = experiment("--aa")
    assert arms(asked) == [("cold", 1), ("cold", 2)]
    salts = Salts(experiment=asked, way="cache_salt", repeat=1)
    first, second = (salts.of(plan) for plan in rounds_of(asked, 1))
    assert first[0] != second[0]


def test_cold_and_hit_share_a_namespace_and_the_control_has_a_salt_a_request() -> None:
    asked = experiment("--repeats", "2")
    salts = Salts(experiment=asked, way="cache_salt", repeat=1)
    control, cold, hit = (salts.of(plan) for plan in rounds_of(asked, 1))
    assert control[1] and not cold[1]
    assert cold == hit and cold[0] != control[0]
    other = Salts(experiment=asked, way="cache_salt", repeat=2)
    assert other.of(rounds_of(asked, 2)[0])[0] != cold[0]


def test_a_literal_salt_differs_between_repeats_only() -> None:
    one = experiment("--salt", "mine")
    assert Salts(experiment=one, way="cache_salt", repeat=1).of(rounds_of(one, 1)[0]) == (
        "mine",
        False,
    )
    two = dataclasses.replace(one, repeats=(1, 2))
    plan = rounds_of(two, 2)[0]
    assert Salts(experiment=two, way="cache_salt", repeat=2).of(plan)[0] == "mine-2"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--tier", "remote"], "another endpoint"),
        (["--rate", "2", "--concurrency", "2"], "open loop"),
        (["--arrival", "poisson"], "give the rate"),
        (["--round", "1", "--repeats", "2"], "--repeat I"),
        (["--repeat", "1", "--repeats", "2"], "one of them"),
        (["--url", "http://x:1", "--url", "http://y:1"], "two endpoints for round 1"),
        (["--engine", "nonsense=http://x"], "no such kind; known: "),
        (["--engine", "lmcache=http://x"], "LMCache is kvclear's"),
        (["--metrics-url", "nonsense=http://x"], "roles are"),
        (["--extra-body", "[1]"], "JSON object"),
        (["--extra-body", "{"], "not JSON"),
        (["--header", "nothing"], "Name: value"),
        (["--scenarios", "cold_start"], "--config"),
        (["--workload", "x"], "one of --scenario"),
    ],
)
def test_what_cannot_be_asked_is_refused_in_one_line(flags: list[str], words: str) -> None:
    with pytest.raises(UsageError, match=words) as refusal:
        experiment(*flags)
    assert "\n" not in str(refusal.value)
