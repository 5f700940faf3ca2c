"""What makes a property a fuzz target: a budget in CI, a long run without one, no hang, a count.

`pytest tests/fuzz` runs each target for the few examples that CI has time for, always the same
ones. `python -m tests.fuzz` (`make fuzz`) takes the targets in turn, with new examples, until its
time is over; what it found is kept in a folder, and tried first the next time.
"""

from __future__ import annotations

import functools
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

HANG_S = 60
"""An example that takes longer hangs: a slow machine needs a hundredth of it."""

SHRINK_S = 30

T = TypeVar("T")


class Hung(Exception):
    """An example did not end."""


@dataclass(frozen=True, slots=True)
class Fall:
    """The last input that failed, which is nearly the smallest; and how long to look for one."""

    value: Any
    told: str
    until: float


@dataclass
class Target:
    """One thing that is fuzzed."""

    name: str
    what: str
    body: Callable[[Any], None]
    inputs: st.SearchStrategy[Any]
    tried: int = 0
    fell: Fall | None = None

    def once(self, value: Any) -> None:
        """Try one input."""
        if self.fell is not None and time.monotonic() > self.fell.until:
            return  # small enough: Hypothesis would go on for five minutes
        self.tried += 1
        try:
            with ends():
                self.body(value)
        except Exception:
            until = time.monotonic() + SHRINK_S if self.fell is None else self.fell.until
            self.fell = Fall(value, traceback.format_exc(), until)
            raise


TARGETS: dict[str, Target] = {}


def fuzzed(
    inputs: st.SearchStrategy[T], *, examples: int
) -> Callable[[Callable[[T], None]], Callable[[], None]]:
    """The function becomes a test of `examples` inputs, and a target of the long run."""

    def made(body: Callable[[T], None]) -> Callable[[], None]:
        name = body.__name__.removeprefix("test_")
        target = Target(
            name=name, what=(body.__doc__ or "").split("\n")[0], body=body, inputs=inputs
        )
        TARGETS[name] = target
        run = settings(QUIET, max_examples=examples, derandomize=True, database=None)(
            given(inputs)(_taking_one(target))
        )

        @functools.wraps(body)
        def test() -> None:
            run()

        del test.__wrapped__  # type: ignore[attr-defined]  # pytest would see its argument
        return test

    return made


def _taking_one(target: Target) -> Callable[[Any], None]:
    def example(value: Any) -> None:
        target.once(value)

    return example


QUIET = settings(
    deadline=None,
    suppress_health_check=list(HealthCheck),
    report_multiple_bugs=False,
    phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
)


@contextmanager
def ends() -> Iterator[None]:
    """`Hung` in what takes too long, wherever it is."""

    def over(*_: object) -> None:
        raise Hung(f"not over within {HANG_S} s")

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, HANG_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
