"""Independence is enforced, not hoped for: who may import whom, and what from outside."""

from __future__ import annotations

import ast
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.family import LIBRARIES, ROOT, SCRIPTS

CONFIG = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
SHIPPED: list[str] = CONFIG["tool"]["setuptools"]["packages"]
PACKAGES = [name for name in SHIPPED if "." not in name]  # what is inside one is its own affair

# Packages from outside, and who has been granted them. What is not here is not allowed.
GRANTED: dict[str, set[str]] = {
    "aiohttp": {"kvengine", "kvsim"},
    "jsonschema": {"kvschemas", "kvstats"},
    "matplotlib": {"kvplan", "kvreport"},
    "msgspec": set(PACKAGES),
    "numpy": {"kvplan", "kvprompt", "kvstats", "kvreport"},
    "scipy": {"kvpipe", "kvreport"},
    "tabulate": {"kvplan", "kvstats", "kvreport"},
    "yaml": {"kvschemas", "kvload", "kvclear", "kvmatrix"},
}
# Libraries, and the libraries that each may stand on. A tool may stand on all of them.
FOUNDATIONS: dict[str, set[str]] = {
    "kvengine": {"kvpipe", "kvprompt", "kvschemas"},
    "kvpipe": {"kvschemas"},
    "kvprompt": {"kvpipe", "kvschemas"},
    "kvschemas": {"kvpipe"},
}


def folder_of(package: str) -> Path:
    return ROOT / ("schemas" if package == "kvschemas" else f"tools/{package}")


def imports_of(source: str) -> Iterator[tuple[int, str]]:
    """The outermost package of every import anywhere in a module, with its line."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name.partition(".")[0]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import hides whom it means"
            yield node.lineno, (node.module or "").partition(".")[0]


def allowed_in(package: str) -> set[str]:
    """What the modules of a package may import besides themselves and the standard library."""
    inside = FOUNDATIONS.get(package, set(LIBRARIES))
    return {package} | inside | {name for name, who in GRANTED.items() if package in who}


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_are_granted(package: str) -> None:
    modules = sorted(folder_of(package).rglob("*.py"))
    assert modules
    strangers = [
        f"{module.relative_to(ROOT)}:{line}: {name}"
        for module in modules
        for line, name in imports_of(module.read_text(encoding="utf-8"))
        if name not in sys.stdlib_module_names | {"_typeshed"} and name not in allowed_in(package)
    ]
    assert not strangers, "not granted in tests/test_boundaries.py"


def test_the_walk_sees_what_it_forbids() -> None:
    """A guard on the guard: inside a function, behind `if`, by `from`, with dots."""
    source = (
        "import os\nif os:\n    import kvload.client\ndef f():\n    from kvstats.metrics import x\n"
    )
    assert list(imports_of(source)) == [(1, "os"), (3, "kvload"), (5, "kvstats")]
    assert "kvload" not in allowed_in("kvstats")
    assert "kvstats" not in allowed_in("kvpipe")


def test_every_package_is_shipped_and_every_script_has_one() -> None:
    tools = ROOT / "tools"
    found = {path.parent.relative_to(tools) for path in tools.rglob("__init__.py")}
    on_disk = {".".join(path.parts) for path in found} | {"kvschemas"}
    assert on_disk == set(SHIPPED)
    assert {entry.partition(".")[0] for entry in SCRIPTS.values()} <= on_disk
    assert not (ROOT / "tools" / "__init__.py").exists(), "tools/ is a source root, not a package"


def test_grants_and_dependencies_are_the_same_packages() -> None:
    distribution = {"pyyaml": "yaml"}
    wanted = {
        distribution.get(name, name)
        for name in (text.split(">=")[0].strip() for text in CONFIG["project"]["dependencies"])
    }
    assert wanted == set(GRANTED)


def test_libraries_are_wanted_by_two_tools() -> None:
    """What only one tool needs belongs to that tool."""
    for library in set(LIBRARIES) - {"kvschemas"}:
        users = {
            package
            for package in set(PACKAGES) - set(LIBRARIES)
            for module in folder_of(package).rglob("*.py")
            for _, name in imports_of(module.read_text(encoding="utf-8"))
            if name == library
        }
        assert len(users) >= 2, f"{library}: only {users}"
