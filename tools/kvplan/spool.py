"""Input of other people's making: packed files that break off, and pipes that are read twice."""

from __future__ import annotations

import tempfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from kvpipe.jsonl import open_lines
from kvpipe.process import ToolError


class Spool:
    """What stands at `path`, `-` being stdin, as often as it is wanted."""

    def __init__(self, path: str, kept: IO[bytes] | None) -> None:
        self._path = path
        self._kept = kept

    @contextmanager
    def lines(self) -> Iterator[tuple[str, IO[bytes]]]:
        """(name, stream) from the beginning; one at a time."""
        if self._kept is None:
            with open_lines(self._path) as opened:
                yield opened
            return
        self._kept.seek(0)
        yield self._path, self._kept


@contextmanager
def spooled(path: str) -> Iterator[Spool]:
    """The input. A pipe, which is read only once, is copied to a temporary file first."""
    if path != "-" and Path(path).is_file():
        yield Spool(path, None)
        return
    with tempfile.TemporaryFile() as kept:
        with open_lines(path) as (name, stream):
            kept.writelines(unbroken(stream, name))
        yield Spool(name, kept)


def unbroken(stream: Iterable[bytes], name: str) -> Iterator[bytes]:
    """The lines; ToolError where a packed file breaks off."""
    number = 0
    try:
        for line in stream:
            number += 1
            yield line
    except (EOFError, zlib.error) as error:
        raise ToolError(f"{name}:{number + 1}: broken gzip: {error} (cut short?)") from error
