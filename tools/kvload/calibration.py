"""The client's calibration from a file: it travels with the round; told if it cannot hold."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from kvload.console import Console
from kvload.host import this_host
from kvpipe.calibration import why_unfit
from kvpipe.jsonl import decode_as
from kvpipe.process import version
from kvpipe.records import Calibration


def read_calibration(path: str | None, console: Console) -> Calibration | None:
    """The record of `make calibrate`; a warning if it does not speak of this client."""
    if path is None:
        return None
    found = decode_as(Calibration, Path(path).read_bytes(), path)
    now = datetime.now(UTC).isoformat()
    why = why_unfit(found, this_host(), version(), now)
    if why is not None:
        console.warn(f"{path}: the calibration is {why}: kvstats will not use it (make calibrate)")
    return found
