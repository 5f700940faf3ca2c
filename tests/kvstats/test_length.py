"""Streams of any length: what is kept of them does not grow with them."""

from __future__ import annotations

import random
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import pytest
from bench.stats import stream_of
from tests.family import environment
from tests.kvstats.streams import cold, request

from kvpipe.jsonl import encode
from kvpipe.records import Request
from kvstats.ledger import Entry, Ledger
from kvstats.lots import AT_ONCE, lots_of
from kvstats.streams import Rounds, read_into

SHORT, LONG = 100_000, 300_000
RSS_GROWTH = 1.3  # of three times the requests; 2.2 if a request left 1 KB behind
PEAK = """
import resource, subprocess, sys
subprocess.run([sys.executable, "-m", "kvstats"], stdout=subprocess.DEVNULL, check=True)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def peak_kb(requests: int, path: Path) -> int:
    """Largest memory of kvstats over a stream, as the kernel counted it."""
    with path.open("wb") as out:
        out.writelines(stream_of(requests))
    with path.open("rb") as lines:
        done = subprocess.run(
            [sys.executable, "-c", PEAK], stdin=lines, capture_output=True, env=environment()
        )
    path.unlink()
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_memory_does_not_grow_with_the_requests(tmp_path: Path) -> None:
    """Both are beyond or at the number of rows that are kept."""
    peaks = {count: peak_kb(count, tmp_path / "run.jsonl") for count in (SHORT, LONG)}
    assert peaks[LONG] < RSS_GROWTH * peaks[SHORT], peaks


def ledger_of(requests: list[Request], limit: int) -> Ledger:
    made = Ledger("cold", limit=limit)
    for at in range(0, len(requests), 7):
        for lot in lots_of(requests[at : at + 7]):
            made.add(lot)
    return made


def groups_of(ledger: Ledger) -> dict[str, Entry]:
    return dict(ledger.entries())


def test_of_many_groups_the_same_sample_stays_whatever_the_order() -> None:
    requests = [request(n, group=f"g{n % 40}", stratum="follower") for n in range(120)]
    every = ledger_of(requests, limit=40)
    for seed in range(20):
        mixed = random.Random(seed).sample(requests, len(requests))
        some = ledger_of(mixed, limit=10)
        groups = groups_of(some)
        assert len(groups) == 10
        assert groups == {name: groups_of(every)[name] for name in groups}
        assert groups == groups_of(ledger_of(requests, limit=10))
        assert some.whole == every.whole


@pytest.mark.parametrize("more", [-1, 0, 1])
def test_no_request_is_lost_between_handovers(more: int) -> None:
    requests = [request(index) for index in range(AT_ONCE + more)]
    rounds = Rounds({})
    lines = b"".join(encode(one) for one in (cold().run, *requests))
    read_into(rounds, BytesIO(lines), "in.jsonl")
    (round_,) = rounds
    assert round_.tally.total == len(requests)
    assert round_.rows.total == len(requests)
    assert round_.ledger.whole.sent == len(requests)
