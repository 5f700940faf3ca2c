"""The formats that a conclusion can be set in, by name. A new one is a line here and a module."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from kvreport import html, junit, markdown, spreadsheet, text
from kvreport.brief import brief_of
from kvreport.charts.chart import Charts
from kvreport.conclusion import Conclusion
from kvreport.report import document_of
from kvreport.words import Words


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What a renderer may know of where its output goes."""

    language: str = "en"
    columns: int = 80
    colour: bool = False
    charts: Charts = field(default_factory=Charts)
    pictures: str = ""
    """Where the charts' files lie, seen from the report; empty if none are written."""


def as_text(conclusion: Conclusion, setting: Setting) -> str:
    document = document_of(conclusion, Words(setting.language))
    return text.render(document, columns=setting.columns, colour=setting.colour)


def as_brief(conclusion: Conclusion, setting: Setting) -> str:
    """The answer in a sentence or two, and the doubts."""
    document = brief_of(conclusion, Words(setting.language))
    return text.render(document, columns=setting.columns, colour=setting.colour)


def as_markdown(conclusion: Conclusion, setting: Setting) -> str:
    words = Words(setting.language)
    charts = setting.charts if setting.pictures else None
    return markdown.render(document_of(conclusion, words, charts, setting.pictures))


def as_html(conclusion: Conclusion, setting: Setting) -> str:
    words = Words(setting.language)
    wording = html.Wording(
        language=setting.language,
        marks=[words.phrases[name] for name in words.phrases if name.startswith("mark_")],
        **{name: words.say(f"page_{name}") for name in ("skip", "filter", "all", "search")},
    )
    return html.render(document_of(conclusion, words, setting.charts), wording)


def as_json(conclusion: Conclusion, _setting: Setting) -> str:
    """Everything that the report knows; times in seconds, intervals of log ratios."""
    return msgspec.json.format(msgspec.json.encode(conclusion.answered), indent=2).decode() + "\n"


def as_csv(conclusion: Conclusion, _setting: Setting) -> str:
    return spreadsheet.render(conclusion)


def as_junit(conclusion: Conclusion, setting: Setting) -> str:
    return junit.render(conclusion, Words(setting.language))


RENDERERS: dict[str, Callable[[Conclusion, Setting], str]] = {
    "text": as_text,
    "brief": as_brief,
    "md": as_markdown,
    "html": as_html,
    "json": as_json,
    "csv": as_csv,
    "junit": as_junit,
}
FILES = {
    "text": "report.txt",
    "brief": "brief.txt",
    "md": "report.md",
    "html": "report.html",
    "json": "report.json",
    "csv": "report.csv",
    "junit": "report.xml",
}
