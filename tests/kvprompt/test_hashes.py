"""What the two hashes see and what they do not."""

from __future__ import annotations

import msgspec
import pytest

from kvpipe.records import Planned
from kvprompt.hashes import plan_sha256, shape_sha256

ONE = Planned(
    index=0,
    stratum="leader",
    group="a",
    messages=[{"role": "user", "content": "text"}],
    max_tokens=4,
    asked_tokens=9,
)
TWO = msgspec.structs.replace(ONE, index=1, stratum="follower", after=0)


@pytest.mark.parametrize(
    "change",
    [
        {"max_tokens": 5},
        {"after": None},
        {"turn": 2},
        {"at_s": 0.5},
        {"body": {"temperature": 1}},
        {"messages": None, "prompt": "text"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_both_hashes_see_what_is_sent_and_when(change: dict[str, object]) -> None:
    changed = [ONE, msgspec.structs.replace(TWO, **change)]
    assert plan_sha256(changed) != plan_sha256([ONE, TWO])
    assert shape_sha256(changed) != shape_sha256([ONE, TWO])


def test_text_is_in_the_plan_and_not_in_the_shape() -> None:
    other = msgspec.structs.replace(TWO, messages=[{"role": "user", "content": "longer text"}])
    assert plan_sha256([ONE, other]) != plan_sha256([ONE, TWO])
    assert shape_sha256([ONE, other]) == shape_sha256([ONE, TWO])


@pytest.mark.parametrize("change", [{"asked_tokens": 10}, {"stratum": "unique"}, {"group": "b"}])
def test_lengths_strata_and_groups_are_shape(change: dict[str, object]) -> None:
    changed = [ONE, msgspec.structs.replace(TWO, **change)]
    assert shape_sha256(changed) != shape_sha256([ONE, TWO])


def test_the_names_of_groups_are_not_shape() -> None:
    renamed = [msgspec.structs.replace(request, group="z") for request in (ONE, TWO)]
    assert shape_sha256(renamed) == shape_sha256([ONE, TWO])


def test_order_counts() -> None:
    assert plan_sha256([ONE, TWO]) != plan_sha256([TWO, ONE])
