"""What is concluded from a soak; and a short one, to see that it runs and that nothing grows."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from bench.soak import (
    KEPT_SAMPLES,
    TOOLS,
    Load,
    Sample,
    Soaked,
    due_error_ns,
    growth_kb,
    kept_samples,
    page,
    plot,
    quarter_ratio,
    soak,
    verdicts,
)

RATE = 50.0
SECONDS = 600


def steady() -> Soaked:
    """Ten minutes in which nothing grows: 100 kB for 1,000 requests, and noise."""
    chance = np.random.default_rng(1)
    samples = [
        Sample(
            at_s=float(second),
            done=int(RATE * second),
            rss_kb=dict.fromkeys(TOOLS, 50_000 + second * 5 + int(chance.integers(-300, 300))),
            cpu_s=dict.fromkeys(TOOLS, second / 10),
        )
        for second in range(SECONDS)
    ]
    count = int(RATE * SECONDS)
    return Soaked(
        rate_rps=RATE,
        samples=samples,
        due_ns=1_000 + np.arange(count) * int(1e9 / RATE),
        late_ns=chance.integers(20_000, 80_000, count),
        ok=count,
        statuses={"kvload": 0, "tee": 0, "kvstats": 0},
        stats={"successful_requests": count},
    )


def missed(soaked: Soaked) -> set[str]:
    return {one.name for one in verdicts(soaked) if not one.met}


def grown(tool: str, kb_a_second: float) -> Soaked:
    good = steady()
    samples = [
        dataclasses.replace(
            one, rss_kb={**one.rss_kb, tool: one.rss_kb[tool] + int(kb_a_second * one.at_s)}
        )
        for one in good.samples
    ]
    return dataclasses.replace(good, samples=samples)


def test_a_steady_run_meets_everything() -> None:
    good = steady()
    assert not missed(good)
    assert growth_kb(good.samples, "kvload") == pytest.approx(100, abs=20)
    assert quarter_ratio(good.samples, "kvload") == pytest.approx(1.03, abs=0.01)
    assert "**no**" not in "".join(page(good, verdicts(good)))


@pytest.mark.parametrize("tool", TOOLS)
def test_growth_is_seen(tool: str) -> None:
    assert missed(grown(tool, kb_a_second=100.0)) == {f"memory of {tool}"}


def test_drift_is_seen() -> None:
    good = steady()
    count = len(good.late_ns)
    behind = dataclasses.replace(good, late_ns=good.late_ns + np.arange(count) * 1_000)
    assert missed(behind) == {"lateness, median"}
    slower = good.due_ns + np.arange(count) * 10
    assert missed(dataclasses.replace(good, due_ns=slower)) == {"due time of request k"}
    assert due_error_ns(good.due_ns, RATE) == 0


@pytest.mark.parametrize(
    "over",
    [
        {"ok": 29_999},
        {"stats": {"successful_requests": 29_999}},
        {"statuses": {"kvload": 0, "tee": 0, "kvstats": 1}},
    ],
)
def test_what_is_lost_is_seen(over: dict[str, object]) -> None:
    assert missed(dataclasses.replace(steady(), **over)) == {"requests"}


def test_a_soak_in_small(tmp_path: Path) -> None:
    """Counts and the schedule; memory by a wide ratio, since a short run is mostly warm-in."""
    load = Load(rate_rps=40.0, output_tokens=4)
    found = soak(6.0, load, every_s=0.1)
    assert found.ok == len(found.due_ns) == found.stats["successful_requests"] == 240
    assert set(found.statuses.values()) == {0}
    assert due_error_ns(found.due_ns, 40.0) <= 1_000
    assert min(found.late_ns) >= 0
    for tool in TOOLS:
        assert quarter_ratio(found.samples, tool) < 1.5, tool
    lines = kept_samples(found.samples)
    assert 1 < len(lines) <= KEPT_SAMPLES
    assert json.loads(lines[-1])["done"] <= 240
    plot(found, tmp_path / "soak.png")
    assert (tmp_path / "soak.png").stat().st_size > 10_000
