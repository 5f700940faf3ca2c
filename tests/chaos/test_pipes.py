"""`kvload | kvstats | kvreport` with each stage killed at a random moment.

`make chaos` does it 27 times, here it is once for each stage. tee stands behind kvload and keeps
what it wrote; kvsim's log says which answers were whole. Nothing may hang, crash or be lost, and
whoever is left says by its status that something is missing.
"""

from __future__ import annotations

import contextlib
import os
import random
import shlex
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.chaos.killing import INT, KILL, TERM, Kill, all_gone, at_work, drawn
from tests.chaos.witness import compare, whole_lines
from tests.kvmatrix.matrices import Site
from tests.simulated import kvsim

FULL = bool(os.environ.get("KV_CHAOS_FULL"))
SEED = int(os.environ.get("KV_CHAOS_SEED", "9"))
TURNS = 27 if FULL else 3
REQUESTS, TOKENS = (30, 6) if FULL else (8, 4)
STAGES = ["kvload", "kvstats", "kvreport"]
POOL = [(stage, how) for how in (KILL, TERM, INT) for stage in STAGES]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    truth = tmp_path_factory.mktemp("truth") / "truth.jsonl"
    with kvsim("--fault", "no_metrics", "--step-ms", "12", "--truth", str(truth)) as sim:
        yield sim.url, truth


def test_a_killed_stage_loses_nothing(engine: tuple[str, Path], tmp_path: Path) -> None:
    url, truth = engine
    chance = random.Random(SEED)
    victims = drawn(POOL, chance) if FULL else iter([("kvload", KILL), ("kvstats", TERM),
        ("kvreport", KILL)])  # fmt: skip
    told = []
    for turn in range(TURNS):
        who, how = next(victims)
        folder = tmp_path / str(turn)
        folder.mkdir()
        before = truth.stat().st_size
        moment = chance.uniform(0.0, REQUESTS * 0.2)
        kill, statuses, said = piped(Site(folder), url, who, how, moment)
        seen = folder / "truth.jsonl"
        seen.write_bytes(truth.read_bytes()[before:])
        found = compare(seen, [folder / "records.jsonl"], [kill])
        where = f"seed {SEED}, turn {turn}: {how.name} {who}: {statuses}, {found}\n{said}"
        told.append(f"{how.name} {who}: {statuses}, {found}")
        assert not found.lost, where
        assert "Traceback" not in said and "Exception ignored" not in said, where
        judged(folder, who, how, statuses, where)
    print(f"\nseed {SEED}\n" + "\n".join(told), flush=True)


def piped(
    site: Site, url: str, who: str, how: signal.Signals, moment_s: float
) -> tuple[Kill, list[int], str]:
    """One pipeline, one of its stages killed: when, each stage's status, and what was said."""
    load = (
        f"kvload -q --url {url} --scenario cold_start --requests {REQUESTS} --context-tokens 200"
        f" --output-tokens {TOKENS} --sentinels 1 --rounds 2 --pause 0 --warmup 0"
    )
    stages = [load, "tee records.jsonl", "kvstats", "kvreport --format json"]
    run = " | ".join(f"{stage} 2> {number}.said" for number, stage in enumerate(stages))
    command = f"set +e +o pipefail; {run} > report.json; echo ${{PIPESTATUS[*]}} > statuses"
    with site.start(f"exec bash -c {shlex.quote(command)}") as process:
        until = time.monotonic() + 60
        records = site.folder / "records.jsonl"
        while not (records.exists() and b'"record":"request"' in records.read_bytes()):
            assert time.monotonic() < until and process.poll() is None, "nothing was sent"
            time.sleep(0.01)
        time.sleep(moment_s)
        at_ns = time.perf_counter_ns()
        with contextlib.suppress(ProcessLookupError):
            for pid, name in at_work(site.folder).items():
                if name == who:
                    os.kill(pid, how)
        process.communicate(timeout=120)
    all_gone(site.folder)
    statuses = [int(word) for word in (site.folder / "statuses").read_text().split()]
    said = "".join(
        (site.folder / f"{number}.said").read_text(errors="replace") for number in range(4)
    )
    ended = who == "kvload" or (who, how) == ("kvstats", KILL)  # then kvload's next record fails
    gone_ns = time.perf_counter_ns() if ended else None
    return Kill(who=who, how=how, at_ns=at_ns, gone_ns=gone_ns), statuses, said


def judged(folder: Path, who: str, how: signal.Signals, statuses: list[int], where: str) -> None:
    """Statuses that fit, and records that kvstats counts as they are, half a line left out."""
    load, _, stats, report = statuses
    rows = list(whole_lines(folder / "records.jsonl"))
    ended = sum(row["record"] == "end" and row["complete"] for row in rows)
    if ended == 2 and load == 0 and stats == 0 and report == 0:
        return  # it was over before
    died = 128 + how
    own = {"kvload": load, "kvstats": stats, "kvreport": report}[who]
    assert own in (died, 0), where
    if who == "kvload" and load == died:
        assert stats == 1, f"kvstats did not say that something is missing: {where}"
    if who == "kvstats" and how == KILL and stats == died:
        assert load in (0, 141) and report == 2, where
    if who == "kvstats" and how != KILL:  # it waits for what kvload will write, and then dies
        assert (load, report) == (0, 0), where
    if who == "kvreport" and report == died:
        assert load == 0 and stats in (0, 141), where
    counted = subprocess.run(
        ["kvstats", str(folder / "records.jsonl")], capture_output=True, text=True, check=False
    )
    assert counted.returncode == (0 if ended == 2 else 1), where + counted.stderr
