"""Who is killed, how, and when: drawn from a seed, so that a failure can be had again."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

INT, TERM, KILL = signal.SIGINT, signal.SIGTERM, signal.SIGKILL
GROUP = "the whole group"
STEPS = [
    *((GROUP, how) for how in (KILL, TERM, INT)),
    *(("kvmatrix", how) for how in (KILL, TERM)),
    *(("make", how) for how in (KILL, TERM)),
    *(("bash", how) for how in (KILL, TERM)),
    *(("kvload", how) for how in (KILL, TERM, INT)),
    *(("kvclear", how) for how in (KILL, TERM)),
]
"""While there are steps to do. SIGINT for kvmatrix alone is not among them: it is meant for the
whole group, and does nothing."""
REPORT = [
    *(("kvstats", how) for how in (KILL, TERM)),
    *(("kvreport", how) for how in (KILL, TERM, INT)),
    (GROUP, KILL),
]
"""When all steps are done"""
GONE_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Kill:
    """A signal that was sent: to whom, and when on the clock of every record (perf_counter_ns).

    `gone_ns`: when all that it ended was gone, where that is more than the victim.
    """

    who: str
    how: signal.Signals
    at_ns: int
    gone_ns: int | None = None


def drawn(
    pool: list[tuple[str, signal.Signals]], chance: random.Random
) -> Iterator[tuple[str, signal.Signals]]:
    """Without an end; every one of the pool comes before one comes again."""
    while True:
        yield from chance.sample(pool, len(pool))


def at_work(folder: Path) -> dict[int, str]:
    """Number and name of every process whose working directory is the folder."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (entry / "cmdline").read_bytes().split(b"\0")
            if words != [b""] and (entry / "cwd").resolve() == folder:
                found[int(entry.name)] = name_of([word.decode(errors="replace") for word in words])
    return found


def name_of(words: list[str]) -> str:
    """Of an executable; of a script the script's, of `python -m` the module's."""
    name = Path(words[0]).name
    if name.startswith("python") and len(words) > 1:
        return words[2] if words[1] == "-m" else Path(words[1]).name
    return name


def strike(
    group: int, folder: Path, who: str, how: signal.Signals, going_on: Callable[[], bool]
) -> Kill | None:
    """Signal one of that name as soon as there is one; null if the run ended without."""
    while True:
        pids = [pid for pid, name in at_work(folder).items() if name == who]
        at_ns = time.perf_counter_ns()
        with contextlib.suppress(ProcessLookupError):
            if who == GROUP:
                os.killpg(group, how)
                return Kill(who=who, how=how, at_ns=at_ns)
            if pids:
                os.kill(pids[-1], how)
                return Kill(who=who, how=how, at_ns=at_ns)
        if not going_on():
            return None
        time.sleep(0.01)


def all_gone(folder: Path) -> None:
    """No process is left behind: what was struck, or had lost its parent, ends by itself."""
    until = time.monotonic() + GONE_S
    while left := at_work(folder):
        assert time.monotonic() < until, f"left behind: {left}"
        time.sleep(0.05)
