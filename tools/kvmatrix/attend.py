"""Runs make, and shows how far it is: `kvmatrix FILE --progress make -f - matrix`.

make stays what it is: its status and its death by a signal are ours, a terminal's Ctrl-C reaches it
as it would without us, SIGTERM is handed on, and it does not outlive us. Only what it says passes
through here on its way out.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kvmatrix.disk import NAMED
from kvmatrix.display import DRAW_S, Display, is_terminal
from kvmatrix.matrix import Matrix
from kvmatrix.progress import Progress, Seen, Took, due_of, told, took_before
from kvmatrix.quoting import GUARD
from kvmatrix.schedule import Step
from kvpipe.process import Stopped

OUT, ERR = 1, 2
CHUNK = 65_536


def attend(command: Sequence[str], matrix: Matrix, steps: Sequence[Step]) -> int:
    """Run the command; its status. Raises Stopped if a signal ended it."""
    if "n" in os.environ.get("MAKEFLAGS", "").partition(" ")[0]:
        os.execvp(command[0], list(command))  # make -n: nothing will happen
    progress = Progress(
        due_of(steps, matrix), began_s=time.monotonic(), took=took_before(steps, matrix)
    )
    folders = [step.attempts.folder for step in steps if step.attempt is not None]
    with subprocess.Popen(
        [*GUARD.split(), *command],
        stdout=subprocess.PIPE if _same(OUT, ERR) else None,
        stderr=subprocess.STDOUT if _same(OUT, ERR) else subprocess.PIPE,
        close_fds=False,  # make's jobserver
    ) as process:
        _hand_on(process)
        stream = process.stdout or process.stderr
        assert stream is not None
        _watch(process, stream.fileno(), progress, folders)
    if process.returncode < 0:
        raise Stopped(-process.returncode)
    return process.returncode


def _same(first: int, second: int) -> bool:
    """Whether both go to one place: then their order is kept, and the line is not torn."""
    try:
        return os.path.samestat(os.fstat(first), os.fstat(second))
    except OSError:
        return False


def _hand_on(process: subprocess.Popen[bytes]) -> None:
    """Ctrl-C reaches the whole group by itself; what is meant for one process is handed on."""
    signal.signal(signal.SIGINT, lambda _signum, _frame: None)
    for signum in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, lambda signum, _frame: process.send_signal(signum))


def _watch(
    process: subprocess.Popen[bytes], source: int, progress: Progress, folders: Sequence[Path]
) -> None:
    """Pass on what make says until it says no more, and draw in between.

    A server that somebody's command left running may hold the pipe open: make's end is enough.
    """
    display = Display(ERR, is_terminal(ERR))
    display.drawn_s = progress.began_s
    records = Records()
    rest = b""
    while True:
        ready, _, _ = select.select([source], [], [], DRAW_S)
        data = os.read(source, CHUNK) if ready else None
        now_s = time.monotonic()
        *lines, rest = (rest + (data or b"")).split(b"\n")
        for line in lines:
            _hear(line, now_s, progress, display)
        if data == b"" or (data is None and process.poll() is not None):
            break
        if progress.current is not None:
            there = records.follow(folders[progress.place - 1], progress.seen)
            progress.look(now_s)
            _tell(None if there else progress.end(now_s), display)
        if progress.place and not progress.over:
            display.draw(lambda cells: progress.line(time.monotonic(), cells), now_s)
    if rest:
        display.pass_on(rest, running=False)
    display.clear()


def _hear(line: bytes, now_s: float, progress: Progress, display: Display) -> None:
    _tell(progress.hear(line.decode(errors="replace"), now_s), display)
    if progress.over:
        display.clear()
    display.pass_on(line, running=progress.place > 0 and not progress.over)


def _tell(ended: Took | None, display: Display) -> None:
    """A step is over: said on a terminal, where its own lines are not seen; a failure says so."""
    if ended is not None and display.terminal and not ended.failed:
        display.say(told(ended))


@dataclass(slots=True)
class Records:
    """Reads what the running attempt has written since the last look."""

    path: Path | None = None
    offset: int = 0
    rest: bytes = b""

    def follow(self, folder: Path, seen: Seen) -> bool:
        """Bring `seen` up to date from the newest attempt in `folder` that is being made.

        False if the attempt that was followed has been published: its name has no `.part` now.
        """
        if self.path is not None and self.path.is_relative_to(folder) and published(self.path):
            return False
        path = newest_part(folder)
        if path is None:
            return True
        if path != self.path:
            self.path, self.offset, self.rest = path, 0, b""
        try:
            with path.open("rb") as stream:
                stream.seek(self.offset)
                data = stream.read()
        except OSError:
            return True  # not there yet, or just published
        self.offset += len(data)
        *lines, self.rest = (self.rest + data).split(b"\n")
        for line in lines:
            note(line, seen)
        return True


def published(path: Path) -> bool:
    """Whether the attempt in whose records somebody reads has become whole."""
    return path.parent.with_suffix("").exists()


def newest_part(folder: Path) -> Path | None:
    """The records of the attempt that runs; None if none does."""
    try:
        found = [NAMED.fullmatch(path.name) for path in folder.iterdir()]
    except OSError:
        return None
    numbers = [int(match["number"]) for match in found if match and match["part"]]
    return folder / f"attempt-{max(numbers)}.part" / "run.jsonl" if numbers else None


def note(line: bytes, seen: Seen) -> None:
    """One record: a round begins, or one of the scenario's own requests is over."""
    if line.startswith(b'{"record":"request"'):
        seen.done += b'"stratum":"sentinel"' not in line
    elif line.startswith(b'{"record":"run"'):
        head = json.loads(line)
        seen.round_number += 1
        seen.arm, seen.requests, seen.done = head["arm"], head["requests"], 0
