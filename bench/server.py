"""The server of the bench, cheap enough not to be the limit, and its log of what really happened.

It is flatserver.c, one epoll loop in C; where there is no C compiler it is `kvsim --flat`, whose
own lateness in reading then counts as the client's error. Its stamps are CLOCK_MONOTONIC, the
clock of every client of this machine.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

SOURCE = Path(__file__).with_name("flatserver.c")
PROGRAM = Path(__file__).with_name("build") / "flatserver"


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """One request as the server saw it: read completely, each chunk with a token written."""

    request_id: str
    read_ns: int
    write_ns: list[int]
    end_ns: int

    @property
    def ttft_s(self) -> float:
        """First chunk written less request read."""
        return (self.write_ns[0] - self.read_ns) / 1e9


@contextmanager
def serving(truth: Path, *, ttft_ms: float, itl_ms: float, port: int = 0) -> Iterator[str]:
    """The server while it runs; its URL. `truth` is whole when the block has been left."""
    times = ["--ttft-ms", str(ttft_ms), "--itl-ms", str(itl_ms), "--truth", str(truth)]
    command = [str(PROGRAM)] if compiled() else ["kvsim", "--flat"]
    process = subprocess.Popen(
        [*command, *times, "--port", str(port)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    pin(process.pid, last=True)
    try:
        yield json.loads(process.stdout.readline())["url"]
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


def pin(pid: int, *, last: bool) -> None:
    """The server on the last processor, the client on the others.

    Else the kernel wakes the server on the client's, where it waits until a burst of sends is over.
    """
    if hasattr(os, "sched_setaffinity") and (cpus := sorted(os.sched_getaffinity(0)))[1:]:
        os.sched_setaffinity(pid, cpus[-1:] if last else cpus[:-1])


def server_name() -> str:
    """Which of the two servers is used here."""
    return "bench/flatserver.c" if compiled() else "kvsim --flat"


@cache
def compiled() -> bool:
    """Build flatserver.c if there is a compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return False
    PROGRAM.parent.mkdir(exist_ok=True)
    built = PROGRAM.with_name(f"{PROGRAM.name}.{os.getpid()}")
    subprocess.run([compiler, "-O2", "-o", str(built), str(SOURCE)], check=True)
    built.rename(PROGRAM)  # another bench may be running the old one
    return True


def read_truth(path: Path) -> list[Served]:
    """The requests that got an answer, in the order of their being read."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if row["write_ns"] and row["end_ns"]:
            rows.append(
                Served(
                    request_id=row["request_id"] or "",
                    read_ns=row["read_ns"],
                    write_ns=row["write_ns"],
                    end_ns=row["end_ns"],
                )
            )
    return sorted(rows, key=lambda row: row.read_ns)
