"""The HTML report: whole in one file, and what a reader can do with it in a real browser."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest
from playwright.sync_api import Browser
from tests.browser import browsing, needs_chromium, opened
from tests.kvreport.rounds import Setting, Shape, experiment, finding, lines
from tests.kvreport.test_setting import HOSTILE, concluded, several

from kvreport.charts import charts_of
from kvreport.experiments import group
from kvreport.formats import RENDERERS
from kvreport.formats import Setting as Format
from kvreport.rounds import Round
from kvreport.words import LANGUAGES, Words

SMALL = Shape(requests=12, contexts=4, uniques=0, sentinels=3)
VOID = {"meta", "br", "path", "rect", "circle", "polygon", "input", "link"}


def page(rounds: list[Round], language: str = "en") -> str:
    conclusion = concluded(rounds)
    charts = charts_of(conclusion, group(rounds), Words(language))
    return RENDERERS["html"](conclusion, Format(language=language, charts=charts))


def many(count: int) -> list[Round]:
    """Scenarios whose hits differ, every fifth contaminated."""
    found: list[Round] = []
    for number in range(count):
        tainted = [finding("contaminated", "invalid", "it was warm")] if number % 5 == 4 else []
        setting = Setting(name=f"scenario {number:03d}", experiment_id=f"e{number}")
        found += experiment(1, seed=number, shape=SMALL, setting=setting, findings=tainted)
    return found


class Balance(HTMLParser):
    """Fails where an element is closed that is not open."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag


@pytest.mark.parametrize("language", sorted(LANGUAGES))
def test_every_element_is_closed_and_nothing_comes_from_outside(language: str) -> None:
    text = page(several(), language)
    balance = Balance()
    balance.feed(text)
    assert balance.open == []
    assert f'<html lang="{language}">' in text
    assert not re.search(r"""(?:src|href)\s*=\s*["']?[^"'#\s]""", text)
    assert text.count('href="#') > 1
    assert "@import" not in text and "url(" not in text
    assert "default-src 'none'" in text and "unsafe-inline" not in text
    assert " style=" not in text  # the policy would not let it act


def test_names_stay_text() -> None:
    text = page(several())
    assert "<script>alert" not in text and "&lt;script&gt;alert(1)" in text
    assert not re.search(r"[\x00-\x08\x0b-\x1f\u202e]", text)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with browsing() as found:
        yield found


def written(folder: Path, text: str) -> Path:
    path = folder / "report.html"
    path.write_text(text, encoding="utf-8")
    return path


@needs_chromium
@pytest.mark.parametrize("width", [390, 1440])
def test_a_browser_finds_no_fault(browser: Browser, tmp_path: Path, width: int) -> None:
    """No error on the console (a policy that forbids the page's own style would say so), no
    request but the file, no name that runs, and nothing wider than a phone."""
    path = written(tmp_path, page(several()))
    said: list[str] = []
    asked: list[str] = []
    with opened(browser, path, width=width) as tab:
        tab.on("console", lambda message: said.append(message.text))
        tab.on("pageerror", lambda error: said.append(str(error)))
        tab.on("dialog", lambda dialog: said.append(dialog.message))
        tab.on("request", lambda request: asked.append(request.url))
        tab.reload()
        assert (said, asked) == ([], [path.resolve().as_uri()])
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        limit = "getComputedStyle(document.querySelector('main')).maxWidth"
        assert tab.evaluate(limit) != "none"  # the style sheet is in force


@needs_chromium
def test_the_index_sorts_and_filters(browser: Browser, tmp_path: Path) -> None:
    path = written(tmp_path, page(many(20)))
    with opened(browser, path) as tab:
        names = "[...document.querySelectorAll('table[data-index] tbody tr')]"
        shown = f"{names}.filter(row => !row.hidden).map(row => row.cells[0].textContent)"
        saved = f"{names}.map(row => parseFloat(row.cells[1].textContent))"
        head = tab.locator("table[data-index] thead th").nth(1)
        head.get_by_role("button").click()
        rising = tab.evaluate(saved)
        assert len(rising) == 20 and rising == sorted(rising)
        assert head.get_attribute("aria-sort") == "ascending"
        head.get_by_role("button").press("Enter")  # by keyboard too
        assert tab.evaluate(saved) == sorted(rising, reverse=True)
        tab.locator(".tools select").select_option("contaminated")
        assert sorted(tab.evaluate(shown)) == [f"scenario {at:03d}" for at in (4, 9, 14, 19)]
        tab.locator(".tools input").fill("014")
        assert tab.evaluate(shown) == ["scenario 014"]
        tab.locator("table[data-index] a:visible").click()
        is_open = "document.getElementById('scenario-15').open"
        tab.wait_for_function(is_open)  # the browser tells of the new address after the click
        assert tab.evaluate(is_open)
        assert tab.locator("details:visible").count() == 1


@needs_chromium
def test_figures_show_on_hover_focus_and_print(browser: Browser, tmp_path: Path) -> None:
    path = written(tmp_path, page(several()))
    with opened(browser, path, dark=True) as tab:
        bar = tab.locator("svg .mark").first
        bar.focus()
        assert tab.locator("#tip").inner_text() == bar.get_attribute("data-tip")
        tab.keyboard.press("Escape")
        assert tab.locator("#tip").is_hidden()
        bar.locator("rect").hover()
        assert tab.locator("#tip").is_visible()
        assert tab.evaluate("getComputedStyle(document.body).backgroundColor") != (
            "rgb(255, 255, 255)"
        )
        closed = "document.querySelectorAll('details:not([open])').length"
        before = tab.evaluate(closed)
        assert before > 0
        tab.evaluate("dispatchEvent(new Event('beforeprint'))")
        assert tab.evaluate(closed) == 0
        tab.evaluate("dispatchEvent(new Event('afterprint'))")
        assert tab.evaluate(closed) == before


@needs_chromium
def test_what_a_screen_reader_is_told(browser: Browser, tmp_path: Path) -> None:
    """Each chart and each table has a name, each table its headers, and headings skip no level."""
    path = written(tmp_path, page(several()))
    with opened(browser, path) as tab:
        assert tab.locator("svg").count() == tab.locator("svg[role=img][aria-label]").count() > 0
        assert tab.locator("table").count() == tab.locator("table caption").count() > 0
        assert tab.locator("tbody tr").count() == tab.locator("tbody th[scope=row]").count()
        levels = tab.evaluate(
            "[...document.querySelectorAll('h1,h2,h3,h4')].map(head => +head.tagName[1])"
        )
        assert levels[0] == 1 and levels.count(1) == 1
        assert all(two - one <= 1 for one, two in pairwise(levels))


def test_two_hundred_scenarios_stay_one_readable_page(tmp_path: Path) -> None:
    """One line each, an index, details that are closed, and of moderate size."""
    text = page(many(200))
    assert text.count('<details id="scenario-') == 200 and "<details open" not in text
    assert len(text) < 6_000_000
    assert lines(many(1)) and HOSTILE not in text
