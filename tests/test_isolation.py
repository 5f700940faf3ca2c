"""docs/isolation.md keeps its word: every trap has a test, the waiting times are the guide's."""

from __future__ import annotations

import ast
import re

import pytest
from tests.family import ROOT

PAGE = (ROOT / "docs" / "isolation.md").read_text(encoding="utf-8")


def traps() -> list[list[str]]:
    """Cells of the table's rows."""
    section = PAGE.partition("\n## Traps\n")[2].partition("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in row.strip("|").split(" | ")] for row in rows[2:]]


def named_in(cell: str) -> list[str]:
    return re.findall(r"`(tests/[\w/]+\.py::test_\w+)`", cell)


def functions_of(path: str) -> set[str]:
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_there_are_traps() -> None:
    assert len(traps()) >= 20


@pytest.mark.parametrize("row", traps(), ids=lambda row: row[0][:50])
def test_every_trap_has_a_test_that_exists(row: list[str]) -> None:
    trap, peers, here, tests = row
    assert all((trap, peers, here))
    named = named_in(tests)
    assert named, "a row without a test behind it"
    for name in named:
        path, _, function = name.partition("::")
        assert function in functions_of(path), name


def test_a_name_that_is_gone_would_be_seen() -> None:
    """A guard on the guard."""
    assert named_in("`tests/test_isolation.py::test_gone`") == [
        "tests/test_isolation.py::test_gone"
    ]
    assert "test_gone" not in functions_of("tests/test_isolation.py")
    assert "test_there_are_traps" in functions_of("tests/test_isolation.py")


def test_waiting_times_are_the_documents() -> None:
    section = PAGE.partition("\n## By hand\n")[2]
    assert re.findall(r"\| (\d+) s \|", section) == ["5", "10", "20", "30"]
