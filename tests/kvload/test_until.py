"""Two stages: the first repeats' spread fixes how many there are, and nothing else does."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.conftest import Done
from tests.simulated import FAST, Sim, kvsim

from kvload.until import Stages, log_ratio, take
from kvpipe.process import ToolError
from kvpipe.records import Request, Until

Shell = Callable[..., Done]
SMALL = (
    "--scenario cold_start --requests 3 --context-tokens 200 --output-tokens 1 --warmup 0 --pause 0"
)


@pytest.fixture(scope="module")
def sim() -> Iterator[Sim]:
    with kvsim(*FAST) as running:
        yield running


def stages(ratios: list[float], width: float, maximum: int = 99) -> Stages:
    made = Stages(until=Until(half_width=width, first_repeats=3), maximum=maximum)
    for repeat, ratio in enumerate(ratios, 1):
        made.note(repeat, 1).update({0: 1_000_000, 1: 3_000_000})
        made.note(repeat, 2).update({0: round(1_000_000 * ratio), 1: round(3_000_000 * ratio)})
    return made


def test_equal_repeats_are_enough_as_they_are() -> None:
    fixed = stages([0.3, 0.3, 0.3], 0.05).fixed()
    assert (fixed.needed, fixed.total) == (3, 3)


def test_the_spread_decides_and_the_effect_does_not() -> None:
    """Stein: (t(2) s / delta)^2, with t(2) = 4.3027."""
    apart = [math.exp(step) for step in (-0.1, 0.0, 0.1)]
    small, large = (
        stages([ratio * effect for ratio in apart], 0.1).fixed() for effect in (0.9, 0.1)
    )
    assert small == large
    assert small.needed == math.ceil((4.302653 * 0.1 / math.log(1.1)) ** 2) == 21
    assert stages(apart, 0.1, maximum=8).fixed().total == 8


def test_later_repeats_change_nothing() -> None:
    apart = [math.exp(step) for step in (-0.1, 0.0, 0.1)]
    assert stages([*apart, 5.0, 0.01], 0.1).fixed() == stages(apart, 0.1).fixed()


def test_pairs_are_of_requests_that_succeeded_in_both() -> None:
    assert log_ratio({0: 10, 1: 10}, {1: 5, 2: 7}) == pytest.approx(math.log(0.5))
    assert log_ratio({0: 10}, {1: 5}) is None
    noted: dict[int, int] = {}
    common: dict[str, Any] = {
        "run_id": "r", "request_id": "r", "endpoint_url": "u", "scheduled_ns": 0, "start_ns": 0,
        "end_ns": 9, "sent_ns": 1, "first_token_ns": 6,
    }  # fmt: skip
    take(noted, Request(index=0, stratum="unique", status="ok", **common))
    take(noted, Request(index=1, stratum="unique", status="truncated", **common))
    take(noted, Request(index=2, stratum="sentinel", status="ok", **common))
    assert noted == {0: 5}


def test_a_repeat_without_pairs_is_named() -> None:
    made = stages([0.3, 0.3], 0.05)
    with pytest.raises(ToolError, match="in repeat 3 no request was answered both"):
        made.fixed()


def test_a_wide_wish_ends_after_the_first_stage_and_is_recorded(sh: Shell, sim: Sim) -> None:
    done = sh(
        f"kvload --url {sim.url} {SMALL} --until 99% --until-max 6"
        " | tee run.jsonl | kvstats > s || status=$?; cat run.jsonl; exit ${status-0}"
    )
    # On a machine that is busy enough no wish is wide, and the maximum ends it, soon enough.
    assert done.status == 0 or "--until-max" in done.err, done.err
    runs = [r for r in map(json.loads, done.out.splitlines()) if r["record"] == "run"]
    assert {run["repeat"] for run in runs} >= {1, 2, 3}
    assert all(run["until"] == {"half_width": 0.99, "first_repeats": 3} for run in runs)
    assert "±99 % takes" in done.err


def test_a_narrow_wish_runs_on_to_the_maximum_with_new_text(sh: Shell, sim: Sim) -> None:
    done = sh(f"kvload --url {sim.url} {SMALL} --until 0.01% --until-max 4")
    assert done.status == 1, done.err
    assert "--until-max: 4 are run" in done.err
    runs = [r for r in map(json.loads, done.out.splitlines()) if r["record"] == "run"]
    assert [r["repeat"] for r in runs if r["arm"] == "hit"] == [1, 2, 3, 4]
    assert [r["position"] for r in runs if r["repeat"] == 4 and r["arm"] == "no_reuse"] == ["after"]
    assert (
        len({r["plan_sha256"] for r in runs}) == 4 and len({r["shape_sha256"] for r in runs}) == 1
    )


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--until 5", "half-width in percent"),
        ("--until 5% --repeats 2", "--repeats 3"),
        ("--until 5% --rounds 1", "needs both of them"),
        ("--until 5% --salt none", "needs both of them"),
        ("--until 5% --repeats 5 --until-max 4", "5 to begin with"),
        ("--until-max 4", "goes with --until"),
        ("--until 5% --keep-plan p", "--keep-plan is one file"),
    ],
)
def test_what_cannot_be_is_one_line(sh: Shell, sim: Sim, flags: str, words: str) -> None:
    done = sh(f"kvload -q --url {sim.url} {SMALL} {flags}")
    assert (done.status, done.out) == (2, "")
    assert words in done.err and len(done.err.splitlines()) == 1
