"""A command run to its end, and what it cost: processor time over time, memory, wall time.

What counts is the command and everything it started. Its processor time is looked at ten times a
second, so that the cost of a load can be told from the cost of starting up; the total at the end
is the kernel's own.
"""

from __future__ import annotations

import itertools
import os
import re
import resource
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

EVERY_S = 0.1
SEARCH_EVERY = 5  # looks between two searches for new processes
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """A finished command."""

    command: Sequence[str]
    status: int
    stdout: bytes
    stderr: bytes
    start_ns: int
    end_ns: int
    cpu_s: float
    """Processor time of the command and of all that it waited for."""
    peak_mb: float
    """Most resident memory of all its processes together at a look, or of the command alone.

    Not the kernel's ru_maxrss, which begins with what the process that forked it held.
    """
    looks: Sequence[tuple[int, float]]
    """(stamp, processor seconds so far)."""

    @property
    def wall_s(self) -> float:
        """From start to end."""
        return (self.end_ns - self.start_ns) / 1e9

    def cpu_at(self, at_ns: int) -> float:
        """Processor time up to a moment, between two looks by linear interpolation."""
        points = [(self.start_ns, 0.0), *self.looks, (self.end_ns, self.total_s)]
        for (left, low), (right, high) in itertools.pairwise(points):
            if at_ns <= right:
                share = max(0.0, (at_ns - left) / (right - left)) if right > left else 1.0
                return low + (high - low) * share
        return points[-1][1]

    @property
    def total_s(self) -> float:
        """All of it, also where a process was left to others to wait for."""
        return max(self.cpu_s, self.looks[-1][1] if self.looks else 0.0)


def watch(
    command: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout_s: float = 300.0,
    affinity: Sequence[int] | None = None,
    once: bool = False,
) -> Watched:
    """Run a command in a session of its own; killed with all of it after `timeout_s`.

    With `once` pages that processes share are counted once, which costs the looker more.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        start = time.perf_counter_ns()
        process = subprocess.Popen(
            list(command), stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=env, cwd=cwd,
            start_new_session=True,
        )  # fmt: skip
        if affinity is not None:
            os.sched_setaffinity(process.pid, affinity)
        looker = _Looker(process.pid, once=once)
        looker.start()
        killer = threading.Timer(timeout_s, _kill_session, [process.pid])
        killer.start()
        try:
            _, status, used = os.wait4(process.pid, 0)
        except BaseException:
            _kill_session(process.pid)
            raise
        finally:
            killer.cancel()
            looker.stop()
        end = time.perf_counter_ns()
        process.returncode = os.waitstatus_to_exitcode(status)
        _kill_session(process.pid)  # what it left behind
        out.seek(0)
        err.seek(0)
        return Watched(
            command=tuple(command),
            status=process.returncode,
            stdout=out.read(),
            stderr=err.read(),
            start_ns=start,
            end_ns=end,
            cpu_s=used.ru_utime + used.ru_stime,
            peak_mb=looker.peak_mb,
            looks=looker.looks,
        )


class _Looker(threading.Thread):
    """Adds up processor time and memory of one session, off everybody's path."""

    def __init__(self, session: int, *, once: bool = False) -> None:
        super().__init__(daemon=True)
        self._once = once
        self.looks: list[tuple[int, float]] = []
        self.peak_mb = 0.0
        self._session = session
        self._cpu: dict[int, float] = {}
        self._stopped = threading.Event()

    def run(self) -> None:
        """Until stopped."""
        members = [self._session]
        turn = 0
        while not self._stopped.wait(EVERY_S):
            turn += 1
            if turn % SEARCH_EVERY == 1:
                members = _members(self._session)
            memory = 0.0
            for pid in members:
                seen = _stat(pid)
                if seen is not None:
                    self._cpu[pid] = seen[1]
                    memory += _proportional_mb(pid) if self._once else seen[2]
            self.peak_mb = max(self.peak_mb, memory, _high_water_mb(self._session))
            self.looks.append((time.perf_counter_ns(), sum(self._cpu.values())))

    def stop(self) -> None:
        """No look after this."""
        self._stopped.set()
        self.join()


def _members(session: int) -> list[int]:
    """Processes of a session that are there now."""
    found = []
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            seen = _stat(int(entry.name))
            if seen is not None and seen[0] == session:
                found.append(int(entry.name))
    return found


def _stat(pid: int) -> tuple[int, float, float] | None:
    """(session, processor seconds, resident MB); None if there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()  # the name before it may hold anything
    cpu_s = (int(fields[11]) + int(fields[12])) / TICKS
    return int(fields[3]), cpu_s, int(fields[21]) * resource.getpagesize() / 1e6


def _proportional_mb(pid: int) -> float:
    """Resident memory, of shared pages the share; 0 if the process is gone."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return 0.0
    found = re.search(r"^Pss:\s+(\d+) kB", text, re.MULTILINE)
    return int(found[1]) * 1024 / 1e6 if found else 0.0


def _high_water_mb(pid: int) -> float:
    """The most that a process ever held of what it runs now; 0 if it is gone."""
    try:
        text = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return 0.0
    found = re.search(r"^VmHWM:\s+(\d+) kB", text, re.MULTILINE)
    return int(found[1]) * 1024 / 1e6 if found else 0.0


def _kill_session(session: int) -> None:
    """All that is left of a session; of ours alone, since the number is that of our child."""
    for pid in _members(session):
        try:
            os.kill(pid, 9)
        except ProcessLookupError:
            continue
