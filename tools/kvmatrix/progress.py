"""How far a matrix is: read off the lines that its recipes write, and off the records they keep.

Nothing here has a clock or draws: the time is handed in, and a line of a given width comes out.
The estimate of what is left begins as the plan's, and becomes what finished repeats really took.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from kvmatrix.disk import DESCRIBED
from kvmatrix.estimate import duration
from kvmatrix.matrix import Matrix
from kvmatrix.quoting import shown
from kvmatrix.schedule import Step

HEAD = re.compile(
    r"matrix: (?P<place>\d+)/(?P<steps>\d+): repeat (?P<repeat>\d+) of (?P<repeats>\d+):"
    r" (?P<name>.*) \(about [^()]* left in all\)"
)
FAILED = re.compile(r"matrix: (?P<place>\d+)/\d+: FAILED: ")
OVER = re.compile(r"matrix: the report is |Matrix: \d+ scenarios")
TELLING = 0.1
"""Share of a repeat's requests from which its own pace is worth more than the plan's guess."""
DOTS = " · "
LONG = "00 h 00 min"
LEAST_NAME = 8  # cells below which a name tells nothing
ARMS = {"cold": "cold", "hit": "hit", "no_reuse": "no reuse"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """A step that is still to do, as far as its progress can tell anything of it."""

    name: str
    number: int
    """Of its scenario in the matrix, from 1."""
    scenarios: int
    repeat: int
    repeats: int
    rounds: int
    """Of one repeat, its control among them."""
    estimate_s: float


def due_of(steps: Iterable[Step], matrix: Matrix) -> list[Due]:
    """The steps to do, in their order."""
    return [_due(step, matrix) for step in steps if step.attempt is not None]


def _due(step: Step, matrix: Matrix) -> Due:
    slugs = [scenario.slug for scenario in matrix.scenarios]
    return Due(
        name=shown(step.scenario.name),
        number=slugs.index(step.scenario.slug) + 1,
        scenarios=len(slugs),
        repeat=step.repeat,
        repeats=matrix.repeats,
        rounds=step.scenario.shape.rounds + step.scenario.shape.controls,
        estimate_s=step.scenario.shape.repeat_s,
    )


@dataclass(slots=True)
class Seen:
    """What the records of the running attempt tell: the round, and how many of its requests."""

    round_number: int = 0
    """From 1, in the order of running; 0: none has begun."""
    arm: str = ""
    requests: int = 0
    done: int = 0

    def share(self, rounds: int) -> float:
        """Part of the repeat's requests that are over, as if rounds were equally long."""
        if not self.round_number or not rounds:
            return 0.0
        here = min(1.0, self.done / self.requests) if self.requests else 0.0
        return min(1.0, (self.round_number - 1 + here) / rounds)


@dataclass(frozen=True, slots=True, kw_only=True)
class Took:
    """A step that is over."""

    due: Due
    seconds: float
    failed: bool


def took_before(steps: Iterable[Step], matrix: Matrix) -> list[Took]:
    """What complete attempts of earlier runs took, by their files' own stamps."""
    found = []
    for step in steps:
        for number in step.attempts.whole[-1:]:
            attempt = step.attempts.path(number)
            try:
                begun = (attempt / DESCRIBED).stat().st_mtime
                ended = (attempt / "run.jsonl").stat().st_mtime
            except OSError:
                continue  # its folder is being moved, or somebody tidied up
            seconds = max(0.0, ended - begun)
            found.append(Took(due=_due(step, matrix), seconds=seconds, failed=False))
    return found


@dataclass(slots=True)
class Progress:
    """The state of a run of make over `due`, in the order of running."""

    due: Sequence[Due]
    began_s: float
    place: int = 0
    """Of the step that runs, or ran last, from 1; 0: none yet."""
    running: bool = False
    step_began_s: float = 0.0
    rounds_began_s: float | None = None
    """When its first round was seen; before that it is isolated, planned and warmed up."""
    over: bool = False
    seen: Seen = field(default_factory=Seen)
    took: list[Took] = field(default_factory=list)

    @property
    def current(self) -> Due | None:
        """The step that runs."""
        at = self.place - 1
        return self.due[at] if self.running and 0 <= at < len(self.due) else None

    def hear(self, line: str, now_s: float) -> Took | None:
        """A line of make; the step that it shows to be over, if it does."""
        if head := HEAD.fullmatch(line):
            ended = self.end(now_s)
            if int(head["steps"]) != len(self.due):
                self.over = True  # of a second stage (--until): nothing here knows its steps
                return ended
            self.place, self.running, self.step_began_s = int(head["place"]), True, now_s
            self.rounds_began_s, self.seen = None, Seen()
            return ended
        if FAILED.match(line):
            return self.end(now_s, failed=True)
        if OVER.match(line):
            self.over = True
            return self.end(now_s)
        return None

    def look(self, now_s: float) -> None:
        """Its records have been read again."""
        if self.seen.round_number and self.rounds_began_s is None:
            self.rounds_began_s = now_s

    def end(self, now_s: float, *, failed: bool = False) -> Took | None:
        """The running step is over; None if none runs."""
        due, self.running = self.current, False
        if due is None:
            return None
        ended = Took(due=due, seconds=now_s - self.step_began_s, failed=failed)
        self.took.append(ended)
        return ended

    def left_s(self, now_s: float) -> float:
        """Seconds until the last step is over: measured where something was, else as planned."""
        coming = sum(self._expected(one) for one in self.due[self.place :])
        if self.current is None:
            return coming
        spent = now_s - self.step_began_s
        return coming + max(0.0, self._whole(self.current, now_s) - spent)

    def _whole(self, due: Due, now_s: float) -> float:
        """Seconds that the running step takes in all."""
        share = self.seen.share(due.rounds)
        if share < TELLING or self.rounds_began_s is None or self._own(due):
            return self._expected(due)
        before = self.rounds_began_s - self.step_began_s
        return before + (now_s - self.rounds_began_s) / share

    def _expected(self, due: Due) -> float:
        """By the scenario's own repeats, else by how wrong the plan was about the others."""
        if own := self._own(due):
            return sum(one.seconds for one in own) / len(own)
        good = [one for one in self.took if not one.failed]
        if not good:
            return due.estimate_s
        planned = sum(one.due.estimate_s for one in good)
        return due.estimate_s * sum(one.seconds for one in good) / planned

    def _own(self, due: Due) -> list[Took]:
        own = [one for one in self.took if one.due.number == due.number]
        return [one for one in own if not one.failed] or own

    def line(self, now_s: float, cells: int) -> str:
        """The state in at most `cells`: the name is cut first, then what is known anyway goes."""
        elapsed = duration(now_s - self.began_s)
        due = self.current
        if due is None:
            what = "making the report" if self.place == len(self.due) else "between two steps"
            return cut(f"{what}{DOTS}{elapsed} so far", cells)
        forms = self._forms(due, elapsed, self._left(now_s))
        # Which form fits is settled by the longest that it may become: a calm line does not jump.
        longest = self._forms(due, LONG, f"about {LONG} left", widest=True)
        for form, most in zip(forms, longest, strict=True):
            if cells - width(most + DOTS) >= min(LEAST_NAME, width(due.name)):
                return f"{form}{DOTS}{cut(due.name, cells - width(form + DOTS))}"
        return cut(forms[-1], cells)

    def _left(self, now_s: float) -> str:
        left_s = self.left_s(now_s)
        return f"about {duration(left_s)} left" if left_s >= 1 else "nearly done"

    def _forms(self, due: Due, elapsed: str, left: str, *, widest: bool = False) -> list[str]:
        """The line without the name, the fullest first."""
        seen = self.seen
        phase, request = "preparing", ""
        if seen.round_number or widest:
            number = due.rounds if widest else seen.round_number
            arm = max(ARMS.values(), key=len) if widest else ARMS.get(seen.arm, seen.arm)
            phase = f"round {number} of {due.rounds} {arm}"
            total = seen.requests or 999
            request = f"request {total if widest else seen.done} of {total}"
        scenario, repeat = f"{due.number} of {due.scenarios}", f"{due.repeat} of {due.repeats}"
        short = [f"{due.number}/{due.scenarios}", f"repeat {due.repeat}/{due.repeats}"]
        forms = [
            [
                f"scenario {scenario}",
                f"repeat {repeat}",
                phase,
                request,
                f"{elapsed} so far, {left}",
            ],
            [*short, phase, request, f"{elapsed} so far, {left}"],
            [*short, phase, request, left],
            [short[0], request or phase, left],
            [short[0], left],
        ]
        return [DOTS.join(part for part in parts if part) for parts in forms]


def told(took: Took) -> str:
    """A line about a step that is over."""
    due = took.due
    how = "failed after" if took.failed else "done in"
    return (
        f"matrix: {how} {duration(took.seconds)}: repeat {due.repeat} of {due.repeats}: {due.name}"
    )


def width(text: str) -> int:
    """Cells of a terminal."""
    return sum(map(_cells, text))


def _cells(sign: str) -> int:
    if unicodedata.combining(sign) or unicodedata.category(sign) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(sign) in "WF" else 1


def cut(text: str, cells: int) -> str:
    """The text, or its beginning and an ellipsis."""
    if width(text) <= cells:
        return text
    kept, room = "", cells - 1
    for sign in text:
        room -= _cells(sign)
        if room < 0:
            break
        kept += sign
    return f"{kept}…" if cells > 0 else ""
