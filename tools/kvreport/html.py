"""Sets a document as one self-contained HTML page.

Nothing is loaded from anywhere, and a content security policy forbids it: style and script stand in
the page and are allowed by their hashes alone. Whatever a name contains stays text.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from importlib import resources

from kvreport.charts import svg
from kvreport.display import NBSP, clean
from kvreport.document import (
    Block,
    Bullets,
    Document,
    Facts,
    Figure,
    Heading,
    Paragraph,
    Table,
)

OPEN_MOST = 4
"""Details of more scenarios than this begin closed: the index leads to them."""
LONG_CELL = 24
FLAG = re.compile(r"(?<![\w-])--[a-z][a-z-]*")
"""A flag of a tool, which browsers would break behind its dashes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wording:
    """The page's own words. `marks` are the words that stand beside a doubted number."""

    language: str
    skip: str
    filter: str
    all: str
    search: str
    marks: Sequence[str] = ()


def render(document: Document, wording: Wording) -> str:
    style, script = _asset("page.css"), _asset("page.js")
    policy = (
        f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    title = next((one.text for one in document.blocks if isinstance(one, Heading)), "")
    body = "\n".join(_Setter(document, wording).lines())
    data = " ".join(
        f'data-{name}="{_attribute(getattr(wording, name))}"'
        for name in ("filter", "all", "search")
    )
    return (
        f'<!doctype html>\n<html lang="{wording.language}">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="referrer" content="no-referrer">\n'
        f"<title>{escape(clean(title))}</title>\n<style>{style}</style>\n</head>\n<body {data}>\n"
        f'<a class="skip" href="#main">{escape(wording.skip)}</a>\n<main id="main">\n{body}\n'
        f"</main>\n<script>{script}</script>\n</body>\n</html>\n"
    )


def _asset(name: str) -> str:
    return (resources.files("kvreport") / "page" / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _attribute(text: str) -> str:
    return escape(clean(text), quote=True)


class _Setter:
    """Walks through the blocks; keeps which elements are open."""

    def __init__(self, document: Document, wording: Wording) -> None:
        self.blocks = document.blocks
        folded = sum(isinstance(one, Heading) and bool(one.anchor) for one in self.blocks)
        self.open = folded <= OPEN_MOST
        self.closing: list[tuple[int, str]] = []
        marks = sorted(map(clean, wording.marks), key=len, reverse=True)
        self.marks = re.compile("|".join(map(re.escape, marks))) if marks else None
        self.indexed = False

    def lines(self) -> Iterator[str]:
        figures: list[Figure] = []
        for block in self.blocks:
            if isinstance(block, Figure | Table) and self.carded:
                yield from self._close(3)
            if isinstance(block, Figure):
                figures.append(block)
                continue
            yield from self._figures(figures)
            figures = []
            yield from self._block(block)
        yield from self._figures(figures)
        yield from self._close(0)

    def _figures(self, figures: Sequence[Figure]) -> Iterator[str]:
        """Charts that follow each other stand side by side where there is room."""
        if not figures:
            return
        yield '<div class="charts">'
        for one in figures:
            chart = one.chart
            title = self._text(chart.title)
            if chart.simulated:
                title += f' <strong class="doubt">{escape(chart.simulated)}</strong>'
            yield (
                f"<figure><figcaption>{title}</figcaption>"
                f'{svg.draw(chart)}<p class="note">{self._text(chart.note)}</p></figure>'
            )
        yield "</div>"

    def _block(self, block: Block) -> Iterator[str]:
        match block:
            case Heading():
                yield from self._heading(block)
            case Paragraph():
                yield f"<p>{self._text(block.text)}</p>"
            case Bullets():
                items = "".join(f"<li>{self._text(one)}</li>" for one in block.items)
                yield f"<ul>{items}</ul>"
            case Facts():
                yield from self._facts(block)
            case Table():
                yield from self._table(block)

    @property
    def carded(self) -> bool:
        """Whether a card is open: it holds sentences and facts, not tables and charts."""
        return bool(self.closing) and self.closing[-1] == (3, "</div>")

    def _close(self, level: int) -> Iterator[str]:
        """Ends what was opened by headings of this level and below."""
        while self.closing and self.closing[-1][0] >= level:
            yield self.closing.pop()[1]

    def _heading(self, block: Heading) -> Iterator[str]:
        yield from self._close(block.level)
        head = f"<h{block.level}>{self._text(block.text)}</h{block.level}>"
        if block.level == 2:
            yield f"<section>{head}"
            self.closing.append((2, "</section>"))
        elif block.anchor:
            state = " open" if self.open else ""
            yield (f'<details id="{_attribute(block.anchor)}"{state}><summary>{head}</summary>')
            self.closing.append((3, "</details>"))
        elif block.level == 3:
            yield f'<div class="card">{head}'
            self.closing.append((3, "</div>"))
        else:
            yield head

    def _facts(self, block: Facts) -> Iterator[str]:
        yield "<dl>"
        for at, (label, text) in enumerate(block.rows):
            style = ' class="lead"' if at == block.lead else ""
            yield f"<dt{style}>{self._text(label)}</dt><dd{style}>{self._text(text)}</dd>"
        yield "</dl>"

    def _table(self, table: Table) -> Iterator[str]:
        flags = " data-sort" if table.sortable and len(table.rows) > 1 else ""
        if table.tags and not self.indexed:
            flags += " data-index"
            self.indexed = True
        caption = clean(table.caption)
        yield (
            f'<div class="scroll" role="region" tabindex="0" aria-label="{_attribute(caption)}">'
            f"<table{flags}><caption>{self._text(caption)}</caption>"
        )
        head = "".join(
            f'<th scope="col" class="{align}">{self._text(text)}</th>'
            for text, align in zip(table.columns, table.align, strict=True)
        )
        yield f"<thead><tr>{head}</tr></thead><tbody>"
        for number, row in enumerate(table.rows):
            yield self._row(table, number, row)
        yield "</tbody></table></div>"

    def _row(self, table: Table, number: int, row: Sequence[str]) -> str:
        tags = ""
        if table.tags:
            codes = _attribute(" ".join(table.tags[number]))
            tags = f' data-tags="{codes}"'
        cells = []
        for at, (text, align) in enumerate(zip(row, table.align, strict=True)):
            shown = self._text(text)
            if at == 0:
                link = table.links[number] if table.links else ""
                if link:
                    shown = f'<a href="#{_attribute(link)}">{shown}</a>'
                cells.append(f'<th scope="row">{shown}</th>')
                continue
            long = " long" if align == "right" and len(text) > LONG_CELL else ""
            cells.append(f'<td class="{align}{long}{_tone(text)}">{shown}</td>')
        return f"<tr{tags}>" + "".join(cells) + "</tr>"

    def _text(self, text: str) -> str:
        """One line of text, its doubting words set apart."""
        shown = clean(text)
        if self.marks is None:
            return _escaped(shown)
        parts, last = [], 0
        for found in self.marks.finditer(shown):
            parts.append(_escaped(shown[last : found.start()]))
            parts.append(f'<strong class="doubt">{_escaped(found[0])}</strong>')
            last = found.end()
        return "".join([*parts, _escaped(shown[last:])])


def _escaped(text: str) -> str:
    return FLAG.sub(r'<span class="flag">\g<0></span>', escape(text).replace(NBSP, "&nbsp;"))


def _tone(cell: str) -> str:
    return " good" if cell.startswith("✅") else " bad" if cell.startswith("❌") else ""
