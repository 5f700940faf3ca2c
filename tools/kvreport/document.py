"""The shape of a report before it is set: headings, paragraphs, lists, facts, tables, figures.

All text in it is plain. Renderers escape and wrap; nothing here knows Markdown or a terminal.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from kvreport.charts.chart import Chart

Align = Literal["left", "right"]


@dataclass(frozen=True, slots=True)
class Heading:
    """Level 1 is the report's title, 2 a chapter, 3 a scenario, 4 a part of it.

    `anchor` names a scenario's details, so that a line about it can lead there.
    """

    level: int
    text: str
    anchor: str = ""


@dataclass(frozen=True, slots=True)
class Paragraph:
    text: str


@dataclass(frozen=True, slots=True)
class Bullets:
    items: list[str]


@dataclass(frozen=True, slots=True)
class Facts:
    """Labels with what there is to say about each; `lead` is the row that says the most."""

    rows: list[tuple[str, str]]
    lead: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """`align` has an entry a column; the caption stands above.

    `sortable`: a column's figures share a unit. A row may have an anchor that it leads to (`links`)
    and codes that it can be found by (`tags`); both are empty or have an entry a row.
    """

    caption: str
    columns: list[str]
    align: list[Align]
    rows: list[list[str]]
    sortable: bool = False
    links: list[str] = field(default_factory=list)
    tags: list[list[str]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Figure:
    """A chart. `path` leads to its picture from where the report lies; empty: it is drawn in."""

    chart: Chart
    path: str = ""


Block = Heading | Paragraph | Bullets | Facts | Table | Figure


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    blocks: list[Block] = field(default_factory=list)
