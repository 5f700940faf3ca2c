"""A tool run in this process, exactly as its executable runs: what it said, and its status.

Nothing but the family's own way out is a way out: any exception that `kvpipe.process.run_tool` does
not know comes through, and is the bug that is looked for. So does a warning, which people would see
on stderr beside the one line.
"""

from __future__ import annotations

import io
import json
import re
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from kvpipe.process import run_tool
from kvschemas import first_problem

CUT_SHORT = re.compile("cut short and was left out|compressed data is cut short$")
Main = Callable[[Sequence[str] | None], int]


@dataclass(frozen=True, slots=True)
class Ended:
    """How a tool ended."""

    status: int
    out: bytes
    err: str


def run(prog: str, main: Main, *argv: str) -> Ended:
    """The tool with these arguments."""
    out, err = io.TextIOWrapper(io.BytesIO(), encoding="utf-8"), io.StringIO()
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = out, err
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            run_tool(prog, main, list(argv))
    except SystemExit as leaving:
        status = leaving.code
    finally:
        sys.stdout, sys.stderr = before
    assert isinstance(status, int)
    out.flush()
    written = out.buffer.getvalue()  # type: ignore[attr-defined]
    return Ended(status, written, err.getvalue())


@contextmanager
def files(**contents: bytes) -> Iterator[list[str]]:
    """Files of a folder of their own; `a__b_json` is called `a_b.json`."""
    with tempfile.TemporaryDirectory(prefix="fuzz-", dir=_shm()) as folder:
        paths = []
        for name, data in contents.items():
            path = Path(folder) / name.replace("__", "\0").replace("_", ".").replace("\0", "_")
            path.write_bytes(data)
            paths.append(str(path))
        yield paths


def _shm() -> str | None:
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


def sound(ended: Ended, path: str) -> None:
    """0 or 1 with records that their schemas accept; or 2, nothing, and one line with the file."""
    assert ended.status in (0, 1, 2)
    if ended.status == 2:
        refused(ended, path)
        return
    for line in ended.out.splitlines():
        value = json.loads(line, parse_constant=_no_constant)
        assert first_problem(value["record"], value) is None


def refused(ended: Ended, path: str | None = None, *, streams: bool = False) -> None:
    """One printable line, and nothing on stdout. What is cut short has one of its own."""
    assert streams or ended.out == b""  # what writes as it reads has written what was right
    assert ended.err.endswith("\n")
    lines = ended.err[:-1].split("\n")
    while len(lines) > 1 and CUT_SHORT.search(lines[0]):
        del lines[0]
    assert len(lines) == 1, lines
    assert lines[0].isprintable()
    assert re.match(r"kv[a-z]+: \S", lines[0])
    # Numbers are refused where they are added up: by then a record is known by its own name.
    assert path is None or path in lines[0] or " of run " in lines[0], lines[0]
    assert len(lines[0]) <= 1024, len(lines[0])


def _no_constant(text: str) -> object:
    raise AssertionError(f"{text} is no JSON")
