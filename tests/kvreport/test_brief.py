"""The answer in a sentence or two: it says what the whole report says, and no more."""

from __future__ import annotations

import re

import pytest
from tests.kvreport.rounds import NODE_B, Setting, edited, experiment, finding, make, rerun

from kvreport.brief import thousands
from kvreport.conclude import conclude
from kvreport.experiments import group
from kvreport.formats import Setting as Format
from kvreport.formats import as_brief, as_text
from kvreport.rounds import Round
from kvreport.targets import parse


def brief(rounds: list[Round]) -> str:
    """On one line, whatever the width."""
    made = conclude(group(rounds), parse([]), tool_version="test")
    return " ".join(as_brief(made, Format(columns=80)).split())


def test_it_says_what_the_first_screen_says() -> None:
    rounds = experiment(1)
    told = brief(rounds)
    made = conclude(group(rounds), parse([]), tool_version="test")
    whole = " ".join(as_text(made, Format(columns=80)).split())
    figures = re.match(r"A hit on 2\.7k tokens saves (.* ms) of (.* ms) \(([\d.]+ %)", told)
    assert figures and f"saves {figures[1]} of {figures[2]} ({figures[3]}" in whole
    assert "faster in this run, cold proven." in told
    assert "engine prefix cache, as the server counted" in told
    assert "within this run only" in told and "nothing was found" in told


def test_repeats_are_no_single_run() -> None:
    told = brief(experiment(3, arms=("no_reuse", "cold", "hit")))
    assert "with 95 % confidence): faster, cold proven." in told


def test_a_contaminated_round_never_goes_without_the_word() -> None:
    warm = finding("contaminated", "invalid", "it was warm")
    cold = make("cold", cold_proof="contaminated", findings=[warm])
    told = brief([cold, experiment(1)[1]])
    assert re.search(r"\d % CONTAMINATED, .*: verdict withheld, CONTAMINATED\.", told)
    assert "cold proven" not in told and "CONTAMINATED: it was warm" in told


def test_one_unproven_repeat_is_enough_to_doubt_cold() -> None:
    rounds = experiment(3)
    first = edited(rounds[0], cold_proof="not shown")
    told = brief([first, *rounds[1:]])
    assert "cold not shown." in told and "cold proven" not in told


def test_without_counters_no_tier_is_named() -> None:
    cold, hit = experiment(1)
    blind = edited(hit, tier_served=None, leaders_served=None, served=None, efficiency=None)
    told = brief([cold, blind])
    assert "Which tier served is not shown" in told
    assert "how many tokens were hits is not shown" in told
    assert not re.search("LMCache|Mooncake|engine prefix cache", told)


def test_what_cannot_be_compared_has_no_answer() -> None:
    told = brief([make("cold")])
    assert told.startswith("No answer: nothing: round 2 (cache hit) is not there.")
    cold, hit = experiment(1)
    told = brief([cold, rerun(hit, plan_sha256="f00d" * 16)])
    assert told.startswith("No answer: the plans differ.")


def test_every_doubt_is_told_and_what_was_simulated_says_so_first() -> None:
    codes = ("errors", "barrier_unknown", "client_limited", "stamps_mixed", "warmup_unstable")
    found = [finding(code, "warning", f"about {code}") for code in codes]
    told = brief([make("cold", findings=found), experiment(1)[1]])
    assert all(f"about {code}" in told for code in codes)
    assert brief(experiment(1, setting=Setting(simulated=True))).startswith("SIMULATED: A hit on")


def test_several_scenarios_have_their_names() -> None:
    other = Setting(name="the other", experiment_id="e2", tier="remote", node_b=NODE_B)
    told = brief([*experiment(1), *experiment(1, setting=other, arms=("no_reuse", "cold", "hit"))])
    assert "the other" in told and told.count("A hit on 2.7k tokens") == 2


@pytest.mark.parametrize(
    ("tokens", "shown"), [(364.2, "364"), (2764, "2.8k"), (9960, "10k"), (24064, "24k")]
)
def test_lengths_are_spoken_of_in_thousands(tokens: float, shown: str) -> None:
    assert thousands(tokens) == shown
