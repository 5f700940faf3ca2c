"""The two-stage rule: what it asks for, what its intervals cover, and what it finds."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import t as student

from kvpipe import stein
from kvpipe.process import UsageError


def test_the_formula_by_hand() -> None:
    """s0 = 0.1 of three values, W = 5 %: (4.302653 * 0.1 / log 1.05)^2 = 77.8."""
    stage = stein.first_stage([-0.1, 0.0, 0.1])
    assert stage is not None and stage.sd == pytest.approx(0.1)
    assert stage.needed(0.05) == 78
    assert stage.half(78) == pytest.approx(4.302653 * 0.1 / math.sqrt(78), rel=1e-6)


def test_students_quantile_is_scipys() -> None:
    for repeats in (3, 5, 30):
        assert stein.quantile(repeats) == pytest.approx(float(student.ppf(0.975, repeats - 1)))


def test_half_a_width_of_the_ratio_means_the_farther_end() -> None:
    """The upper end is W away from the ratio, the lower one less."""
    delta = stein.log_half_width(0.05)
    assert math.exp(delta) - 1 == pytest.approx(0.05)
    assert 1 - math.exp(-delta) < 0.05


def test_no_spread_needs_no_more_than_the_first_stage() -> None:
    stage = stein.first_stage([0.5, 0.5, 0.5, 0.5])
    assert stage is not None
    assert (stage.needed(0.05), stage.half(4)) == (4, 0.0)


def test_fewer_than_three_repeats_fix_nothing() -> None:
    assert stein.first_stage([0.1, 0.2]) is None


def test_a_maximum_caps_what_is_run_and_not_what_is_needed() -> None:
    assert stein.total(78, 20) == 20
    assert stein.total(7, 20) == 7
    assert stein.total(78, None) == 78


@pytest.mark.parametrize(
    ("text", "value"), [("5%", 0.05), ("2.5%", 0.025), ("0.1%", 0.001), ("99%", 0.99)]
)
def test_a_percentage_is_read(text: str, value: float) -> None:
    assert stein.half_width(text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["5", "0.05", "0%", "-5%", "100%", "nan%", "5%%", "%", "5% or so"])
def test_what_is_no_percentage_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--until"):
        stein.half_width(text)


def run(rng: np.random.Generator, effect: float, sd: float, first: int, width: float) -> tuple:
    """One experiment by the rule: its mean, its half-width, and how many repeats it took."""
    begun = list(rng.normal(effect, sd, first))
    stage = stein.first_stage(begun)
    assert stage is not None
    needed = stage.needed(width)
    thetas = [*begun, *rng.normal(effect, sd, needed - first)]
    return float(np.mean(thetas)), stage.half(needed), needed


@pytest.mark.parametrize("first", [3, 5])
def test_the_interval_covers_and_is_as_narrow_as_asked(first: int) -> None:
    rng = np.random.default_rng(1945)
    missed, seeds = 0, 2000
    for _ in range(seeds):
        mean, half, _ = run(rng, -0.3, 0.03, first, 0.05)
        assert half <= stein.log_half_width(0.05) + 1e-12
        missed += abs(mean + 0.3) > half
    assert abs(missed / seeds - 0.05) < 3 * math.sqrt(0.05 * 0.95 / seeds)


def test_an_effect_of_twice_the_half_width_is_found() -> None:
    """At least 97.5 times in 100; an effect of the half-width itself about every other time."""
    rng = np.random.default_rng(1946)
    found = dict.fromkeys((1, 2), 0)
    for scale in found:
        for _ in range(1000):
            mean, half, _ = run(rng, -scale * stein.log_half_width(0.025), 0.03, 3, 0.025)
            found[scale] += mean + half < 0
    assert found[2] / 1000 > 0.975 - 3 * math.sqrt(0.975 * 0.025 / 1000)
    assert 0.4 < found[1] / 1000 < 0.65


def test_stopping_when_it_is_significant_would_not_cover() -> None:
    """A guard on the guard: the habit that the rule replaces finds what is not there."""
    rng = np.random.default_rng(1947)
    false = 0
    for _ in range(500):
        thetas = list(rng.normal(0, 0.03, 3))
        while len(thetas) < 40:
            half = stein.quantile(len(thetas)) * np.std(thetas, ddof=1) / math.sqrt(len(thetas))
            if abs(np.mean(thetas)) > half:
                false += 1
                break
            thetas.append(rng.normal(0, 0.03))
    assert false / 500 > 0.1
