"""Names as data: how a text stands in a bash command, in a make rule, on disk and on a line."""

from __future__ import annotations

import hashlib
import re
import unicodedata

GUARD = "setpriv --pdeathsig TERM"
"""Before every command of a recipe: it dies with the shell that started it."""
PLAIN = re.compile(r"[A-Za-z0-9_@%+=:,./-]+")
UNSAFE_IN_RULES = re.compile(r"[\s$#%:;=|&()<>*?\[\]~\\'\"`!{}\x00-\x1f\x7f]")
READABLE = 40  # characters of a slug; four bytes each stay below the 255 of a file's name


def bash_word(text: str) -> str:
    """One word of bash, on one line whatever is in it: a recipe ends at a newline."""
    if PLAIN.fullmatch(text):
        return text
    if any(ord(sign) < 32 or ord(sign) == 127 for sign in text):
        return "$'" + "".join(map(_escaped, text)) + "'"
    return "'" + text.replace("'", "'\\''") + "'"


def _escaped(sign: str) -> str:
    if sign in "\\'":
        return f"\\{sign}"
    # Always three octal digits: a digit behind it must not be taken for one of them.
    return f"\\{ord(sign):03o}" if ord(sign) < 32 or ord(sign) == 127 else sign


def recipe(text: str) -> str:
    """A shell command as make must read it."""
    return text.replace("$", "$$")


def slug(name: str) -> str:
    """A folder for a name: its readable part, and a hash that keeps look-alikes apart."""
    shown = re.sub(r"[^\w.-]+", "-", unicodedata.normalize("NFC", name))
    shown = shown[:READABLE].strip("-.") or "scenario"
    return f"{shown}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def shown(name: str) -> str:
    """The name on one line of a terminal: control signs are spelt out."""
    return "".join(
        sign if unicodedata.category(sign)[0] != "C" and sign not in "\u2028\u2029" else
        sign.encode("unicode_escape").decode()
        for sign in name
    )  # fmt: skip
