"""The client's own error, as calibrated, against the round's TTFT."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import structs
from tests.kvstats.streams import HIT_MS, Made, cold, shards, summarise_lines

from kvpipe.records import CalibratedLoad, Calibration, ClientHealth, Finding, Host

HOST = Host(name="h", system="Linux", python="3.11", cpus=2)
MEDIAN_S = HIT_MS / 1e3  # most of the factory's cold round are followers


def found(made: Made, code: str) -> Finding | None:
    return next((one for one in made.stats().findings if one.code == code), None)


def load(streams: int = 8, error_ms: float = 0.1, **over: Any) -> CalibratedLoad:
    facts: dict[str, Any] = {
        "streams": streams, "requests": 100, "runs": 3, "chunks_rps": streams * 1e3,
        "ttft_s": 0.2, "itl_s": 0.02, "ttft_error_p50_s": 0.0, "ttft_error_p99_s": error_ms / 1e3,
        "gap_error_p99_s": 0.0, "tpot_error_p99_s": 0.0, "lateness_p50_s": 0.0,
        "lateness_p99_s": 0.0, "cpu_per_100k_s": 1.0, "cpu_ratio": 0.1, "merged_share": 0.0,
        "stamp_source": "kernel",
    }  # fmt: skip
    return CalibratedLoad(**(facts | over))


def calibrated(*loads: CalibratedLoad, in_flight: float = 4.0, **over: Any) -> Made:
    facts: dict[str, Any] = {
        "made_at": "2026-01-01T00:00:00+00:00", "host": HOST, "tool_version": "0.1.0",
        "server": "bench/flatserver.c", "loads": list(loads),
    }  # fmt: skip
    made = cold().head(calibration=Calibration(**(facts | over)))
    return made.foot(client=ClientHealth(achieved_concurrency=in_flight))


def test_an_error_small_beside_the_ttft_is_silent() -> None:
    made = calibrated(load(error_ms=0.99 * 0.05 * HIT_MS))
    assert made.stats().findings == []


def test_an_error_above_5_per_cent_of_the_ttft_is_told() -> None:
    limited = found(calibrated(load(error_ms=1.01 * 0.05 * HIT_MS)), "client_limited")
    assert limited is not None
    assert limited.evidence["limit_s"] == pytest.approx(0.05 * MEDIAN_S)


def test_the_smallest_load_that_covers_the_round_is_taken() -> None:
    good, bad = load(4), load(1000, error_ms=500)
    assert found(calibrated(bad, good, in_flight=4.3), "client_limited") is None
    assert found(calibrated(bad, good, in_flight=4.5), "client_limited") is not None
    slow = load(4, chunks_rps=1e-3)  # enough streams, but next to no chunks
    assert found(calibrated(bad, slow), "client_limited") is not None


def test_a_calibrated_rate_covers_as_many_streams_as_it_held() -> None:
    by_rate = structs.replace(
        load(ttft_s=0.22, itl_s=0.02), streams=None, rate_rps=10.0, chunks_rps=100.0
    )  # for 0.4 s each
    assert calibrated(by_rate, in_flight=4.3).stats().findings == []
    assert found(calibrated(by_rate, in_flight=4.5), "calibration_unfit") is not None


@pytest.mark.parametrize(
    ("over", "says"),
    [
        ({"host": structs.replace(HOST, name="other")}, "of another host (other, not h)"),
        ({"host": structs.replace(HOST, cpus=64)}, "as it was (64 processors"),
        ({"host": structs.replace(HOST, system="Linux 2")}, "as it was (2 processors, Linux 2"),
        ({"host": structs.replace(HOST, python="3.13")}, "on Python 3.13, not of 0.1.0 on 3.11"),
        ({"tool_version": "0.0.9"}, "of kvload 0.0.9 on Python 3.11"),
        ({"made_at": "2025-12-01T00:00:00+00:00"}, "32 days old"),
        ({"made_at": "2026-02-01T00:00:00+00:00"}, "from the future"),
        ({"made_at": "yesterday"}, "without a date that can be read"),
        ({"made_at": "2026-01-01T00:00:00"}, "without a date that can be read"),
        ({"loads": []}, "empty"),
        ({"loads": [load(2)]}, "of smaller loads (2 streams, 2,000 chunks/s at most)"),
    ],
)
def test_a_calibration_that_does_not_speak_of_this_round(over: dict[str, Any], says: str) -> None:
    wrong = calibrated(load(error_ms=1e6), **over) if "loads" not in over else calibrated(**over)
    unfit = found(wrong, "calibration_unfit")
    assert unfit is not None
    assert unfit.severity == "warning"
    assert says in unfit.message
    assert found(wrong, "client_limited") is None, "what is unfit is not used"


def test_no_calibration_is_no_finding() -> None:
    assert found(cold(), "calibration_unfit") is None


def test_more_workers_than_the_round_had_do_not_speak_of_it() -> None:
    assert found(calibrated(load(workers=2)), "calibration_unfit") is not None
    assert calibrated(load(workers=2)).head(workers=2).stats().findings == []


def test_shards_share_the_load_and_each_has_its_calibration() -> None:
    parts = shards(calibrated(load(4)), 2)
    (stats,) = summarise_lines(b"".join(part.lines() for part in parts).splitlines(True))
    assert stats.findings == []
    foreign = structs.replace(HOST, name="other")
    parts[1] = parts[1].head(host=foreign)
    (stats,) = summarise_lines(b"".join(part.lines() for part in parts).splitlines(True))
    assert [one.code for one in stats.findings] == ["calibration_unfit"]
