"""Names are data: in bash, in make, on disk."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvmatrix.quoting import UNSAFE_IN_RULES, bash_word, recipe, shown, slug

HOSTILE = [
    "腾讯云-单机多卡-Qwen2.5-72B",
    "a b\tc",
    "new\nline\n",
    "$(touch pwned) `touch pwned` $HOME ${HOME} $$ $",
    "it's \"quoted\" \\ \\n '\\''",
    "a/../../b",
    "#comment; rm -rf / & | > < * ? [a] {b,c} ~ ! %",
    "-n --help",
    "trailing \\",
    "\x1b[31mred\x07\x7f",
    "\n0 digits after\x011",
    "e\u0301 é \u202e\u2028",
    "$(shell touch pwned) $@ $(info x)",
]
TEXT = st.text(
    st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), min_size=1, max_size=60
)


def echoed_by_bash(words: list[str]) -> list[str]:
    line = "printf '%s\\0' " + " ".join(map(bash_word, words))
    assert "\n" not in line
    done = subprocess.run(["bash", "-c", line], capture_output=True, check=True, timeout=60)
    return done.stdout.decode().split("\0")[:-1]


@settings(max_examples=40)
@given(st.lists(TEXT, min_size=1, max_size=8))
def test_bash_reads_a_word_as_it_was(words: list[str]) -> None:
    assert echoed_by_bash(words) == words


def test_make_and_bash_read_hostile_names_as_they_were(tmp_path: Path) -> None:
    rules = ["SHELL := /bin/bash", "all:"]
    for index, name in enumerate(HOSTILE):
        command = f"printf '%s' {bash_word(name)} > {index}"
        rules.append("\t@" + recipe(command))
    (tmp_path / "rules.mk").write_bytes(("\n".join(rules) + "\n").encode())
    subprocess.run(["make", "-f", "rules.mk"], cwd=tmp_path, check=True, timeout=60)
    for index, name in enumerate(HOSTILE):
        assert (tmp_path / str(index)).read_bytes().decode() == name
    assert len(list(tmp_path.iterdir())) == len(HOSTILE) + 1


@given(TEXT)
def test_a_slug_is_safe_in_make_and_on_disk(name: str) -> None:
    made = slug(name)
    assert not UNSAFE_IN_RULES.search(made)
    assert "/" not in made
    assert not made.startswith(("-", "."))
    assert len(made.encode()) <= 255


@pytest.mark.parametrize(
    ("one", "other"),
    [("a b", "a/b"), ("a\n", "a"), ("é", "e\u0301"), ("x" * 100, "x" * 101), ("/", "$")],
)
def test_look_alikes_stay_apart(one: str, other: str) -> None:
    assert slug(one) != slug(other)


@given(TEXT)
def test_a_shown_name_is_one_line(name: str) -> None:
    assert len((shown(name) or "x").splitlines()) == 1
