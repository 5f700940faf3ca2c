"""The lock files hold what pyproject.toml asks for, pinned and with hashes."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from tests.family import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
RUN = PROJECT["project"]["dependencies"]
DEV = PROJECT["project"]["optional-dependencies"]["dev"]
PIN = re.compile(
    r"^([a-z0-9][a-z0-9._-]*)==([^ ;\\]+)(?: ; [^\\]+?)?((?: \\\n    --hash=sha256:[0-9a-f]{64})+)",
    re.M,
)


def pins(name: str) -> dict[str, list[str]]:
    """Package to its versions: several where systems or Pythons differ."""
    text = (ROOT / "requirements" / name).read_text(encoding="utf-8")
    found: dict[str, list[str]] = {}
    for package, version, _ in PIN.findall(text):
        found.setdefault(package, []).append(version)
    lines = [line for line in text.splitlines() if line and line[0].isalnum()]
    assert len(lines) == sum(map(len, found.values())), "a line without version or hashes"
    return found


@pytest.mark.parametrize(("name", "wanted"), [("run.lock", RUN), ("dev.lock", RUN + DEV)])
def test_everything_is_pinned_with_hashes(name: str, wanted: list[str]) -> None:
    pinned = pins(name)
    for line in [*wanted, *PROJECT["build-system"]["requires"]]:
        asked = Requirement(line)
        versions = pinned.get(canonicalize_name(asked.name), [])
        assert versions, f"{asked.name}: make lock"
        assert all(version in asked.specifier for version in versions), f"{line}: make lock"


def test_the_fuzzers_tool_is_pinned_too() -> None:
    asked = Requirement((ROOT / "requirements/fuzz.in").read_text().partition("#")[0])
    assert all(version in asked.specifier for version in pins("fuzz.lock")["schemathesis"])


def test_what_runs_is_of_the_same_versions_everywhere() -> None:
    run, dev = pins("run.lock"), pins("dev.lock")
    assert {name: dev[name] for name in run} == run


def test_no_lock_names_a_registry() -> None:
    for path in (ROOT / "requirements").glob("*.lock"):
        assert "://" not in path.read_text(encoding="utf-8")


def test_the_makefile_and_the_image_install_from_the_locks() -> None:
    for path, lock in ((Path("Makefile"), "dev.lock"), (Path("compose/Dockerfile"), "run.lock")):
        text = (ROOT / path).read_text(encoding="utf-8")
        assert re.search(rf"pip install [^\n]*--require-hashes -r requirements/{lock}", text), path


def test_ci_installs_what_the_makefile_does_and_the_audit_asks_about_it() -> None:
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert "make test" in ci and not re.search(r"\bpip\b", ci)
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    installs = re.findall(r"pip install [^\n]*-r requirements/(\w+\.lock)", makefile)
    assert "dev.lock" in installs
    (audit,) = re.findall(r"pip-audit --strict --require-hashes [^\n]*", makefile)
    assert {*installs} <= {*re.findall(r"-r requirements/(\w+\.lock)", audit)}
