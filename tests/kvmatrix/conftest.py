from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.kvmatrix.matrices import QUICK, Site
from tests.simulated import Sim, kvsim


@pytest.fixture(scope="module")
def quick() -> Iterator[Sim]:
    """A simulated engine of which a repeat takes about a second."""
    with kvsim(*QUICK) as engine:
        yield engine


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)
