"""The runs of `runs.py` and `other_runs.py`, started together and waited for one by one."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from inspect import getsource

import pytest
from tests.kvclear import other_runs, runs
from tests.kvclear.runs import Run

AT_ONCE = 8
RUNS = runs.RUNS | other_runs.OTHER_RUNS


@pytest.fixture(scope="session")
def result_of(request: pytest.FixtureRequest) -> Iterator[Callable[[str], Run]]:
    """`result_of("healthy pair")`; only runs that a collected test names are started."""
    functions = {
        item.function
        for item in request.session.items
        if isinstance(item, pytest.Function) and "result_of" in item.fixturenames
    }
    named = {name for test in functions for name in RUNS if named_in(test, name)}
    with ThreadPoolExecutor(AT_ONCE) as pool:
        started: dict[str, Future[Run]] = {
            name: pool.submit(RUNS[name]) for name in RUNS if name in named
        }
        yield lambda name: started[name].result(timeout=300)


def named_in(test: Callable[..., object], name: str) -> bool:
    """Whether a test's source, decorators included, has the name as a string."""
    return re.search(f'"{re.escape(name)}"', getsource(test)) is not None
