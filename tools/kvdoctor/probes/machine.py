"""The machine that will send the load: what it allows, and what holds it back."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

from kvdoctor.evidence import Client

PORT_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
CLOCK = Path("/sys/devices/system/clocksource/clocksource0/current_clocksource")
CPU_STATS = (Path("/sys/fs/cgroup/cpu.stat"), Path("/sys/fs/cgroup/cpu/cpu.stat"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A moment, and for how long this container had been held back until then."""

    at_s: float
    throttled_s: float | None


def mark() -> Mark:
    """Now."""
    return Mark(at_s=time.perf_counter(), throttled_s=_throttled_s())


def look(since: Mark) -> Client:
    """What this machine is like, and how it was treated since then."""
    now = mark()
    ratio = None
    if now.throttled_s is not None and since.throttled_s is not None and now.at_s > since.at_s:
        ratio = max(0.0, now.throttled_s - since.throttled_s) / (now.at_s - since.at_s)
    return Client(
        open_files=_open_files(),
        ports=_ports(),
        clock=_text(CLOCK),
        cpus=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        throttled_ratio=ratio,
    )


def _open_files() -> int | None:
    """The hard limit; null where there is none, or no such thing."""
    try:
        import resource
    except ImportError:  # not a Unix
        return None
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return None if hard == resource.RLIM_INFINITY else hard


def _ports() -> int | None:
    parts = (_text(PORT_RANGE) or "").split()
    if len(parts) != 2 or not all(part.isdigit() for part in parts):
        return None
    return int(parts[1]) - int(parts[0]) + 1


def _throttled_s() -> float | None:
    """Summed over the container's processors; null outside of one with a quota."""
    for path in CPU_STATS:
        for line in (_text(path) or "").splitlines():
            name, _, value = line.partition(" ")
            if name == "throttled_usec":
                return float(value) / 1e6
            if name == "throttled_time":
                return float(value) / 1e9
    return None


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return None
