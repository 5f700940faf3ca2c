"""Wall clocks that are wrong, or are set in the middle of a round, under the real executable.

libfaketime stands between kvload and the wall clock; the kernel's stamps and the monotonic clock
stay as they are.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.family import environment
from tests.faults import row_named
from tests.simulated import FAST, Sim, kvsim

LIBRARY = next(iter(Path("/usr/lib").glob("*/faketime/libfaketime.so.1")), None)
FLAGS = [
    "--scenario", "long_context_high_reuse", "--contexts", "4", "--requests", "24",
    "--context-tokens", "300", "--output-tokens", "4", "--warmup", "0",
]  # fmt: skip
HOUR_S = 3600
Record = dict[str, Any]

pytestmark = pytest.mark.skipif(LIBRARY is None, reason="not installed: faketime")


@pytest.fixture
def sim() -> Iterator[Sim]:
    with kvsim(*FAST) as running:
        yield running


def wrong_by(clock: Path) -> dict[str, str]:
    """An environment whose wall clock is off by what the file says, from one look to the next."""
    return environment() | {
        "LD_PRELOAD": str(LIBRARY),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }


def kvload(folder: Path, name: str, offset: str, *flags: str) -> subprocess.Popen[bytes]:
    """kvload with a clock of its own, `name`.clock; its records go to `name`.jsonl."""
    clock = folder / f"{name}.clock"
    clock.write_text(offset)
    with (folder / f"{name}.jsonl").open("wb") as out, (folder / f"{name}.err").open("wb") as err:
        return subprocess.Popen(
            ["kvload", "-q", *FLAGS, *flags], env=wrong_by(clock), stdout=out, stderr=err
        )


def records(path: Path) -> list[Record]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def kvstats(*paths: Path) -> tuple[int, list[Record]]:
    done = subprocess.run(
        ["kvstats", *paths], env=environment(), capture_output=True, text=True, check=False
    )
    assert "Traceback" not in done.stderr
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]


def test_a_wall_clock_that_is_set_in_the_round_moves_no_stamp(sim: Sim, tmp_path: Path) -> None:
    """An hour forwards in the cold round, two back in the hit round."""
    row = row_named("wall-clock")
    steps = {8: f"+{HOUR_S}", 40: f"-{HOUR_S}"}
    began_ns = time.perf_counter_ns()
    flags = ["--url", sim.url, "--rate", "20", "--arrival", "constant", "--pause", "0"]
    process = kvload(tmp_path, "stepped", "+0", *flags)
    written = tmp_path / "stepped.jsonl"
    while process.poll() is None:
        lines = written.read_bytes().count(b"\n")
        for at in [at for at in steps if at <= lines]:
            (tmp_path / "stepped.clock").write_text(steps.pop(at))
        time.sleep(0.01)
    longest_ns = time.perf_counter_ns() - began_ns
    assert process.returncode == row.returned, (tmp_path / "stepped.err").read_text()
    assert not steps, "the clock was to be set before the end"
    found = records(written)
    first, second = (one for one in found if one["record"] == "run")
    assert first["started_at"] < second["started_at"]  # the step is seen where the wall clock is
    requests = [one for one in found if one["record"] == "request"]
    assert len(requests) >= 2 * 24
    for one in requests:
        assert one["status"] == "ok"
        order = ("start_ns", "sent_ns", "headers_ns", "first_token_ns", "last_token_ns", "end_ns")
        stamps = [one[key] for key in order]
        assert stamps == sorted(stamps) and stamps[0] >= 0 and stamps[-1] < longest_ns, one
    status, (cold, hit) = kvstats(written)
    assert status == 0
    assert cold["cold_proof"] == "proven" and hit["hit_ratio"] > 0.8
    assert all(one["complete"] and one["successful_requests"] == 24 for one in (cold, hit))
    assert all(one["total_time_s"] < longest_ns / 1e9 for one in (cold, hit))


def test_shards_merge_though_their_clocks_are_an_hour_apart(sim: Sim, tmp_path: Path) -> None:
    common = ["--url", sim.url, "--round", "1", "--rate", "40", "--salt", "one", "--experiment"]
    both = [
        kvload(tmp_path, f"s{number}", offset, *common, "E", "--shard", f"{number}/2")
        for number, offset in enumerate(("+0", f"+{HOUR_S}"))
    ]
    assert [one.wait(120) for one in both] == [0, 0]
    status, (stats,) = kvstats(tmp_path / "s0.jsonl", tmp_path / "s1.jsonl")
    assert status == 0
    assert [run["shard"] for run in stats["run"]] == ["0/2", "1/2"]
    assert stats["complete"] and stats["successful_requests"] == 24
    assert stats["cold_proof"] == "proven"
    assert stats["timings"]["e2e_s"]["max"] < 120
    # What needs one clock is left out, and said.
    assert stats["request_throughput_rps"] is None
    assert "ran 3" in str(stats["findings"]) and "s apart" in str(stats["findings"])


def test_a_shard_whose_clock_is_ahead_sends_nothing(sim: Sim, tmp_path: Path) -> None:
    at = str(int(time.time()) + 300)
    flags = ["--url", sim.url, "--round", "1", "--shard", "1/2", "--start-at", at]
    assert kvload(tmp_path, "ahead", f"+{HOUR_S}", *flags).wait(120) == 2
    assert "nothing was sent" in (tmp_path / "ahead.err").read_text()
    assert (tmp_path / "ahead.jsonl").read_bytes() == b""
