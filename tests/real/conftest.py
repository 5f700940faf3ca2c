"""The real engines for a session: two vLLM nodes and a Mooncake master, started once.

Nothing is installed here (stack/install.sh does that). Without it these tests are skipped with
the reason; KV_REQUIRE_REAL=1 makes that a failure.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.real.engine import Stack

NODES = Path(__file__).resolve().parents[2] / "stack" / "nodes.py"
STOP_S = 60.0


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything that uses the stack bears the mark, so that `-m 'not real'` leaves it out."""
    for item in items:
        if "real_stack" in getattr(item, "fixturenames", ()):
            item.add_marker("real")


def refuse(reason: str) -> None:
    if os.environ.get("KV_REQUIRE_REAL") == "1":
        pytest.fail(f"KV_REQUIRE_REAL=1, but {reason}", pytrace=False)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def installed_stack() -> None:
    """The environment is there; else skipped, or failed with KV_REQUIRE_REAL=1."""
    check = subprocess.run(
        [sys.executable, str(NODES), "check"], capture_output=True, text=True, check=False
    )
    if check.returncode:
        refuse(check.stderr.strip().removeprefix("nodes.py: "))


@pytest.fixture(scope="session")
def real_stack(installed_stack: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """URLs of two nodes and the store, up until the session's end."""
    progress = tmp_path_factory.mktemp("real-stack") / "nodes.stderr"
    with (
        progress.open("w") as stderr,
        subprocess.Popen(
            [sys.executable, str(NODES), "up", "--dir", str(progress.parent)],
            stdin=subprocess.PIPE,  # its end is the order to stop, whatever becomes of us
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        ) as process,
    ):
        assert process.stdin is not None and process.stdout is not None
        line = process.stdout.readline()
        if not line:
            pytest.fail(f"the real stack did not start:\n{progress.read_text()}", pytrace=False)
        up = json.loads(line)
        try:
            yield Stack(
                node_a=up["nodes"][0],
                node_b=up["nodes"][1],
                mooncake=up["master"],
                model=up["model"],
            )
        finally:
            process.stdin.close()
            process.wait(timeout=STOP_S)


@pytest.fixture
def empty_stack(real_stack: Stack) -> Stack:
    """The same stack with nothing cached anywhere."""
    real_stack.empty()
    return real_stack
