"""Ends the stack's processes when the process that started them is gone, however it went.

    python stack/guard.py [GRACE_S]      (started by nodes.py; not for people)

Standard input is a pipe that only nodes.py holds open: each line is the id of a process
group, and its end, which the kernel makes even after `kill -9`, is the order to stop.
Every group then gets SIGTERM, and SIGKILL when it has not gone in time. This is the one
way in which the stack is ever stopped, so that it is tried on every run.

A process group, not a process: vLLM's engine is a child of its API server, and would
survive it.
"""

import contextlib
import os
import signal
import sys
import time
from pathlib import Path

GRACE_S = 15.0  # unless told otherwise; vLLM stops in about 2 s on an idle machine
ZOMBIE = "Z"


def living_groups() -> set[int]:
    """The groups that still have a member which is more than a zombie."""
    groups = set()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            # "pid (name) state ppid pgrp ...": the name may hold spaces and brackets
            state, _ppid, group = (entry / "stat").read_text().rpartition(")")[2].split()[:3]
            if state != ZOMBIE:
                groups.add(int(group))
    return groups


def send(groups: set[int], signum: int) -> None:
    for group in groups:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, signum)


def stop(groups: set[int], grace_s: float) -> None:
    """SIGTERM, patience, SIGKILL; returns when no group has a living member."""
    remaining = groups & living_groups()
    send(remaining, signal.SIGTERM)
    # A stopped process would take its SIGTERM only after somebody continued it.
    send(remaining, signal.SIGCONT)
    deadline = time.monotonic() + grace_s
    while remaining:
        time.sleep(0.05)
        remaining &= living_groups()
        if time.monotonic() > deadline:
            send(remaining, signal.SIGKILL)


def main(arguments: list[str]) -> int:
    # Ctrl-C and a closed terminal are nodes.py's business: this process outlives it.
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, signal.SIG_IGN)
    groups = {int(line) for line in sys.stdin}
    stop(groups, float(arguments[0]) if arguments else GRACE_S)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
