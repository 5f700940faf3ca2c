"""Documentation that cannot go stale: blocks are made anew and compared, names are looked up."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from tests.family import ROOT, SCRIPTS, TOOLS

HEADINGS = [
    "Name",
    "Synopsis",
    "Description",
    "Options",
    "Input",
    "Output",
    "Exit status",
    "Environment",
    "Examples",
    "Streams or buffers",
    "See also",
]


def load(path: Path) -> ModuleType:
    """A script of docs/, which is no package."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


build = load(ROOT / "docs" / "build.py")


# --- generated blocks ----------------------------------------------------------------------------


@pytest.mark.parametrize("page", build.pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_generated_blocks_are_fresh(page: Path) -> None:
    stale = [block.place for block in build.refresh(page, write=False) if block.is_stale]
    assert not stale, "make docs"


def test_there_are_blocks() -> None:
    """A guard on the guard: a marker that is spelt otherwise would check nothing."""
    counts = {page: len(build.BLOCK.findall(page.read_text("utf-8"))) for page in build.pages()}
    assert counts[ROOT / "schemas" / "README.md"] >= 2
    for tool in TOOLS:
        assert counts.get(manual(tool), 0) >= 1, f"{tool}: no generated block in its README"


def test_a_stale_block_is_seen_and_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "README.md"
    page.write_text("a\n<!-- generated: echo new -->\nold\n<!-- end -->\nz\n", encoding="utf-8")
    monkeypatch.setattr(build, "ROOT", tmp_path)
    (block,) = build.refresh(page, write=False)
    assert (block.is_stale, block.place) == (True, "README.md:2")
    build.refresh(page, write=True)
    fresh = "a\n<!-- generated: echo new -->\n```text\nnew\n```\n<!-- end -->\nz\n"
    assert page.read_text(encoding="utf-8") == fresh
    assert not any(block.is_stale for block in build.refresh(page, write=True))


@pytest.mark.parametrize(
    "text",
    [
        "<!-- generated: echo -->\nno end\n",
        "<!-- generated: echo -->\n<!-- generated: echo -->\n<!-- end -->\n",
        "<!-- end -->\n",
    ],
)
def test_a_block_without_an_end_is_an_error(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else everything up to the next block's end would be taken for its output."""
    page = tmp_path / "README.md"
    page.write_text(text, encoding="utf-8")
    monkeypatch.setattr(build, "ROOT", tmp_path)
    with pytest.raises(build.StaleError, match=r"README\.md: a generated block has no"):
        build.refresh(page, write=True)
    assert page.read_text(encoding="utf-8") == text


def test_a_command_that_fails_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "README.md"
    page.write_text("<!-- generated: false | cat -->\n<!-- end -->\n", encoding="utf-8")
    monkeypatch.setattr(build, "ROOT", tmp_path)
    with pytest.raises(build.StaleError, match="exited 1"):
        build.refresh(page, write=True)


# --- manual pages --------------------------------------------------------------------------------


def manual(tool: str) -> Path:
    return ROOT / "tools" / tool / "README.md"


class _Seen(Exception):
    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self.parser = parser


def parser_of(tool: str, monkeypatch: pytest.MonkeyPatch) -> argparse.ArgumentParser:
    """The tool's own parser, caught as it begins to parse."""

    def catch(self: argparse.ArgumentParser, *_: object) -> None:
        raise _Seen(self)

    module, _, function = SCRIPTS[tool].partition(":")
    main = getattr(importlib.import_module(module), function)
    with monkeypatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", catch)
        patch.setattr(sys, "argv", [tool])
        with pytest.raises(_Seen) as seen:
            main()
    return seen.value.parser


def actions_of(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                yield from actions_of(inner)


@pytest.mark.parametrize("tool", TOOLS)
def test_manual_page_has_the_familys_headings(tool: str) -> None:
    text = manual(tool).read_text(encoding="utf-8")
    assert re.findall(r"^## (.+)$", text, re.M) == HEADINGS
    assert text.startswith(f"# {tool}\n")


@pytest.mark.parametrize("tool", TOOLS)
def test_every_flag_has_help_and_stands_in_the_manual_page(
    tool: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    actions = list(actions_of(parser_of(tool, monkeypatch)))
    names = [name for action in actions for name in action.option_strings]
    assert "--version" in names
    silent = [action.dest for action in actions if not action.help]
    assert not silent, "a flag without help"
    text = manual(tool).read_text(encoding="utf-8")
    untold = [name for name in names if not re.search(rf"(?<![\w-]){name}(?![\w-])", text)]
    assert not untold, "make docs"


@pytest.mark.parametrize("tool", TOOLS)
def test_short_flags_are_the_familys(tool: str, monkeypatch: pytest.MonkeyPatch) -> None:
    actions = actions_of(parser_of(tool, monkeypatch))
    names = {name for action in actions for name in action.option_strings}
    assert {name for name in names if not name.startswith("--")} <= {"-h", "-o", "-q", "-v"}


# --- names that pages mention --------------------------------------------------------------------


def targets() -> set[str]:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    return set(re.findall(r"^([a-z][a-z-]*):", makefile, re.M))


@pytest.mark.parametrize("page", build.pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_every_make_target_that_a_page_names_exists(page: Path) -> None:
    """`make demo` in code, whether inline or on a line of its own."""
    text = page.read_text(encoding="utf-8")
    named = set(re.findall(r"(?:`|^\s*(?:\$ )?)make ([a-z]+)", text, re.M))
    assert named <= targets()


def test_help_lists_every_target_that_is_for_people() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    listed = set(re.findall(r"^([a-z][a-z-]*):.*## ", makefile, re.M))
    promised = "help install demo test check matrix real bench docs record"
    assert set(promised.split()) <= listed


@pytest.mark.parametrize("page", build.pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    """Relative links only: what is elsewhere is not ours to promise."""
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8"))
    gone = [
        link
        for link in links
        if not re.match(r"[a-z]+:", link) and not (page.parent / link).exists()
    ]
    assert not gone
