"""The shape of a report before it is set: headings, paragraphs, lists, facts and tables.

All text in it is plain. Renderers escape and wrap; nothing here knows Markdown or a terminal.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Align = Literal["left", "right"]


@dataclass(frozen=True, slots=True)
class Heading:
    """Level 1 is the report's title, 2 a chapter, 3 a scenario, 4 a part of it."""

    level: int
    text: str


@dataclass(frozen=True, slots=True)
class Paragraph:
    text: str


@dataclass(frozen=True, slots=True)
class Bullets:
    items: list[str]


@dataclass(frozen=True, slots=True)
class Facts:
    """Labels with what there is to say about each."""

    rows: list[tuple[str, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """`align` has an entry a column; the caption stands above."""

    caption: str
    columns: list[str]
    align: list[Align]
    rows: list[list[str]]


Block = Heading | Paragraph | Bullets | Facts | Table


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    blocks: list[Block] = field(default_factory=list)
