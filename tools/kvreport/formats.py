"""The formats that a conclusion can be set in, by name. A new one is a line here and a module."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from kvreport import markdown, text
from kvreport.conclusion import Conclusion
from kvreport.report import document_of
from kvreport.words import Words


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What a renderer may know of where its output goes."""

    language: str = "en"
    columns: int = 80
    colour: bool = False


def as_text(conclusion: Conclusion, setting: Setting) -> str:
    document = document_of(conclusion, Words(setting.language))
    return text.render(document, columns=setting.columns, colour=setting.colour)


def as_markdown(conclusion: Conclusion, setting: Setting) -> str:
    return markdown.render(document_of(conclusion, Words(setting.language)))


def as_json(conclusion: Conclusion, _setting: Setting) -> str:
    """Everything that the report knows; times in seconds, intervals of log ratios."""
    return msgspec.json.format(msgspec.json.encode(conclusion), indent=2).decode() + "\n"


RENDERERS: dict[str, Callable[[Conclusion, Setting], str]] = {
    "text": as_text,
    "md": as_markdown,
    "json": as_json,
}
FILES = {"text": "report.txt", "md": "report.md", "json": "report.json"}
