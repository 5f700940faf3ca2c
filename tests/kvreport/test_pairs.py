"""Which requests of two rounds make a complete pair."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.kvreport.rounds import Shape, edited, make, rerun, resampled

from kvreport.pairs import pair, sentinel_pairs
from kvreport.rounds import Round

COLD, HIT = make("cold"), make("hit")


def column(one: Round, name: str, **at: Any) -> Round:
    """The round with some places of a column replaced: `column(HIT, "ok", **{"3": False})`."""
    assert one.stats.samples is not None
    values = list(getattr(one.stats.samples, name))
    for place, value in at.items():
        values[int(place)] = value
    return resampled(one, **{name: values})


def test_every_request_pairs_with_itself_and_sentinels_do_not_count() -> None:
    pairs = pair([COLD], HIT)
    assert pairs is not None
    assert (len(pairs.index), pairs.planned, pairs.dropped.total()) == (30, 30, 0)
    assert "sentinel" not in pairs.stratum
    assert int(pairs.cold_rows().sum()) == 11


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("ok", False, "failed in one"),
        ("ttft_s", None, "no first token"),
        ("output_tokens", 15, "output tokens"),
        ("prompt_tokens", 2701, "prompt tokens"),
    ],
)
def test_an_incomplete_pair_is_dropped_and_counted(name: str, value: Any, reason: str) -> None:
    pairs = pair([COLD], column(HIT, name, **{"4": value}))
    assert pairs is not None
    assert dict(pairs.dropped) == {reason: 1}
    assert 4 not in pairs.index and len(pairs.index) == 29


def test_what_failed_in_both_rounds_is_no_difference_between_them() -> None:
    broken = {"0": False}
    pairs = pair([column(COLD, "ok", **broken)], column(HIT, "ok", **broken))
    assert pairs is not None and dict(pairs.dropped) == {"failed in both": 1}


def test_tokens_that_were_not_reported_are_not_unequal() -> None:
    pairs = pair([COLD], column(HIT, "output_tokens", **{"4": None}))
    assert pairs is not None and not pairs.dropped


def test_only_the_salts_own_length_is_forgiven() -> None:
    """no_reuse salts every request differently; a whole block more would be another prompt."""
    bare = make("no_reuse")
    near = column(bare, "prompt_tokens", **{str(at): 2700 + 20 for at in range(30)})
    far = column(bare, "prompt_tokens", **{str(at): 2700 + 40 for at in range(30)})
    for one, kept in ((near, 30), (far, 0)):
        pairs = pair([one], HIT)
        assert pairs is not None and len(pairs.index) == kept
    assert COLD.run is not None
    other_salt = rerun(COLD, salt="other")
    pairs = pair([column(other_salt, "prompt_tokens", **{"4": 2710})], HIT)
    assert pairs is not None and len(pairs.index) == 30


def test_two_bases_count_with_their_mean() -> None:
    one, two = make("no_reuse"), make("no_reuse", seed=2)
    pairs = pair([one, two], HIT)
    alone = [pair([base], HIT) for base in (one, two)]
    assert pairs is not None and alone[0] is not None and alone[1] is not None
    mean = (alone[0].base["ttft_s"] + alone[1].base["ttft_s"]) / 2
    assert np.allclose(pairs.base["ttft_s"], mean)
    short = pair([one, column(two, "ok", **{"4": False})], HIT)
    assert short is not None and len(short.index) == 29


def test_without_samples_there_are_no_pairs() -> None:
    assert pair([edited(COLD, samples=None)], HIT) is None
    assert sentinel_pairs(edited(COLD, samples=None), HIT, "ttft_s") is None


def test_sentinels_pair_whatever_their_text() -> None:
    changed = column(HIT, "prompt_tokens", **{"30": 2690, "31": 2710})
    values = sentinel_pairs(COLD, column(changed, "ok", **{"32": False}), "ttft_s")
    assert values is not None and len(values[0]) == 2
    assert sentinel_pairs(make("cold", shape=Shape(sentinels=0)), HIT, "ttft_s") is None


def test_differing_answers_are_counted_among_complete_pairs() -> None:
    other = column(HIT, "output_sha256", **{"1": "x", "2": None, "30": "x"})
    pairs = pair([COLD], other)
    assert pairs is not None and (pairs.hashed, pairs.differing) == (29, 1)


@given(st.permutations(range(33)))
def test_the_order_of_rows_does_not_matter(order: list[int]) -> None:
    assert HIT.stats.samples is not None
    samples = HIT.stats.samples
    columns = [name for name in samples.__struct_fields__ if name != "total"]
    names = [name for name in columns if getattr(samples, name)]  # later ones may be empty
    shuffled = {name: [getattr(samples, name)[at] for at in order] for name in names}
    one, two = pair([COLD], HIT), pair([COLD], resampled(HIT, **shuffled))
    assert one is not None and two is not None
    assert one.index == two.index
    assert np.array_equal(one.other["ttft_s"], two.other["ttft_s"])
