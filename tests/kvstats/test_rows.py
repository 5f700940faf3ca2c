"""Beyond the limit a sample stays, and neither order nor round decides which."""

from __future__ import annotations

import random

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from tests.kvstats.streams import HIT_MS, failed, metrics_of, request

from kvstats.rows import Rows

LIMIT = 20


def rows(indexes: list[int], seed: str = "e/plan/1", ttft_ms: float = HIT_MS) -> Rows:
    made = Rows(seed, limit=LIMIT)
    for index in indexes:
        one = request(index, ttft_ms=ttft_ms)
        made.add(one, metrics_of(one))
    return made


def test_up_to_the_limit_every_row_stays() -> None:
    made = rows(list(range(LIMIT)))
    assert not made.sampled
    assert made.sorted().ints("index") == list(range(LIMIT))


@given(st.randoms(), st.integers(LIMIT + 1, 120))
def test_order_never_changes_the_sample(shuffler: random.Random, n: int) -> None:
    mixed = list(range(n))
    shuffler.shuffle(mixed)
    kept, wanted = rows(mixed).sorted(), rows(list(range(n))).sorted()
    assert kept.ints("index") == wanted.ints("index")
    assert len(kept) == LIMIT
    assert kept.total == n
    assert kept.output_sha256 == [f"{index:064x}" for index in kept.ints("index")]


def test_rounds_of_a_repeat_keep_the_same_requests() -> None:
    """Else 100k of a million would leave one pair in ten."""
    cold, hit = rows(list(range(200)), ttft_ms=900), rows(list(range(199, -1, -1)), ttft_ms=60)
    assert cold.sorted().ints("index") == hit.sorted().ints("index")
    other = rows(list(range(200)), seed="e/plan/2")
    assert other.sorted().ints("index") != cold.sorted().ints("index")


def test_missing_numbers_are_null() -> None:
    made = Rows("s", limit=LIMIT)
    one = failed(request(3))
    made.add(one, metrics_of(one))
    table = made.sorted()
    assert table.floats("ttft_s") == [None]
    assert table.ints("cached_tokens") == [None]
    assert table.ints("retries") == [0]
    assert table.ok == [False]


def test_no_rows_at_all() -> None:
    table = Rows("s").sorted()
    assert table.ints("index") == []
    assert len(table) == 0


def test_a_column_that_nobody_tells_is_empty() -> None:
    told = Rows("s", limit=LIMIT)
    for one in (
        msgspec.structs.replace(request(0), cached_local_tokens=0, cached_remote_tokens=640),
        msgspec.structs.replace(request(1), cached_local_tokens=None, cached_remote_tokens=None),
    ):
        told.add(one, metrics_of(one))
    table = told.sorted()
    assert table.told("cached_remote_tokens") == [640, None]
    assert table.told("cached_local_tokens") == [0, None]
    assert Rows("s").sorted().told("cached_remote_tokens") == []
