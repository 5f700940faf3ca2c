"""The rules by which looks become true, false or null."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvclear.canary import Probe
from kvclear.verdict import NodeEvidence, StoreEvidence, conclude, node_proof, store_proof
from kvpipe.records import Proof, Step


def probe(cached: int | None, local: float | None = None, external: float | None = None) -> Probe:
    return Probe(cached_tokens=cached, local_tokens=local, external_tokens=external)


def node(**changes: object) -> bool | None:
    facts: dict[str, object] = {
        "where": "http://a",
        "allowed_tokens": 32,
        "control_tokens": 1024,
        "probe": probe(0, 0, 0),
    }
    return node_proof(NodeEvidence(**(facts | changes))).verified


@pytest.mark.parametrize(
    ("changes", "verified"),
    [
        ({}, True),
        ({"probe": probe(32)}, True),  # the floor, rounded up to a block
        ({"probe": probe(33)}, False),
        ({"probe": probe(1024, 0, 1024)}, False),
        ({"probe": probe(None)}, None),
        ({"probe": None}, None),
        ({"control_tokens": None}, None),
        ({"trouble": "cached tokens are not reported"}, None),
        ({"acted": False}, None),  # gone, but by nothing that is known
        ({"acted": False, "probe": probe(1024)}, False),
        # the tier behind the engine was to be left alone
        ({"local_only": True, "probe": probe(1024, 0, 1024)}, True),
        ({"local_only": True, "probe": probe(1024, 1024, 0)}, False),
        ({"local_only": True, "probe": probe(1024)}, None),  # nobody tells from where
        ({"local_only": True, "probe": probe(16)}, True),
        # behind a front end another worker may have missed, but a hit is a hit
        ({"scattered": True}, None),
        ({"scattered": True, "probe": probe(1024)}, False),
    ],
)
def test_a_node(changes: dict[str, object], verified: bool | None) -> None:
    assert node(**changes) is verified


def store(**changes: object) -> Proof:
    facts: dict[str, object] = {
        "where": "http://m",
        "before": 5,
        "everyone": False,
        "appeared": 12,
        "loaded": False,
        "after": (0, 0),
    }
    return store_proof(StoreEvidence(**(facts | changes)))


@pytest.mark.parametrize(
    ("changes", "verified", "words"),
    [
        ({}, True, "12 keys appeared by planting"),
        ({"appeared": 0, "loaded": True}, True, "a hit came from it"),
        ({"appeared": 0}, None, "no key appeared by planting"),
        ({"after": (17, 17)}, False, "17 of our keys are still there"),
        ({"after": (0, 21)}, False, "21 keys came back after the store was empty"),
        ({"after": (17, 17), "refused": "others use it"}, False, "others use it"),
        ({"after": (17, 0)}, False, "still there"),
        ({"refused": "others use it"}, None, "nothing was removed: others use it"),
        ({"after": (None, None)}, None, "does not tell"),
        ({"after": (0, None)}, None, "does not tell"),
        ({"after": (3, 3), "everyone": True}, False, "3 keys are still there"),
    ],
)
def test_a_store(changes: dict[str, object], verified: bool | None, words: str) -> None:
    proof = store(**changes)
    assert proof.verified is verified
    assert words in proof.reason


def step(ok: bool | None) -> Step:
    return Step(what="reset", where="http://a", ok=ok, seconds=0.0)


def proof(verified: bool | None) -> Proof:
    return Proof(tier="engine", where="a", how="canary", verified=verified, reason="because")


def test_nothing_looked_at_is_null_however_well_it_went() -> None:
    assert conclude([], [step(True)])[0] is None


@given(st.lists(st.sampled_from([True, False, None]), min_size=1))
def test_one_false_is_false_and_only_all_true_is_true(seen: list[bool | None]) -> None:
    verified, reason = conclude([proof(one) for one in seen], [step(True)])
    assert verified is (False if False in seen else None if None in seen else True)
    assert reason


def test_what_failed_on_the_way_is_named_whatever_the_verdict() -> None:
    for one in (True, False, None):
        assert "reset failed at http://a" in conclude([proof(one)], [step(False)])[1]
