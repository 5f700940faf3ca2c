"""The generated blocks of the documentation: `python docs/build.py` writes them anew.

A block is what a command prints. It stands between two comments of a Markdown file:

    <!-- generated: kvstats --help -->
    <!-- end -->

What stands between is the command's standard output, fenced as text; with `generated as is:` it is
Markdown of its own and is not fenced. Commands are run by bash in the root of the repository, with
the tools on PATH, 80 columns wide and without colour. `--check` writes nothing and exits 1 if a
block is stale, or if there is no block at all.

Wording and wrapping of argparse differ between versions of Python: help texts are made, and
checked, with the one version that is named here. Other blocks do not depend on it.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("README.md", "*/README.md", "tools/*/README.md", "docs/*.md")
PYTHON_OF_HELP = (3, 11)

BLOCK = re.compile(
    r"^(?P<head><!-- generated(?P<raw> as is)?: (?P<command>[^\n]+?) -->)\n"
    r"(?P<body>.*?)^(?P<foot><!-- end -->)$",
    re.DOTALL | re.MULTILINE,
)


class StaleError(Exception):
    """A command of a block that failed: its page cannot be made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One generated part of a page, as it stands there and as it should."""

    page: Path
    line: int
    command: str
    found: str
    wanted: str

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def is_stale(self) -> bool:
        return self.found != self.wanted


def pages() -> list[Path]:
    found = {path for pattern in PAGES for path in ROOT.glob(pattern)}
    return sorted(path for path in found if not path.parent.name.startswith("."))


def output_of(command: str) -> str:
    """What the command prints, in the surroundings that every block has."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command],
        cwd=ROOT,
        env={
            "PATH": path,
            "HOME": os.environ.get("HOME", "/"),
            "LC_ALL": "C.UTF-8",
            "COLUMNS": "80",
            "NO_COLOR": "1",
            "TZ": "UTC",
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise StaleError(f"`{command}` exited {done.returncode}: {done.stderr.strip()}")
    return done.stdout.rstrip() + "\n"


def skipped(command: str) -> bool:
    """Whether this Python would print other words than the pinned one."""
    return "--help" in command and sys.version_info[:2] != PYTHON_OF_HELP


def body_of(command: str, raw: bool) -> str:
    text = output_of(command)
    return f"\n{text}\n" if raw else f"```text\n{text}```\n"


def blocks_of(page: Path, text: str) -> Iterator[tuple[re.Match[str], Block]]:
    """Every block of a page that can be made here; StaleError where a block has no end."""
    matches = list(BLOCK.finditer(text))
    if len(matches) != text.count("<!-- generated") or len(matches) != text.count("<!-- end -->"):
        raise StaleError(f"{page.relative_to(ROOT)}: a generated block has no end, or no head")
    for found in matches:
        command = found["command"]
        line = text.count("\n", 0, found.start()) + 1
        if skipped(command):
            continue
        try:
            wanted = body_of(command, bool(found["raw"]))
        except StaleError as error:
            raise StaleError(f"{page.relative_to(ROOT)}:{line}: {error}") from error
        yield (
            found,
            Block(page=page, line=line, command=command, found=found["body"], wanted=wanted),
        )


def refresh(page: Path, write: bool) -> list[Block]:
    """The page's blocks; the page is written anew if `write` and one of them changed."""
    text = page.read_text(encoding="utf-8")
    made = list(blocks_of(page, text))
    for found, block in reversed(made):
        start, end = found.span("body")
        text = text[:start] + block.wanted + text[end:]
    blocks = [block for _, block in made]
    if write and any(block.is_stale for block in blocks):
        page.write_text(text, encoding="utf-8")
    return blocks


def main() -> int:
    parser = argparse.ArgumentParser(prog="build.py", description=__doc__.partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if stale")
    check = parser.parse_args().check
    try:
        blocks = [block for page in pages() for block in refresh(page, write=not check)]
    except StaleError as error:
        print(f"build.py: {error}", file=sys.stderr)
        return 1
    stale = [block for block in blocks if block.is_stale]
    for block in stale:
        word = "stale: make docs" if check else "written"
        print(f"{block.place}: {block.command}: {word}", file=sys.stderr)
    if not blocks:
        print("build.py: found no generated block: nothing was checked", file=sys.stderr)
        return 1
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
