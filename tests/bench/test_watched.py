"""What a command cost: its own, that of what it started, and when."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest
from bench.watched import Watched, watch

SPIN = "import time; began = time.process_time()\nwhile time.process_time() - began < {0}: pass"


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_status_and_output() -> None:
    done = watch(python("import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)"))
    assert (done.status, done.stdout, done.stderr) == (3, b"out\n", b"err\n")


def test_processor_time_of_a_child_counts() -> None:
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {SPIN.format(0.6)!r}])"
    done = watch(python(child))
    assert done.total_s >= 0.6
    assert done.wall_s >= 0.6


def test_cost_is_told_over_time() -> None:
    done = watch(python(f"{SPIN.format(0.5)}\ntime.sleep(1.0)"))
    assert done.cpu_at(done.start_ns) == 0.0
    assert done.cpu_at(done.end_ns) == pytest.approx(done.total_s)
    nearly = done.cpu_at(done.end_ns - 400_000_000)  # while it slept
    assert nearly >= 0.9 * done.total_s


def test_between_two_looks_it_is_linear() -> None:
    done = Watched(
        command=[], status=0, stdout=b"", stderr=b"", start_ns=0, end_ns=100, cpu_s=10.0,
        peak_mb=1.0, looks=[(20, 2.0), (60, 8.0)],
    )  # fmt: skip
    assert [done.cpu_at(at) for at in (-5, 10, 40, 80, 100, 200)] == [
        0.0,
        1.0,
        5.0,
        9.0,
        10.0,
        10.0,
    ]


def test_memory_is_the_commands_own() -> None:
    held = bytearray(os.urandom(200_000_000))  # of the process that starts it
    small = watch(python("import time; time.sleep(1)"))
    assert 1 < small.peak_mb < 100
    large = watch(python("import os, time; held = os.urandom(150_000_000); time.sleep(1)"))
    assert large.peak_mb > 150
    assert len(held) == 200_000_000


def test_what_runs_too_long_is_killed_with_all_of_it(tmp_path: Path) -> None:
    told = tmp_path / "pid"
    code = (
        "import subprocess, sys, pathlib\n"
        "child = subprocess.Popen(['sleep', '600'])\n"
        f"pathlib.Path({str(told)!r}).write_text(str(child.pid))\n"
        "child.wait()"
    )
    done = watch(python(code), timeout_s=3.0)
    assert done.status == -9
    deadline = time.monotonic() + 10
    while Path(f"/proc/{told.read_text()}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)  # until init has waited for it
    assert not _alive(int(told.read_text()))


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


FORKED = """
import os, time
held = bytearray(os.urandom(1)) * 80_000_000
child = os.fork()
if child == 0:
    time.sleep(1.5)
    os._exit(0)
os.waitpid(child, 0)
"""


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="needs Linux's /proc")
def test_pages_that_processes_share_can_be_counted_once() -> None:
    each, once = (watch([sys.executable, "-c", FORKED], once=one) for one in (False, True))
    assert each.peak_mb > 160
    assert 80 < once.peak_mb < 120
