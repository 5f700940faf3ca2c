"""What every test may use: a real shell, and an environment that is the same everywhere."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import hypothesis
import pytest
from tests.family import environment

# A shell without job control starts what runs in the background with SIGINT ignored, and so would
# be everything that the tests start: none of it would end by Ctrl-C, as its users' do.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A busy machine is no failing test: examples take as long as they take. They are the same in every
# run, so that a red one means a change; new ones are what `make fuzz` looks for.
hypothesis.settings.register_profile("family", deadline=None, derandomize=True)
hypothesis.settings.load_profile("family")


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """How a pipeline ended. `status` is the shell's: 128 + n for death by signal n."""

    status: int
    out: str
    err: str


@pytest.fixture(autouse=True, scope="session")
def _same_everywhere() -> Iterator[None]:
    """Tests that run tools in this process see the environment of those that start them."""
    before, same = dict(os.environ), environment()
    os.environ.clear()
    os.environ.update(same)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def sh(tmp_path: Path) -> Callable[..., Done]:
    """`sh("kvload ... | kvstats")`: bash with -euo pipefail, the tools on PATH, in a fresh folder.

    A tool that hangs is killed with its pipeline after `timeout_s`, and the test fails.
    """

    def run(
        command: str, *, stdin: str = "", cwd: Path | None = None, timeout_s: float = 120
    ) -> Done:
        with subprocess.Popen(
            ["bash", "-euo", "pipefail", "-c", command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=cwd or tmp_path,
            env=environment(),
            encoding="utf-8",
            start_new_session=True,
        ) as shell:
            try:
                out, err = shell.communicate(stdin, timeout_s)
            except BaseException:
                os.killpg(shell.pid, 9)
                raise
        status = shell.returncode
        return Done(status=status if status >= 0 else 128 - status, out=out, err=err)

    return run
