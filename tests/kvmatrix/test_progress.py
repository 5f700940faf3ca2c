"""Progress: what is left by what was measured, one calm line on a terminal, plain lines in a log.

The terminal is a real pty, and what stands on it is worked out by the few signs that are used.
"""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import termios
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from tests.kvmatrix.matrices import Site, clean_environment
from tests.simulated import Sim

from kvmatrix.attend import Records, newest_part
from kvmatrix.display import Display
from kvmatrix.matrix import read_matrix
from kvmatrix.progress import (
    FAILED,
    HEAD,
    Due,
    Progress,
    cut,
    due_of,
    told,
    took_before,
    width,
)
from kvmatrix.schedule import schedule

NAME = "腾讯云-跨节点-Qwen2.5-72B"
RUN = "kvmatrix m.yaml -q > rules && kvmatrix m.yaml --progress make -f - matrix < rules"


def steps(scenarios: int = 2, repeats: int = 2, estimate_s: float = 100.0) -> list[Due]:
    """Complete blocks, as the schedule makes them."""
    return [
        Due(
            name=f"s{number}",
            number=number,
            scenarios=scenarios,
            repeat=repeat,
            repeats=repeats,
            rounds=3,
            estimate_s=estimate_s * number,
        )
        for repeat in range(1, repeats + 1)
        for number in range(1, scenarios + 1)
    ]


def head(place: int, due: list[Due]) -> str:
    one = due[place - 1]
    return (
        f"matrix: {place}/{len(due)}: repeat {one.repeat} of {one.repeats}: {one.name}"
        " (about 3 min left in all)"
    )


# --- what is left --------------------------------------------------------------------------------


def test_the_plan_is_believed_until_something_was_measured() -> None:
    due = steps()
    progress = Progress(due, began_s=0.0)
    assert progress.left_s(0.0) == 600
    assert progress.hear(head(1, due), 10.0) is None
    assert progress.left_s(10.0) == 600 and progress.left_s(40.0) == 570
    ended = progress.hear(head(2, due), 60.0)
    assert ended is not None and (ended.seconds, ended.failed) == (50.0, False)
    # s1 took half of what was planned: s2 is taken for 100, s1 for 50, s2 for 100 again.
    assert progress.left_s(60.0) == 250
    progress.hear(head(3, due), 360.0)
    # Measured themselves: s1 50, s2 300.
    assert progress.left_s(360.0) == 350
    assert progress.left_s(1_000.0) == 300, "what is late has nothing left, and no less"


def test_a_failure_says_nothing_of_the_others() -> None:
    due = steps()
    progress = Progress(due, began_s=0.0)
    progress.hear(head(1, due), 0.0)
    progress.hear("matrix: 1/4: FAILED: s1: what was written lies in out/x", 2.0)
    ended = progress.hear(head(2, due), 2.0)
    assert ended is None, "the line about its failure was enough"
    assert [(one.seconds, one.failed) for one in progress.took] == [(2.0, True)]
    assert progress.left_s(2.0) == 200 + 2 + 200, "its own repeats fail as fast, the others do not"


def test_a_running_step_is_judged_by_its_own_requests() -> None:
    due = steps(scenarios=1, repeats=1)
    progress = Progress(due, began_s=0.0)
    progress.hear(head(1, due), 0.0)
    progress.seen.round_number, progress.seen.requests = 1, 10
    progress.look(20.0)
    progress.seen.round_number, progress.seen.done = 2, 5
    progress.look(50.0)
    assert progress.left_s(50.0) == pytest.approx(30.0), "half of three rounds took 30 s"


def test_at_the_end_nothing_is_left() -> None:
    due = steps()
    progress = Progress(due, began_s=0.0)
    for place in range(1, 5):
        progress.hear(head(place, due), place * 10.0)
    assert progress.hear("matrix: the report is out/report.md", 50.0) is not None
    assert progress.left_s(60.0) == 0 and progress.current is None
    assert progress.hear("Matrix: 2 scenarios in all", 61.0) is None, "told once"


def test_the_steps_of_a_second_stage_are_not_taken_for_the_first_ones() -> None:
    progress = Progress(due=[], began_s=0.0)
    assert progress.hear("matrix: 1/4: repeat 4 of 5: a (about 9 s left in all)", 1.0) is None
    assert progress.over
    assert progress.current is None


def test_earlier_runs_count(site: Site) -> None:
    """A matrix of two repeats of which one is there, and took 70 s by its files."""
    site.config("c.yaml", "http://127.0.0.1:9/v1")
    path = site.matrix(
        [{"name": "x", "config_file": "c.yaml", "scenario": "cold_start"}], repeats=2
    )
    matrix = read_matrix(str(path), allow_commands=False)
    matrix = replace(matrix, out=site.folder / "out")
    [scenario] = matrix.scenarios
    whole = matrix.out / scenario.slug / "repeat-1" / "attempt-1"
    whole.mkdir(parents=True)
    (whole / "scenario.json").write_text(json.dumps({"fingerprint": scenario.fingerprint}))
    (whole / "run.jsonl").write_text("")
    os.utime(whole / "scenario.json", (1_000, 1_000))
    os.utime(whole / "run.jsonl", (1_070, 1_070))
    planned = schedule(matrix, None)
    before = took_before(planned, matrix)
    assert [(one.due.repeat, one.seconds) for one in before] == [(1, 70.0)]
    due = due_of(planned, matrix)
    assert [one.repeat for one in due] == [2]
    assert Progress(due, began_s=0.0, took=before).left_s(0.0) == 70


# --- the line ------------------------------------------------------------------------------------


@pytest.mark.parametrize("cells", [200, 100, 80, 60, 40, 25, 12, 3])
def test_no_line_is_wider_than_asked_and_what_matters_stays(cells: int) -> None:
    due = [replace(one, name=NAME) for one in steps()]
    progress = Progress(due, began_s=0.0)
    progress.hear(head(2, due), 60.0)
    progress.look(60.0)
    progress.seen.round_number, progress.seen.arm = 3, "hit"
    progress.seen.requests, progress.seen.done = 84, 12
    progress.look(60.0)
    line = progress.line(400.0, cells)
    assert 0 < width(line) <= cells
    if cells >= 200:
        assert line == (
            "scenario 2 of 2 · repeat 1 of 2 · round 3 of 3 hit · request 12 of 84"
            f" · 7 min so far, about 7 min left · {NAME}"
        )
    if cells >= 60:
        assert "request 12 of 84" in line and "left" in line
    if cells >= 40:
        assert line.startswith(("scenario 2 of 2", "2/2")) and "about 7 min left" in line


@pytest.mark.parametrize("cells", [30, 50, 70, 90, 110, 130])
def test_the_line_keeps_its_form_while_numbers_grow(cells: int) -> None:
    """Else words would jump from side to side with each request."""
    due = [replace(one, name=NAME) for one in steps()]
    progress = Progress(due, began_s=0.0)
    progress.hear(head(1, due), 0.0)
    forms = set()
    for number, arm in enumerate(("no_reuse", "cold", "hit"), 1):
        progress.seen.round_number, progress.seen.arm, progress.seen.requests = number, arm, 120
        for done in (0, 9, 10, 99, 120):
            progress.seen.done = done
            for now in (1.0, 80.0, 500.0, 4_000.0):
                forms.add(progress.line(now, cells).partition(" · ")[0])
    assert len(forms) == 1


def test_after_the_last_step_it_is_the_report(tmp_path: Path) -> None:
    due = steps(scenarios=1, repeats=1)
    progress = Progress(due, began_s=0.0)
    progress.hear(head(1, due), 0.0)
    part = tmp_path / "attempt-1.part"
    part.mkdir()
    (part / "run.jsonl").write_bytes(b"")
    records = Records()
    assert records.follow(tmp_path, progress.seen)
    part.rename(tmp_path / "attempt-1")
    assert not records.follow(tmp_path, progress.seen), "published"
    assert progress.end(90.0) is not None and progress.end(91.0) is None
    assert progress.line(95.0, 80) == "making the report · 2 min so far"


def test_names_are_cut_by_their_cells() -> None:
    assert cut(NAME, width(NAME)) == NAME
    assert cut("腾讯云", 5) == "腾讯…" and cut("腾讯云", 4) == "腾…"
    assert cut("abc", 1) == "…" and cut("abc", 0) == ""


def test_it_reads_what_the_rules_write(site: Site) -> None:
    """A guard on the guard: the recipes' own words, with a name full of traps."""
    name = "a (about 1 s left in all) $x\n腾"
    site.config("c.yaml", "http://127.0.0.1:9/v1")
    site.matrix([{"name": name, "config_file": "c.yaml", "scenario": "cold_start"}], repeats=2)
    _, said = site.run("kvmatrix m.yaml -q | make -f -")
    heads = [found for line in said.splitlines() if (found := HEAD.fullmatch(line))]
    assert [(found["place"], found["steps"]) for found in heads] == [("1", "2"), ("2", "2")]
    assert {found["name"] for found in heads} == {"a (about 1 s left in all) $x\\n腾"}
    assert sum(bool(FAILED.match(line)) for line in said.splitlines()) == 2


# --- records -------------------------------------------------------------------------------------


def test_records_are_counted_as_they_grow(tmp_path: Path) -> None:
    records, progress = Records(), Progress(steps(), began_s=0.0)
    old, new = tmp_path / "attempt-2.part", tmp_path / "attempt-10.part"
    for folder in (old, new, tmp_path / "attempt-11", tmp_path / "notes"):
        folder.mkdir()
    assert newest_part(tmp_path) == new / "run.jsonl"
    assert newest_part(tmp_path / "nowhere") is None
    records.follow(tmp_path, progress.seen)  # no file yet
    path = new / "run.jsonl"
    begun = b'{"record":"run","schema":1,"arm":"%s","requests":3,"sentinels":1}\n'
    asked = b'{"record":"request","schema":1,"stratum":"unique"}\n'
    sentinel = b'{"record":"request","schema":1,"stratum":"sentinel"}\n'
    parts = [begun % b"cold", asked[:20], asked[20:] + sentinel, asked, begun % b"hit", asked]
    seen = []
    for part in parts:
        with path.open("ab") as stream:
            stream.write(part)
        records.follow(tmp_path, progress.seen)
        seen.append((progress.seen.round_number, progress.seen.arm, progress.seen.done))
    assert seen == [
        *((1, "cold", 0), (1, "cold", 0), (1, "cold", 1), (1, "cold", 2)),
        *((2, "hit", 0), (2, "hit", 1)),
    ]
    assert progress.seen.share(4) == pytest.approx((1 + 1 / 3) / 4)


# --- drawing -------------------------------------------------------------------------------------


def test_it_draws_at_most_twice_a_second_and_only_what_changed() -> None:
    reading, writing = os.pipe()
    display = Display(writing, terminal=True)
    for tenth in range(100):
        display.draw(lambda _cells, text=f"at {tenth // 20}": text, tenth / 10)  # type: ignore[misc]
    display.clear()
    os.close(writing)
    with os.fdopen(reading, "rb") as stream:
        drawn = stream.read()
    assert drawn.count(b"\r\x1b[K") == 5 + 1, "five states in ten seconds, and it is cleared"


def test_a_terminal_that_has_gone_is_no_reason_to_stop() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    display = Display(writing, terminal=False)
    display.say("nobody hears")
    display.pass_on(b"nor this", running=False)
    assert display.gone
    os.close(writing)


def screen(written: str, columns: int) -> list[str]:
    """What stands on a terminal after `written`; AssertionError where a line would have wrapped."""
    lines, at = [""], 0
    for part in re.findall(r"\x1b\[K|\r|\n|[^\x1b\r\n]+|\x1b", written):
        if part == "\n":
            lines.append("")
            at = 0
        elif part == "\r":
            at = 0
        elif part == "\x1b[K":
            lines[-1] = lines[-1][:at]
        else:
            assert part != "\x1b", "a sequence that nobody expected"
            lines[-1] = lines[-1][:at] + part + lines[-1][at + len(part) :]
            at += len(part)
    return [line.rstrip() for line in lines]


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What a command wrote to a terminal, how it ended, and how long it took."""

    status: int
    written: str
    seconds: float


def on_terminal(site: Site, command: str, columns: int, interrupt_at: str | None = None) -> Shown:
    """The command in a terminal of its own, as a shell would start it; Ctrl-C when told so."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    began = time.monotonic()

    def controlling() -> None:
        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    process = subprocess.Popen(
        ["bash", "-c", command],
        cwd=site.folder,
        env=clean_environment() | {"TERM": "xterm", "CI": ""},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        preexec_fn=controlling,
    )
    os.close(theirs)
    written = b""
    try:
        while True:
            try:
                data = os.read(ours, 65_536)
            except OSError:  # Linux: the last one has closed it
                break
            if not data:
                break
            written += data
            if interrupt_at is not None and interrupt_at.encode() in written:
                interrupt_at = None
                os.write(ours, b"\x03")
        status = process.wait(120)
    finally:
        os.close(ours)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return Shown(
        status=status,
        written=written.decode(errors="replace").replace("\r\n", "\n"),
        seconds=time.monotonic() - began,
    )


def two(site: Site, url: str, **keys: Any) -> None:
    site.config("c.yaml", url)
    site.matrix(
        [
            {"name": NAME, "config_file": "c.yaml", "scenario": "cold_start"},
            {"name": "second", "config_file": "c.yaml", "scenario": "long_context_high_reuse"},
        ],
        repeats=1,
        **keys,
    )


@pytest.mark.parametrize("columns", [100, 34])
def test_on_a_terminal_one_line_is_drawn_and_gone_at_the_end(
    site: Site, quick: Sim, columns: int
) -> None:
    two(site, quick.url)
    shown = on_terminal(site, RUN, columns)
    assert shown.status == 0
    draws = re.findall(r"\r\x1b\[K((?:scenario )?\d(?:/| of )2 · [^\r\n\x1b]*)", shown.written)
    assert draws, "nothing was drawn"
    assert all(width(line) < columns for line in draws)
    done = shown.written.count("matrix: done in")
    assert len(draws) <= 2 * shown.seconds + 1 + 2 * done, "a calm display"
    final = "\n".join(screen(shown.written, columns))
    assert "·" not in final, "the line is gone"
    assert f"repeat 1 of 1: {NAME}\n" in final and "repeat 1 of 1: second\n" in final
    assert "Matrix: 2 scenarios in all, 2 succeeded" in final
    assert "succeeded: second: 1 of 1 repeats" in final, "the summary is whole"
    assert "Cache Hit" not in final and "kvplan: " not in final, "details stand in the log"
    log = next((site.folder / "out").glob("second-*/log")).read_text(encoding="utf-8")
    assert "Cache Hit" in log and "\x1b" not in log and "\r" not in log


def test_ctrl_c_leaves_a_clean_terminal_and_what_is_missing_is_done_later(
    site: Site, quick: Sim
) -> None:
    two(site, quick.url)
    shown = on_terminal(site, RUN, 100, interrupt_at="preparing")
    assert shown.status != 0
    final = screen(shown.written, 100)
    assert not any("·" in line and "left" in line for line in final)
    assert "Matrix: 2 scenarios" not in "\n".join(final)
    status, said = site.run(RUN)
    assert status == 0 and "2 succeeded" in said
    assert len(site.runs()) == 2
    # And this was a log: all lines, in their order, and nothing drawn.
    assert "\x1b" not in said and "\r" not in said
    assert len([line for line in said.splitlines() if HEAD.fullmatch(line)]) == 2
    assert said.count("🔥 Cache Hit") == 2
    assert said.rstrip().endswith("succeeded: second: 1 of 1 repeats")


def test_make_keeps_its_status_and_its_streams(site: Site, quick: Sim) -> None:
    site.config("gone.yaml", "http://127.0.0.1:9/v1")
    site.matrix([{"name": "x", "config_file": "gone.yaml", "scenario": "cold_start"}], repeats=1)
    status, said = site.run(f"s=0; ({RUN}) 2> err || s=$?; echo; cat err >&2; exit $s")
    assert status == 2, "as without progress"
    out, _, err = said.partition("\n\n")
    assert out.startswith("Matrix: 1 scenarios in all, 0 succeeded, 1 failed"), "on stdout"
    assert "FAILED: x" in err and "connection refused" in err


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL])
def test_a_signal_is_handed_on_and_is_the_end(site: Site, quick: Sim, signum: int) -> None:
    two(site, quick.url)
    command = f"{RUN.partition('&&')[0]} && exec {RUN.partition('&& ')[2]}"
    with site.start(command) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "Round 1" in line:
                break
        process.send_signal(signum)
        process.stdout.read()  # to its end: nothing of it holds the pipe any longer
        assert process.wait(60) == -signum
    assert site.runs() == []


def test_what_a_step_took_is_told_in_a_line() -> None:
    due = steps()
    progress = Progress(due, began_s=0.0)
    progress.hear(head(1, due), 0.0)
    ended = progress.hear(head(2, due), 300.0)
    assert ended is not None
    assert told(ended) == "matrix: done in 5 min: repeat 1 of 2: s1"
