"""The phrases of a language: none is missing, none is left over, none claims what it may not."""

from __future__ import annotations

import re
import string
from pathlib import Path
from typing import get_args

import kvreport
from kvpipe.records import Code
from kvreport.words import LANGUAGES, Words

SOURCES = Path(kvreport.__file__).parent
OPTIONAL = ("finding_", "condition_", "col_change_", "col_reduced_")
"""What English has no phrase for, because a record or a shorter phrase says it already."""
LITERAL = re.compile(r"""["']([a-z][^"'\n]*)["']""")


def source() -> str:
    modules = [path for path in SOURCES.rglob("*.py") if path.stem not in ("english", "chinese")]
    return "\n".join(path.read_text("utf-8") for path in modules)


def test_every_phrase_is_asked_for() -> None:
    """By its name, or by a name with something in it: `f"status_{result.status}"`."""
    found = set(LITERAL.findall(source()))
    shapes = [
        re.compile(
            ".+".join(map(re.escape, re.split(r"\{.*?\}", one if "{" in one else one + "{}")))
        )
        for one in found
        if "{" in one or one.endswith("_")
    ]
    left = [
        name
        for name in LANGUAGES["en"]
        if name not in found and not any(shape.fullmatch(name) for shape in shapes)
    ]
    assert not left


def test_every_plain_name_that_is_asked_for_is_there() -> None:
    for phrases in LANGUAGES.values():
        names = re.findall(r"""\bsay\(\s*"([^"]+)\"""", source())
        assert len(names) > 50
        assert not [name for name in names if name not in phrases]


def test_languages_have_the_same_phrases_with_the_same_values() -> None:
    def values(phrase: str) -> set[str]:
        return {name for _, name, _, _ in string.Formatter().parse(phrase) if name}

    english = LANGUAGES["en"]
    for phrases in LANGUAGES.values():
        own = {name for name in phrases if name not in english}
        assert all(name.startswith(OPTIONAL) for name in own)
        assert phrases.keys() - own == english.keys()
        assert all(values(phrases[name]) <= values(english[name]) for name in english)


def test_another_language_says_what_each_finding_means() -> None:
    for language, phrases in LANGUAGES.items():
        said = {name.removeprefix("finding_") for name in phrases if name.startswith("finding_")}
        assert language == "en" or said == set(get_args(Code))
        assert all("{message}" in phrases[f"finding_{code}"] for code in said)


def test_no_phrase_names_a_product_that_only_evidence_may_name() -> None:
    assert not [text for text in LANGUAGES["en"].values() if re.search("LMCache|Mooncake", text)]


def test_lists() -> None:
    words = Words("en")
    assert words.listed(["a", "b", "c"]) == "a, b and c"
    assert words.listed(["a"]) == "a" and words.listed([]) == ""
    assert words.names([str(at) for at in range(9)], 3) == "0, 1, 2 and 6 more"


def test_every_finding_has_a_short_name_in_every_language() -> None:
    """A mark in capitals or a reason: a code's own letters would be English in any language."""
    for language, phrases in LANGUAGES.items():
        bare = [
            code
            for code in get_args(Code)
            if f"mark_{code}" not in phrases and f"reason_{code}" not in phrases
        ]
        assert not bare, language
