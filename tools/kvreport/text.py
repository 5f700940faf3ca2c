"""Sets a document as plain text for a terminal or a log, as wide as asked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from kvreport.display import NBSP, clean, pad, parts, width, wrap
from kvreport.document import Block, Bullets, Document, Facts, Figure, Heading, Paragraph, Table

PROSE = 100
"""Longer lines than this are hard to read, however wide the terminal."""
GAP = "  "
NARROWEST = 40
LEAST = (8, 4)
"""Cells that a column keeps where its words must be cut, first and last."""
BOLD, PLAIN = "\x1b[1m", "\x1b[0m"


def render(document: Document, *, columns: int = 80, colour: bool = False) -> str:
    """The document as lines of at most `columns` cells; `colour` makes headings bold."""
    setter = _Setter(max(columns, NARROWEST), bold=colour)
    blocks = [block for block in document.blocks if not isinstance(block, Figure)]
    parts = ["\n".join(setter.lines(block)) for block in blocks]
    return _spaced(blocks, parts).replace(NBSP, " ") + "\n"


def _spaced(blocks: Sequence[Block], parts: list[str]) -> str:
    """An empty line between blocks, two before a chapter."""
    text = ""
    for block, part in zip(blocks, parts, strict=True):
        if text:
            text += "\n\n\n" if isinstance(block, Heading) and block.level <= 2 else "\n\n"
        text += part
    return text


class _Setter:
    def __init__(self, columns: int, *, bold: bool) -> None:
        self.columns = columns
        self.prose = min(columns, PROSE)
        self.bold = bold

    def lines(self, block: Block) -> Iterator[str]:
        match block:
            case Heading():
                yield from self.heading(block)
            case Paragraph():
                yield from wrap(clean(block.text), self.prose)
            case Bullets():
                for item in block.items:
                    yield from self.hung("- ", clean(item))
            case Facts():
                yield from self.facts(block)
            case Table():
                yield from self.table(block)
            case Figure():  # a chart is no text; its figures stand in the tables
                return

    def heading(self, block: Heading) -> Iterator[str]:
        lines = wrap(clean(block.text), self.prose)
        rule = {1: "=", 2: "-"}.get(block.level)
        for line in lines:
            yield f"{BOLD}{line}{PLAIN}" if self.bold else line
        if rule:
            yield rule * max(width(line) for line in lines)

    def hung(self, label: str, text: str) -> Iterator[str]:
        """A label, and the text beside it under itself."""
        indent = width(label)
        first, *rest = wrap(text, max(self.prose - indent, NARROWEST // 2))
        yield label + first
        yield from (" " * indent + line for line in rest)

    def facts(self, block: Facts) -> Iterator[str]:
        rows = [(clean(label), clean(text)) for label, text in block.rows]
        indent = min(max(width(label) for label, _ in rows), self.prose // 3)
        for label, text in rows:
            yield from self.hung(f"  {pad(label, indent)}{GAP}", text)

    def table(self, table: Table) -> Iterator[str]:
        head = [clean(text) for text in table.columns]
        rows = [[clean(text) for text in row] for row in table.rows]
        widths = fitted(head, rows, self.columns - len(GAP) * (len(head) - 1))
        yield from wrap(clean(table.caption), self.prose)
        yield from self.row(head, widths, table)
        yield GAP.join("-" * cells for cells in widths)
        for row in rows:
            yield from self.row(row, widths, table)

    def row(self, cells: list[str], widths: list[int], table: Table) -> Iterator[str]:
        wrapped = [wrap(text, cells, soft=True) for text, cells in zip(cells, widths, strict=True)]
        for number in range(max(len(lines) for lines in wrapped)):
            parts = [
                pad(lines[number] if number < len(lines) else "", cells, align)
                for lines, cells, align in zip(wrapped, widths, table.align, strict=True)
            ]
            yield GAP.join(parts).rstrip()


def fitted(head: list[str], rows: list[list[str]], room: int) -> list[int]:
    """Widths of the columns: the widest is cut first, at spaces as long as that is enough."""
    columns = list(zip(head, *rows, strict=True))
    widths = [max(map(width, column)) for column in columns]
    words = [max(map(_longest, column)) for column in columns]
    floors = [words, *([min(cells, most) for cells in words] for most in LEAST)]
    for least in floors:
        while sum(widths) > room:
            slack = [at for at in range(len(widths)) if widths[at] > least[at]]
            if not slack:
                break
            widths[max(slack, key=lambda at: widths[at])] -= 1
    return widths


def _longest(text: str) -> int:
    return max(width(part) for word in text.split(" ") for part in parts(word))
