"""How wide text is on a terminal, and what of it may be shown at all.

Widths by East Asian Width (UAX #11): wide and full-width characters take two cells, combining
marks and joiners none. Control characters, and the marks that turn the reading direction round,
never reach a reader: names in records are anybody's data.
"""

from __future__ import annotations

import unicodedata

NBSP = "\u00a0"


def clean(text: str) -> str:
    """One line without control characters; the no-break spaces of figures stay."""
    shown = "".join(_shown(char) for char in text)
    return " ".join(part for part in shown.split(" ") if part)


def _shown(char: str) -> str:
    category = unicodedata.category(char)
    if category in ("Cc", "Zl", "Zp"):
        return " "
    if category in ("Cs", "Co", "Cn"):
        return "\ufffd"
    # Joiners belong to emoji and to scripts; every other format character only hides or turns.
    return "" if category == "Cf" and char not in "\u200c\u200d" else char


def width(text: str) -> int:
    """Cells that a text takes."""
    return sum(_cells(char) for char in text)


def beginning(text: str, cells: int) -> str:
    """As much of a text as takes at most so many cells, in the time of its length."""
    used = 0
    for at, char in enumerate(text):
        used += _cells(char)
        if used > cells:
            return text[:at]
    return text


def _cells(char: str) -> int:
    if unicodedata.combining(char) or unicodedata.category(char) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def pad(text: str, cells: int, align: str = "left") -> str:
    fill = " " * max(0, cells - width(text))
    return fill + text if align == "right" else text + fill


def wrap(text: str, cells: int, *, soft: bool = False) -> list[str]:
    """Lines of at most `cells`, broken at plain spaces; a word that is too long is cut.

    `soft` breaks names too, between wide characters and behind `-`, `_` and `/` inside a word.
    """
    lines: list[str] = []
    line = ""
    for word in text.split(" "):
        for place, part in enumerate(parts(word) if soft else [word]):
            grown = f"{line}{'' if place or not line else ' '}{part}"
            if width(grown) <= cells:
                line = grown
                continue
            if line:
                lines.append(line)
            *full, line = _pieces(part, cells)
            lines += full
    return [*lines, line]


def parts(word: str) -> list[str]:
    """A word where it may be broken softly; a figure and its sign or unit stay whole."""
    found = [""]
    for at, char in enumerate(word):
        before = word[:at]
        if before and (_between_wide(before[-1], char) or _behind_sign(before, char)):
            found.append("")
        found[-1] += char
    return found


def _between_wide(one: str, two: str) -> bool:
    return NBSP not in (one, two) and 2 in (_cells(one), _cells(two)) and _cells(two) > 0


def _behind_sign(before: str, char: str) -> bool:
    return before[-1] in "-_/" and before[-2:-1].isalnum() and char.isalnum()


def _pieces(word: str, cells: int) -> list[str]:
    """A word in pieces that fit."""
    pieces, piece = [], ""
    for char in word:
        if piece and width(piece + char) > cells:
            pieces.append(piece)
            piece = ""
        piece += char
    return [*pieces, piece]
