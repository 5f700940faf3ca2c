"""The first screen of every format: compared, worth, target, how sure, doubts, whatever was run."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from playwright.sync_api import Browser
from tests.browser import browsing, needs_chromium, opened
from tests.kvreport.rounds import NODE_B, Setting, Shape, World, experiment, finding
from tests.kvreport.test_modes import alone, concluded, split

from kvreport.conclusion import Conclusion
from kvreport.formats import RENDERERS
from kvreport.formats import Setting as Format
from kvreport.rounds import Round
from kvreport.words import LANGUAGES, Words

TAINTED = [
    finding("contaminated", "invalid", "5,376 of the 10,752 tokens were not computed"),
    finding("client_limited", "warning", "sending was late by 7.1 ms (P99), more than 5.0 ms"),
]
CLOUDS = ("腾讯云-单机-Qwen2.5-72B", "阿里云-单机-Qwen2.5-72B")
KINDS = ("good", "tainted", "one run", "pd", "clouds", "many")
SCENARIO = "long_context_high_reuse"
LINES, PHONE = 24, (390, 844)
LABELS = ("compared", "one_hit", "target", "how_sure", "doubts")


def made(kind: str) -> Conclusion:
    across = Setting(name="🌐-72B", tier="remote", node_b=NODE_B)
    match kind:
        case "good":
            return concluded(experiment(3, arms=("no_reuse", "cold", "hit"), setting=across))
        case "tainted":
            return concluded(experiment(3, findings=TAINTED))
        case "one run":
            return concluded(experiment(1, setting=Setting(simulated=True)))
        case "pd":
            return concluded([*alone(), *split(1.4)])
        case "clouds":
            rounds = [
                one
                for at, name in enumerate(CLOUDS)
                for one in experiment(
                    3,
                    seed=at,
                    world=World(hit_s=0.06 + 0.03 * at),
                    setting=Setting(name=name, experiment_id=name),
                )
            ]
            return concluded(rounds, baseline=CLOUDS[0])
        case _:
            return concluded(
                [
                    one
                    for at in range(9)
                    for one in experiment(
                        1,
                        seed=at,
                        findings=TAINTED if at == 8 else (),
                        setting=Setting(name=f"scenario {at}", experiment_id=f"e{at}"),
                    )
                ]
            )


CONCLUSIONS = {kind: made(kind) for kind in KINDS}


def labels(words: Words) -> list[str]:
    return [words.say(name) for name in LABELS]


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", ["text", "md"])
def test_in_a_terminal_and_in_markdown(form: str, kind: str, language: str) -> None:
    words = Words(language)
    text = RENDERERS[form](CONCLUSIONS[kind], Format(language=language))
    screen = "\n".join(text.splitlines()[:LINES])
    assert [one for one in labels(words) if one not in screen] == []
    if kind == "tainted":
        assert screen.count(words.say("mark_contaminated")) >= 3  # each number, and the doubts
    if kind == "one run":
        assert "SIMULATED" in screen.splitlines()[0]
        assert "--repeats 3" in screen
    if kind == "pd":
        assert words.say("modes") in screen and "0.67" in screen
    if kind == "clouds":
        assert all(name in screen for name in CLOUDS) and "+50." in screen
    if kind == "many":
        assert words.say("mark_contaminated") in screen and "scenario 8" in screen


@pytest.mark.parametrize("language", LANGUAGES)
def test_why_two_were_not_paired(language: str) -> None:
    """Other plans with what differs; an old file, which has nothing to pair."""
    words = Words(language)
    old = [
        msgspec.structs.replace(one.stats, run=[], samples=None, name="old")
        for one in experiment(1, setting=Setting(name="old", experiment_id="old"))
    ]
    other = Setting(name="other", experiment_id="other", plan="q", shape="another")
    rounds = [
        *experiment(3),
        *experiment(3, setting=other, shape=Shape(requests=24)),
        *(Round(stats=one, place="old.json:1") for one in old),
    ]
    text = RENDERERS["text"](concluded(rounds, baseline=SCENARIO), Format(language=language))
    screen = " ".join("".join(text.splitlines()[:LINES]).split())
    assert words.say("reason_other_samples").split()[-1] in screen
    assert "24" in screen and words.say("what_shape").split()[0] in screen


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("kind", KINDS)
def test_in_brief(kind: str, language: str) -> None:
    """Each scenario's own: the headline says what a hit is worth."""
    words = Words(language)
    text = RENDERERS["brief"](CONCLUSIONS[kind], Format(language=language))
    scenarios = len(CONCLUSIONS[kind].scenarios)
    for name in ("compared", "target", "how_sure", "doubts"):
        assert text.count(f"  {words.say(name)}") >= scenarios


@pytest.mark.parametrize("kind", KINDS)
def test_in_json_before_everything_else(kind: str) -> None:
    found = json.loads(RENDERERS["json"](CONCLUSIONS[kind], Format()))
    assert [*found][3] == "answers"
    assert [one["name"] for one in found["answers"]] == [one["name"] for one in found["scenarios"]]
    for one in found["answers"]:
        assert one["base"] and one["requests"] and one["ratio"] and one["target"] and one["repeats"]
    assert any(one["invalid"] for one in found["answers"]) == (kind in ("tainted", "many"))


@pytest.mark.parametrize("kind", KINDS)
def test_in_the_first_row_of_a_scenario_of_the_csv(kind: str) -> None:
    rows = [*csv.DictReader(io.StringIO(RENDERERS["csv"](CONCLUSIONS[kind], Format())))]
    for scenario in CONCLUSIONS[kind].scenarios:
        own = [one for one in rows if one["scenario"] == scenario.name]
        assert own[0]["effect"] == scenario.value
        assert own[0]["ratio"] and own[0]["verdict"] and own[0]["repeats"]
        assert bool(own[0]["invalid"]) == bool(scenario.codes("invalid"))
        assert own[1]["target"] == "ttft_reduction=0.6" and own[1]["status"]


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("kind", KINDS)
def test_in_each_suite_of_junit(kind: str, language: str) -> None:
    words = Words(language)
    text = RENDERERS["junit"](CONCLUSIONS[kind], Format(language=language))
    suites = re.findall("<testsuite .*?</testsuite>", text, re.DOTALL)
    assert len(suites) == len(CONCLUSIONS[kind].scenarios)
    for suite in suites:
        assert [one for one in labels(words) if f"{one}: " not in suite] == []
        assert len(suite.splitlines()) <= LINES


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with browsing() as found:
        yield found


@needs_chromium
@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("kind", KINDS)
def test_on_a_phone(browser: Browser, tmp_path: Path, kind: str, language: str) -> None:
    """The last of the five labels begins above the fold, and so does its text."""
    path = tmp_path / "report.html"
    path.write_text(RENDERERS["html"](CONCLUSIONS[kind], Format(language=language)), "utf-8")
    width, height = PHONE
    with opened(browser, path, width=width) as tab:
        for label in labels(Words(language)):
            place = tab.locator("dt", has_text=label).first.bounding_box()
            assert place and place["y"] + 2.2 * place["height"] < height, label
