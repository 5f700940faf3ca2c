"""Sets a document as GitHub-flavoured Markdown. Whatever a name contains stays text."""

from __future__ import annotations

import re
from collections.abc import Iterator

from kvreport.display import NBSP, clean
from kvreport.document import Block, Bullets, Document, Facts, Figure, Heading, Paragraph, Table

SPECIAL = re.compile(r"([\\`*\[\]|~$])")
# Underscores inside a word are no emphasis in GitHub's Markdown: scenario names stay readable.
UNDERSCORE = re.compile(r"(?<!\w)_|_(?!\w)")
# What would begin a list, a heading, a rule or a quotation at the head of a line.
LEADING = re.compile(r"^(?=[-+=#])|^(\d+)(?=[.)](?: |$))")
ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}


def render(document: Document) -> str:
    # A chart without a file of its own cannot be shown here.
    shown = [one for one in document.blocks if not isinstance(one, Figure) or one.path]
    return "\n\n".join("\n".join(_lines(block)) for block in shown) + "\n"


def escape(text: str) -> str:
    """One line of text as Markdown that shows exactly it."""
    text = clean(text).replace(NBSP, " ")
    text = re.sub(r"[&<>]", lambda match: ENTITIES[match[0]], text)
    return UNDERSCORE.sub(r"\\_", SPECIAL.sub(r"\\\1", text))


def escape_line(text: str) -> str:
    """The same for text that begins a line, where a dash or a number would begin a list."""
    return LEADING.sub(lambda match: f"{match[1] or ''}\\", escape(text))


def _lines(block: Block) -> Iterator[str]:
    match block:
        case Heading():
            yield f"{'#' * block.level} {escape_line(block.text)}"
        case Paragraph():
            yield escape_line(block.text)
        case Bullets():
            yield from (f"- {escape_line(item)}" for item in block.items)
        case Facts():
            yield from (f"- **{escape(label)}:** {escape(text)}" for label, text in block.rows)
        case Table():
            yield from _table(block)
        case Figure():
            yield f"![{escape(block.chart.title)}](<{block.path}>)"
            yield ""
            yield f"{escape_line(block.chart.note)}"


def _table(table: Table) -> Iterator[str]:
    yield f"**{escape(table.caption)}**"
    yield ""
    yield _row(table.columns)
    yield _row(["---:" if align == "right" else ":---" for align in table.align], raw=True)
    yield from (_row(row) for row in table.rows)


def _row(cells: list[str], *, raw: bool = False) -> str:
    return f"| {' | '.join(cell if raw else escape(cell) for cell in cells)} |"
