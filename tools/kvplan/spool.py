"""Input that is read more than once: a file is opened anew, a pipe is kept on disk."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from kvpipe.jsonl import open_lines


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
            shutil.copyfileobj(stream, kept)
        yield Spool(name, kept)
