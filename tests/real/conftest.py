"""The real engines for a session: two vLLM nodes and a Mooncake master, started once.

Nothing is installed here (stack/install.sh does that). Without it these tests are skipped with
the reason; KV_REQUIRE_REAL=1 makes that a failure.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
from tests.real.engine import NODES, Stack, stack_up


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything that uses the stack bears the mark, so that `-m 'not real'` leaves it out."""
    for item in items:
        if "real_stack" in getattr(item, "fixturenames", ()):
            item.add_marker("real")


def refuse(reason: str) -> None:
    if os.environ.get("KV_REQUIRE_REAL") == "1":
        pytest.fail(f"KV_REQUIRE_REAL=1, but {reason}", pytrace=False)
    pytest.skip(reason)


def check(*flags: str) -> None:
    found = subprocess.run(
        [sys.executable, str(NODES), "check", *flags], capture_output=True, text=True, check=False
    )
    if found.returncode:
        refuse(found.stderr.strip().removeprefix("nodes.py: "))


@pytest.fixture(scope="session")
def installed_stack() -> None:
    """The environment is there; else skipped, or failed with KV_REQUIRE_REAL=1."""
    check()


@pytest.fixture(scope="session")
def installed_lmcache() -> None:
    """The one with LMCache too."""
    check("--connector", "lmcache-mp")


@pytest.fixture(scope="session")
def real_stack(installed_stack: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """URLs of two nodes and the store, up until the session's end."""
    with stack_up(tmp_path_factory.mktemp("real-stack")) as up:
        yield Stack(
            node_a=up["nodes"][0],
            node_b=up["nodes"][1],
            mooncake=up["master"],
            model=up["model"],
        )


@pytest.fixture
def empty_stack(real_stack: Stack) -> Stack:
    """The same stack with nothing cached anywhere."""
    real_stack.empty()
    return real_stack
