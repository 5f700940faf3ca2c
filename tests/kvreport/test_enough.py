"""`--until`: how many repeats are enough, and what a later report makes of those that were run."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
from tests.kvreport.rounds import Setting, World, edited, experiment, make

from kvpipe.records import Until
from kvpipe.stein import log_half_width, quantile
from kvreport.conclude import conclude
from kvreport.conclusion import Conclusion
from kvreport.enough import Wish
from kvreport.experiments import group
from kvreport.formats import Setting as Format
from kvreport.formats import as_text
from kvreport.rounds import Round
from kvreport.targets import parse

NOISY = World(noise=0.2)
RECORDED = {"until": Until(half_width=0.02, first_repeats=3)}


def concluded(rounds: list[Round], **wish: Any) -> Conclusion:
    return conclude(group(rounds), parse([]), tool_version="test", until=Wish(**wish))


def recorded(repeats: int, name: str = "a", world: World = NOISY) -> list[Round]:
    setting = Setting(name=name, experiment_id=name, run=RECORDED)
    return experiment(repeats, world=world, setting=setting)


def test_nobody_asked() -> None:
    found = concluded(experiment(3))
    assert found.until is None
    assert found.scenarios[0].need is None


def test_what_is_there_is_the_first_stage_of_a_wish() -> None:
    found = concluded(experiment(4, world=NOISY), half_width=0.02)
    assert found.until is not None
    (need,) = found.until.per_name
    thetas = found.scenarios[0].effects["ttft"].thetas
    sd = float(np.std(thetas, ddof=1))
    assert need.sd == pytest.approx(sd)
    assert need.needed == max(4, math.ceil((quantile(4) * sd / log_half_width(0.02)) ** 2))
    assert (need.first_repeats, need.repeats, found.until.first_repeats) == (4, 4, 4)
    assert found.until.needed == need.needed > 4
    assert not found.until.reached


def test_the_first_repeats_alone_give_the_spread() -> None:
    """Six repeats after three recorded ones: mean of six, t and s0 of the first three."""
    found = concluded(recorded(6))
    one = found.scenarios[0]
    for effect in one.effects.values():
        assert effect.interval is not None
        half = quantile(3) * float(np.std(effect.thetas[:3], ddof=1)) / math.sqrt(6)
        assert (effect.interval.first, effect.interval.units) == (3, 6)
        assert effect.interval.low == pytest.approx(effect.theta - half)
        assert effect.interval.high == pytest.approx(effect.theta + half)
    assert one.drift is not None and one.drift.interval is not None
    assert one.drift.interval.first == 3
    assert found.until is not None and found.until.half_width == 0.02


def test_what_was_recorded_beats_what_is_wished_now() -> None:
    """The width may be asked anew; the first stage is a fact."""
    found = concluded(recorded(6), half_width=0.5, first_repeats=6)
    assert found.until is not None
    assert (found.until.half_width, found.until.first_repeats) == (0.5, 3)
    assert found.until.reached and found.until.needed == 3


def test_scenarios_are_repeated_together() -> None:
    quiet = recorded(3, "quiet", World(noise=0.001))
    found = concluded([*recorded(3, "noisy"), *quiet], maximum=5).until
    assert found is not None
    by_name = {one.name: one for one in found.per_name}
    assert by_name["quiet"].needed == 3
    assert found.needed == by_name["noisy"].needed
    assert found.needed is not None and found.needed > 5
    assert (found.total, found.maximum, found.reached) == (5, 5, False)


def test_two_repeats_do_not_know_how_many_are_enough() -> None:
    found = concluded(recorded(2)).until
    assert found is not None
    assert (found.needed, found.total, found.reached) == (None, None, False)


def test_a_first_stage_that_failed_is_not_replaced_by_later_repeats() -> None:
    """Repeats 2 and 3 are missing: four are there, but what fixed their number is not."""
    rounds = [one for one in recorded(6) if one.repeat not in (2, 3)]
    (one,) = concluded(rounds).scenarios
    effect = one.effects["ttft"]
    assert effect.repeats == 4
    assert (effect.interval, effect.no_interval) == (None, "first_stage")
    assert {result.status for result in one.targets} == {"not_shown"}
    assert "first stage" in as_text(concluded(rounds), Format())


def test_the_report_says_that_there_were_two_stages() -> None:
    said = " ".join(as_text(concluded(recorded(6, world=World())), Format()).split())
    assert "in two stages (Stein): the spread of the first 3 alone fixes" in said
    assert "2 degrees of freedom; 3 are needed, and that is reached" in said
    said = " ".join(as_text(concluded(recorded(3)), Format()).split())
    assert "until then it is" in said
    assert "repeats in all give the TTFT ratio to ± 2.0 % (--until)." in said.replace("\xa0", " ")


def test_the_command_line(sh: Callable[..., Any]) -> None:
    lines = "".join(
        msgspec.json.encode(one.stats).decode() + "\n" for one in experiment(3, world=NOISY)
    )
    done = sh("kvreport --format json --until 2% --until-max 9", stdin=lines)
    until = json.loads(done.out)["until"]
    assert (until["half_width"], until["first_repeats"], until["maximum"]) == (0.02, 3, 9)
    assert until["total"] == min(9, until["needed"])
    assert until["per_name"][0]["sd"] > 0
    for wrong in ("--until 5", "--until 0%", "--until-first 3", "--until 5% --until-first 2"):
        done = sh(f"kvreport {wrong}", stdin=lines)
        assert (done.status, done.out) == (2, "") and "--until" in done.err


def test_a_comparison_with_no_samples_needs_nothing() -> None:
    bare = [edited(one, samples=None) for one in recorded(3)]
    found = concluded([*bare, make("cold", setting=Setting(name="b", experiment_id="b"))]).until
    assert found is not None and not found.reached
