"""`--stages 30s@1,60s@5..20`: how the rate of an open loop changes, stage by stage."""

from __future__ import annotations

import re

from kvpipe.process import UsageError
from kvpipe.records import Stage

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "": 1.0}
_NUMBER = r"\d+(?:\.\d+)?"
_STAGE = re.compile(
    rf"(?P<length>{_NUMBER})(?P<unit>ms|s|m|h|)@(?P<first>{_NUMBER})(?:\.\.(?P<last>{_NUMBER}))?",
    re.ASCII,
)


def stages_of(text: str) -> list[Stage]:
    """The stages in order: DURATION@RATE, or DURATION@FROM..TO for a linear ramp.

    Durations in ms, s (without a unit), m or h; rates per second, 0 for a pause. UsageError names
    the stage that cannot be read.
    """
    stages = [_stage(part.strip()) for part in text.split(",")]
    if not any(stage.from_rps or stage.to_rps for stage in stages):
        raise UsageError(f"--stages {text!r}: no stage has a rate above 0")
    return stages


def _stage(text: str) -> Stage:
    found = _STAGE.fullmatch(text)
    if found is None:
        raise UsageError(
            f"--stages {text!r}: DURATION@RATE or DURATION@FROM..TO is expected, such as 30s@5 or"
            " 1m@5..20, with commas between them"
        )
    length_s = float(found["length"]) * _UNITS[found["unit"]]
    if length_s <= 0:
        raise UsageError(f"--stages {text!r}: a stage must last longer than 0 s")
    first = float(found["first"])
    last = first if found["last"] is None else float(found["last"])
    return Stage(duration_s=length_s, from_rps=first, to_rps=last)
