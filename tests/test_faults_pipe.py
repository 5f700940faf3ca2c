"""Faults between the tools (tests/faults.py): stages that die, streams that are not whole."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.conftest import Done
from tests.fakeserver import FakeServer, Hang
from tests.family import ROOT, environment
from tests.faults import PIPED, Piped, row_named
from tests.faulty import Faulty, Records, kvload, records, workload
from tests.kvmatrix.matrices import QUICK, Site
from tests.simulated import kvsim

Shell = Callable[..., Done]


def codes(stats: Records) -> list[str]:
    return [finding["code"] for one in stats for finding in one["findings"]]


@pytest.mark.parametrize("row", PIPED, ids=lambda row: row.name)
def test_a_pipeline_that_is_a_fault(row: Piped, sh: Shell) -> None:
    done = sh(row.command, cwd=ROOT)
    assert done.status == row.returned, done.err
    assert row.said in done.err and "Traceback" not in done.err
    assert row.said or not done.err
    stats = records(done.out, "round_stats") if done.out.startswith("{") else []
    assert tuple(one["complete"] for one in stats) == row.whole
    for one in stats:
        assert ("incomplete" in codes([one])) != one["complete"]
    assert bool(done.out) == (bool(row.whole) or row.returned < 2)


def test_a_stage_that_dies(tmp_path: Path) -> None:
    row = row_named("stage-dies")
    faulty = Faulty([Hang()])
    with FakeServer(faulty) as server:
        line = kvload(server.url, workload(tmp_path, "good one", "good two", "bad three"))
        read, write = os.pipe()
        load = subprocess.Popen(
            line.split(), stdout=write, stderr=subprocess.DEVNULL, env=environment()
        )
        os.close(write)
        stats = subprocess.Popen(
            ["kvstats"],
            stdin=read,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(),
            text=True,
        )
        os.close(read)
        assert faulty.met.wait(60)
        time.sleep(1.1)
        load.kill()
        load.wait(60)
        out, err = stats.communicate(timeout=60)
    assert stats.returncode == row.returned and row.said in err
    (told,) = records(out, "round_stats")
    assert told["complete"] is False and "incomplete" in codes([told])
    assert len(told["samples"]["index"]) == 2, "the requests before it are lost"


def test_shards_in_one_stream(sh: Shell, tmp_path: Path) -> None:
    """Two shards of a round: line by line in turn, one after the other, and one alone."""
    row, alone = row_named("interleaved"), row_named("lost-shard")
    faulty = Faulty([])
    with FakeServer(faulty) as server:
        line = kvload(
            server.url, workload(tmp_path, *(f"{letter * 40} good" for letter in "abcdefghijkl"))
        )
        shards = f"{line} --experiment e --shard"
        sent = sh(f"{shards} 0/2 > a & {shards} 1/2 > b; wait $!")
    assert sent.status == 0 and faulty.good_seen == 12
    mixed = sh("paste -d '\\n' a b | grep . | kvstats")
    after = sh("cat a b | kvstats")
    assert (mixed.status, mixed.err) == (row.returned, row.said)
    assert mixed.out == after.out
    (stats,) = records(mixed.out, "round_stats")
    assert stats["complete"] and stats["total_requests"] == 12
    one = sh("kvstats a")
    (stats,) = records(one.out, "round_stats")
    assert one.status == alone.returned and alone.said in one.err
    assert not stats["complete"] and "incomplete" in codes([stats])


def test_a_plan_in_gzip(sh: Shell, tmp_path: Path) -> None:
    row = row_named("gzip-plan")
    faulty = Faulty([])
    work = workload(tmp_path, "good one", "good two")
    work.write_bytes(gzip.compress(work.read_bytes()))
    with FakeServer(faulty) as server:
        done = sh(f"{kvload(server.url, Path('-'))} < {work}")
    assert done.status == row.returned and faulty.good_seen == 2
    assert [one["status"] for one in records(done.out, "request")] == ["ok", "ok"]


def test_a_matrix_whose_disk_fills(tmp_path: Path) -> None:
    """Nothing half is published, and the next make fetches what is missing."""
    row = row_named("matrix-disk-fills")
    site = Site(tmp_path)
    with kvsim(*QUICK) as engine:
        config = site.config("run.yaml", engine.url)
        site.matrix([{"name": "a", "scenario": "cold_start", "config_file": config}], repeats=1)
        status, said = site.run("kvmatrix m.yaml -q > rules; ulimit -f 4; make -f rules")
        assert status == row.returned and row.said in said
        assert not site.runs() and not list(tmp_path.glob("out/*/stats.json"))
        status, said = site.make()
    assert status == 0, said
    assert len(site.runs()) == 1 and all(one["complete"] for one in site.stats())
    for line in site.runs()[0].read_text().splitlines():
        json.loads(line)
