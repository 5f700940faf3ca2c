"""Growth: bends where there are bends, load told on the page, and the sweeps small, to see that
they run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from bench.growth import keep, points_of
from bench.growth_causes import causes
from bench.growth_page import bend_table, page
from bench.growth_points import Curve, Point, curve_of, read_curves, written
from bench.growth_slopes import bends, slopes
from bench.growth_sweeps import SWEEPS, Sweep, loaded, records, shards, workers_load
from bench.loads import BenchError, Load

DECADES = (1.0, 10.0, 100.0, 1000.0, 10_000.0)
BY_NAME = {sweep.name: sweep for sweep in SWEEPS}


def test_in_proportion_there_is_no_bend() -> None:
    line = [(x, 3 * x) for x in DECADES]
    assert [one.slope for one in slopes(line)] == pytest.approx([1.0] * 4)
    assert bends(line, 1.0) == []
    assert bends([(x, 3 * x**1.19) for x in DECADES], 1.0) == []
    assert bends([(x, 5.0) for x in DECADES], 0.0) == []


def test_from_one_slope_to_two() -> None:
    curve = [(x, x if x <= 100 else x**2 / 100) for x in DECADES]
    (found,) = bends(curve, 1.0)
    assert (found.low, found.high, found.way) == (100.0, 10_000.0, "steeper")
    assert found.slope == pytest.approx(2.0)


def test_a_fixed_cost_and_a_quadratic_one_are_two_bends() -> None:
    curve = [(x, 100 + x + x**2 / 1e4) for x in (1.0, 10.0, 1e3, 2e3, 1e6, 1e7)]
    flat, steep = bends(curve, 1.0)
    assert (flat.low, flat.high, flat.way) == (1.0, 1e3, "flatter")
    assert (steep.low, steep.high, steep.way) == (2e3, 1e7, "steeper")


def test_what_should_stay_and_grows_is_a_bend() -> None:
    (found,) = bends([(1.0, 1.0), (2.0, 1.0), (4.0, 2.0)], 0.0)
    assert (found.low, found.high) == (2.0, 4.0)


def test_points_that_lie_near_one_another_have_no_slope_between_them() -> None:
    noisy = [(1.0, 1.0), (2.0, 1.0), (3.0, 1.1), (4.0, 1.02), (6.0, 0.95), (8.0, 1.05)]
    assert [(one.low, one.high) for one in slopes(noisy)] == [(1.0, 2.0), (2.0, 4.0), (4.0, 8.0)]
    assert bends(noisy, 0.0) == []


def run(cpu_s: float, peak_mb: float = 60.0) -> dict[str, float]:
    return {
        "cpu_s": cpu_s, "peak_mb": peak_mb, "wall_s": 2.0, "requests": 10.0, "chunks": 80.0,
        "late_p50": 0.1, "late_p99": 0.2, "ttft_p99": 0.3, "merged_share": 0.0,
    }  # fmt: skip


def point(at: int, *cpu_s: float, load: float = 0.5, peak_mb: float = 60.0) -> Point:
    return Point(
        sweep="streams", at=at, runs=[run(one, peak_mb) for one in cpu_s], load_average=load,
        when="2026-01-02T03:04:05+00:00", commit="abc",
    )  # fmt: skip


def curve(*points: Point, start: Point | None = None) -> Curve:
    start = start or point(0, 0.4, 0.42, 0.41, peak_mb=50.0)
    return Curve(sweep=BY_NAME["streams"], start=start, points=points)


def test_what_starting_takes_is_not_the_loads() -> None:
    found = curve(point(1, 0.43), point(10, 0.51), point(100, 1.41), point(1000, 10.41))
    assert [at for at, _ in found.cpu()] == [10.0, 100.0, 1000.0]
    assert [cpu for _, cpu in found.cpu()] == pytest.approx([0.1, 1.0, 10.0])
    assert found.cpu_bends() == []
    unsure = curve(*found.points, start=point(0, 0.3, 0.41, 1.5))
    assert [at for at, _ in unsure.cpu()] == [1000.0], "a start that differs by 1.2 s hides less"
    both = replace(found, sweep=replace(found.sweep, starts=lambda count: 2))
    assert both.cpu_s(found.points[2]) == pytest.approx(1.41 - 2 * 0.41)


def test_the_page_says_how_busy_the_machine_was() -> None:
    quiet = "\n".join(page([curve(point(1, 0.5, load=0.9), point(10, 1.5))], 2, "make growth"))
    assert "0.5 to 0.9 here, on 2 processors" in quiet
    assert "Others were at work" not in quiet
    busy = "\n".join(page([curve(point(1, 0.5, load=6.5), point(10, 1.5))], 2, "make growth"))
    assert "0.5 to 6.5 here" in busy
    assert "**Others were at work on them**" in busy
    row = next(line for line in busy.splitlines() if line.startswith("| 1 "))
    assert row.split("|")[-2].strip() == "6.5"


def test_the_page_tells_every_bend() -> None:
    found = curve(point(1, 1.41), point(10, 10.41), point(100, 1000.41))
    (row,) = [line for line in bend_table([found])[2:] if "processor" in line]
    assert [cell.strip() for cell in row.split("|")[1:-1]] == [
        "streams", "processor time", "10", "100", "2.00", "1", "steeper",
    ]  # fmt: skip
    flat = curve(point(1, 1.41, peak_mb=51.0), point(10, 10.41, peak_mb=51.0))
    assert bend_table([flat]) == ["None: every slope is within 0.2 of the expected one."]


def test_runs_that_differ_are_given_two_more(tmp_path: Path) -> None:
    costs = iter([0.1, 0.1, 0.1, 1.0, 1.1, 1.9, 1.0, 1.0, 5.0, 9.0])
    made = replace(
        BY_NAME["streams"], measure=lambda at, folder: run(next(costs)),
        smallest=lambda folder: run(next(costs)), long_from=100,
    )  # fmt: skip
    said: list[Point] = []
    found = curve_of(made, [1, 100], 3, None, said.append)
    assert [len(one.runs) for one in said] == [3, 5, 1]
    assert found.points[0].of("cpu_s") == 1.0
    assert found.points[0].spread == pytest.approx(0.9)
    path = tmp_path / "growth.jsonl"
    path.write_text(written([found], {"cpus": 2}), encoding="utf-8")
    (again,) = read_curves(path, SWEEPS)
    assert again.points == found.points
    assert again.start == found.start
    assert json.loads(path.read_text().splitlines()[0])["record"] == "conditions"


def test_every_sweep_has_six_points_over_what_it_says() -> None:
    assert {sweep.name for sweep in SWEEPS} == {
        "streams", "rate", "prompts", "workers", "shards", "records",
    }  # fmt: skip
    for sweep in SWEEPS:
        assert len(sweep.points) >= 6, sweep.name
        if sweep.name not in ("workers", "shards"):  # processors end before two decades
            assert sweep.points[-1] >= 100 * sweep.points[0], sweep.name
    assert points_of(BY_NAME["rate"], 0.001) == [4, 32]


def tiny(name: str) -> Sweep:
    """A sweep with its real commands, and points and loads of a second."""
    load = Load(name="tiny", streams=4, requests=8, ttft_ms=5.0, itl_ms=5.0, tokens=3)
    loads = {
        "streams": lambda at, folder: loaded(replace(load, streams=at), folder),
        "workers": lambda at, folder: loaded(replace(load, workers=at), folder),
    }
    return replace(BY_NAME[name], measure=loads.get(name, BY_NAME[name].measure))


def test_the_sweeps_small(tmp_path: Path) -> None:
    told: list[Point] = []
    curves = [
        curve_of(tiny("streams"), [1, 4], 1, None, told.append),
        curve_of(tiny("workers"), [2], 1, None, told.append),
        curve_of(tiny("records"), [20], 1, None, told.append),
    ]
    for one in told:
        assert one.of("cpu_s") > 0.05, "an interpreter at least"
        assert one.of("peak_mb") > 10
    assert {one.of("chunks") for one in curves[0].points} == {8.0 * 3}
    keep(tmp_path, curves, {"cpus": 2, "command": "make growth"})
    for name in ("growth.png", "lateness.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    text = (tmp_path / "growth.md").read_text(encoding="utf-8")
    assert "## Workers" in text
    assert "kvstats FILE" in text
    assert [one.points for one in read_curves(tmp_path / "growth.jsonl", SWEEPS)] == [
        one.points for one in curves
    ]


def test_shards_send_one_plan_between_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.growth_sweeps.PLAN", 12)
    found = shards(2, tmp_path)
    assert (found["requests"], found["chunks"]) == (12.0, 12.0 * 4)
    assert found["peak_mb"] > 2 * 20, "of both"


def test_a_client_that_fails_is_no_point(tmp_path: Path) -> None:
    work = tmp_path / "work.jsonl"
    work.write_text("no plan\n", encoding="utf-8")
    with pytest.raises(BenchError, match="kvload: status 2"):
        loaded(workers_load(1), tmp_path, work)
    (tmp_path / "5.jsonl").write_text("{", encoding="utf-8")
    with pytest.raises(BenchError):
        records(5, tmp_path)


def test_turns_and_reads_are_counted() -> None:
    load = Load(name="tiny", streams=4, requests=8, ttft_ms=5.0, itl_ms=5.0, tokens=3)
    row = causes([load], 1)[2]
    cells = [cell.strip() for cell in row.split("|")[1:-1]]
    assert cells[0] == "tiny"
    chunks_a_read, turns, sleeping = (float(cells[at]) for at in (1, 2, 5))
    assert 0.5 <= chunks_a_read <= 3
    assert min(turns, sleeping) > 0.1
