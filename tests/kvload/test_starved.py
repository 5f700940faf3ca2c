"""A client that is starved says so: stopped in the middle of a run, or on a busy processor.

How late it is then follows from the schedule, not from how fast this machine is.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.family import environment
from tests.kvload.workload import lines, write
from tests.simulated import FAST, Sim, kvsim

STOPPED_S = 1.5
RATE = 40


@pytest.fixture(scope="module")
def sim() -> Iterator[Sim]:
    with kvsim(*FAST) as running:
        yield running


def started(sim: Sim, folder: Path, *flags: str) -> tuple[subprocess.Popen[str], Path]:
    """An open loop of five seconds, as soon as it has written a request; (process, output)."""
    work = write(folder / "w", lines(groups=5 * RATE, each=1, context=20, max_tokens=2))
    out = folder / "out.jsonl"
    with out.open("wb") as stream:
        process = subprocess.Popen(
            [
                *("kvload", "-q", "--url", sim.url, "--workload", str(work), "--warmup", "0"),
                *("--rounds", "1", "--rate", str(RATE), "--arrival", "constant", *flags),
            ],
            stdout=stream,
            env=environment(),
            text=True,
        )
    deadline = time.monotonic() + 60
    while b'"record":"request"' not in out.read_bytes() and time.monotonic() < deadline:
        time.sleep(0.02)
    return process, out


def judged(out: Path) -> dict[str, Any]:
    done = subprocess.run(
        ["kvstats", str(out)], capture_output=True, env=environment(), text=True, check=True
    )
    stats: dict[str, Any] = json.loads(done.stdout)
    return stats


def limits(stats: dict[str, Any]) -> list[dict[str, Any]]:
    return [one["evidence"] for one in stats["findings"] if one["code"] == "client_limited"]


def stopped_for(pid: int, length_s: float) -> None:
    os.kill(pid, signal.SIGSTOP)
    time.sleep(length_s)
    os.kill(pid, signal.SIGCONT)


def test_a_client_that_was_stopped_says_that_it_was_late(sim: Sim, tmp_path: Path) -> None:
    process, out = started(sim, tmp_path)
    stopped_for(process.pid, STOPPED_S)
    assert process.wait(120) == 0
    stats = judged(out)
    (evidence,) = limits(stats)
    assert evidence["lateness_p99_s"] > STOPPED_S / 2
    records = [json.loads(line) for line in out.read_text().splitlines()]
    late = [r["sent_ns"] - r["scheduled_ns"] for r in records if r["record"] == "request"]
    assert sum(wait > 0.1e9 for wait in late) > STOPPED_S * RATE / 2, "each request says it itself"
    # What was due while it was stopped was sent late, and its users waited: that is counted.
    assert stats["timings"]["ttft_due_s"]["max"] > STOPPED_S / 2 > stats["timings"]["ttft_s"]["p50"]


def test_one_stopped_worker_is_enough(sim: Sim, tmp_path: Path) -> None:
    process, out = started(sim, tmp_path, "--workers", "2")
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    stopped_for(int(children[0]), STOPPED_S)
    assert process.wait(120) == 0
    (evidence,) = limits(judged(out))
    assert evidence["lateness_p99_s"] > STOPPED_S / 2


@contextlib.contextmanager
def busy(cpu: int, burners: int) -> Iterator[None]:
    """A processor on which so many others want all of the time."""
    burn = "import os, sys; os.sched_setaffinity(0, [int(sys.argv[1])])\nwhile True: pass"
    running = [
        subprocess.Popen([sys.executable, "-c", burn, str(cpu)], env=environment())
        for _ in range(burners)
    ]
    try:
        yield
    finally:
        for one in running:
            one.kill()
        for one in running:
            one.wait()


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="processors cannot be chosen here")
def test_a_client_on_a_busy_processor_says_so(sim: Sim, tmp_path: Path) -> None:
    cpu = min(os.sched_getaffinity(0))
    process, out = started(sim, tmp_path)
    os.sched_setaffinity(process.pid, [cpu])
    for thread in Path(f"/proc/{process.pid}/task").iterdir():
        os.sched_setaffinity(int(thread.name), [cpu])
    os.setpriority(os.PRIO_PROCESS, process.pid, 5)
    with busy(cpu, burners=3):
        assert process.wait(300) == 0
    (evidence,) = limits(judged(out))
    assert evidence["lateness_p99_s"] > evidence["limit_s"]
