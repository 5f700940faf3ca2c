"""README.zh.md says what README.md says: the same commands, outputs, tables and links."""

from __future__ import annotations

import re

from tests.family import ROOT, TOOLS

ENGLISH = (ROOT / "README.md").read_text(encoding="utf-8")
CHINESE = (ROOT / "README.zh.md").read_text(encoding="utf-8")
FENCED = re.compile(r"^```\w+\n.*?^```$", re.DOTALL | re.MULTILINE)
INDENTED = re.compile(r"^    \S.*$", re.MULTILINE)
LINK = re.compile(r"\]\(([^)]+)\)")


def test_commands_and_outputs_are_the_same() -> None:
    assert FENCED.findall(CHINESE) == FENCED.findall(ENGLISH)
    assert INDENTED.findall(CHINESE) == INDENTED.findall(ENGLISH)
    assert len(FENCED.findall(ENGLISH)) >= 3


def test_they_have_the_same_parts() -> None:
    for pattern in (r"^#+ ", r"^\| ", r"^- "):
        parts = [len(re.findall(pattern, text, re.M)) for text in (ENGLISH, CHINESE)]
        assert parts[0] == parts[1], pattern


def test_they_link_to_the_same_pages_in_the_same_order() -> None:
    here = {"README.md", "README.zh.md"}
    english, chinese = (
        [link for link in LINK.findall(text) if link not in here] for text in (ENGLISH, CHINESE)
    )
    assert chinese == english


def test_figures_are_the_same() -> None:
    """Every measured figure of one stands in the other."""
    figures = re.compile(r"\d+(?:\.\d+)? ?(?:ms|%|s\b)|2026-\d\d-\d\d")
    assert set(figures.findall(CHINESE)) == set(figures.findall(ENGLISH))


def test_every_tool_and_guide_is_named() -> None:
    for tool in TOOLS:
        assert f"tools/{tool}/README.md" in ENGLISH
    guides = {path.name for path in (ROOT / "docs").glob("*.md")}
    assert {f"docs/{name}" for name in guides} <= set(LINK.findall(ENGLISH))
