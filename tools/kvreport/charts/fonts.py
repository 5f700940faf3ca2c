"""Which fonts matplotlib draws names with; Chinese names need one that has their characters."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

FALLBACK = (
    "DejaVu Sans",
    "Noto Sans CJK SC",
    "Noto Sans SC",
    "Source Han Sans SC",
    "WenQuanYi Zen Hei",
    "WenQuanYi Micro Hei",
    "Droid Sans Fallback",
    "PingFang SC",
    "Heiti SC",
    "Microsoft YaHei",
    "SimHei",
    "Noto Emoji",
    "Symbola",
)
"""In order: the Latin one of matplotlib first, then those that have Chinese characters."""
CHINESE = FALLBACK[1:11]
PACKAGE = "fonts-noto-cjk"


def installed() -> list[str]:
    """Those of the list that matplotlib finds on this machine."""
    from matplotlib import font_manager

    there = {font.name for font in font_manager.fontManager.ttflist}
    return [name for name in FALLBACK if name in there]


def missing_for(texts: Iterable[str]) -> str | None:
    """What to say if a text has wide characters and no font for them is there; else None."""
    wide = next((char for text in texts for char in text if _wide(char)), None)
    if wide is None or set(installed()) & set(CHINESE):
        return None
    return (
        f"no font here has {wide!r}: names will show as boxes in the PNG charts; install one "
        f"(Debian: apt-get install {PACKAGE}) and run again; the HTML report is not affected"
    )


def _wide(char: str) -> bool:
    return unicodedata.east_asian_width(char) in "WF" and unicodedata.category(char) == "Lo"


def drawable(text: str) -> str:
    """Text without pictographs, which no font of the list has; 🌐 becomes a sign that all have."""
    shown = text.replace("\N{GLOBE WITH MERIDIANS}", "⊕")
    return "".join(char for char in shown if unicodedata.category(char) != "So" or char in "⊕→")
