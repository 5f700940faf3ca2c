"""A matrix that is killed at random moments, and begun again each time, loses nothing.

`make chaos` kills it fifty times: kvmatrix, make, the shells, kvload, kvclear, kvstats, kvreport or
all of them at once, with SIGKILL, SIGTERM and SIGINT. Here it is a few times. The moments are drawn
from KV_CHAOS_SEED.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import random
import subprocess
import time
from collections import Counter
from pathlib import Path
from typing import Any

import jsonschema
from tests.chaos.killing import GROUP, REPORT, STEPS, Kill, all_gone, at_work, drawn, strike
from tests.chaos.witness import compare, half_line, whole_lines
from tests.family import ROOT
from tests.kvmatrix.matrices import MAKE, Site
from tests.simulated import kvsim

FULL = bool(os.environ.get("KV_CHAOS_FULL"))
SEED = int(os.environ.get("KV_CHAOS_SEED", "9"))
STEP_KILLS, REPORT_KILLS = (42, 8) if FULL else (3, 2)
SCENARIOS, REPEATS, REQUESTS = (4, 4, 8) if FULL else (2, 1, 3)
LATEST_S = 6.0 if FULL else 0.7
"""Of a kill: more than a step takes, of the full drill"""
PACE = ("--prefill-tps", "60000", "--overhead-ms", "1", "--step-ms", "10" if FULL else "4")
ENDS_ALL = (GROUP, "kvmatrix", "make", "bash")
NAMES = ["a b 'c' \"d\" \\ #%", "腾讯云-单机/$(touch pwned)\n`x`", "plain 1", "plain 2"]


def matrix_of(site: Site, url: str, out: str, repeats: int) -> Path:
    """In the full drill kvclear clears for the first scenario."""
    shape = {"requests": REQUESTS, "context_tokens": 300, "output_tokens": 8}
    scenarios = {"cold_start": shape, "long_context_high_reuse": shape | {"contexts": 2}}
    site.config("c.yaml", url, scenarios=scenarios)
    isolation = {"engines": [f"vllm={url}"]}
    site.config("cleared.yaml", url, scenarios=scenarios, isolation=isolation)
    return site.matrix(
        [
            {
                "name": name,
                "config_file": "c.yaml" if number or not FULL else "cleared.yaml",
                "scenario": "cold_start" if number % 2 else "long_context_high_reuse",
            }
            for number, name in enumerate(NAMES[:SCENARIOS])
        ],
        f"{out}.yaml",
        repeats=repeats,
        output_dir=str(site.folder / out),
    )


class Chaos:
    """One matrix, and what was done to it."""

    def __init__(self, site: Site, url: str) -> None:
        self.site = site
        self.kills: list[Kill] = []
        self.repeats = REPEATS
        self.starts = 0
        self._url = url
        self._chance = random.Random(SEED)
        self._published: dict[Path, str] = {}
        matrix_of(site, url, "out", self.repeats)

    def while_steps(self, kills: int) -> None:
        """Kill and begin again; a matrix that ends before is given two repeats more."""
        pool = [victim for victim in STEPS if FULL or victim[0] != "kvclear"]
        victims = drawn(pool, self._chance)
        least = len(self.kills) + kills
        while len(self.kills) < least:
            with self._started() as process:
                while process.poll() is None and len(self.kills) < least:
                    self._until_the_moment(process)
                    if process.poll() is None:
                        self._strike(process, *next(victims))
                self._wait(process)
            if process.returncode == 0:
                self.repeats += 2 if FULL else 1
                matrix_of(self.site, self._url, "out", self.repeats)

    def _until_the_moment(self, process: subprocess.Popen[str]) -> None:
        """Anywhere; or, every other time, after an attempt has begun to write its records."""
        if not FULL or self._chance.random() < 0.5:
            there = len(self._records())
            while process.poll() is None and len(self._records()) == there:
                time.sleep(0.02)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(self._chance.uniform(0.0, LATEST_S))

    def _until_there(self, process: subprocess.Popen[str], name: str) -> None:
        """Until one of that name is at work, or the run is over."""
        while process.poll() is None and name not in at_work(self.site.folder).values():
            time.sleep(0.01)

    def _records(self) -> list[Path]:
        """Files with a record in them, of attempts whole or not."""
        found = (self.site.folder / "out").glob("*/repeat-*/attempt-*/run.jsonl")
        return [path for path in found if path.exists() and path.stat().st_size]

    def while_reporting(self, kills: int) -> None:
        """Each of those who sum up, and all at once just then."""
        victims = drawn(REPORT, self._chance)
        least = len(self.kills) + kills
        while len(self.kills) < least:
            for path in self.site.runs():
                path.touch()  # make sums up anew what is newer than its sums
            with self._started() as process:
                who, how = next(victims)
                if who == GROUP:
                    self._until_there(process, "kvstats")
                self._strike(process, who, how)
                self._wait(process)

    def _started(self) -> subprocess.Popen[str]:
        self.starts += 1
        return self.site.start(
            "kvmatrix out.yaml -q > rules;"
            " exec kvmatrix out.yaml -q --progress make -f - matrix < rules > said 2>&1"
        )

    def _strike(self, process: subprocess.Popen[str], who: str, how: Any) -> None:
        kill = strike(process.pid, self.site.folder, who, how, lambda: process.poll() is None)
        if kill is not None:
            self.kills.append(kill)

    def _wait(self, process: subprocess.Popen[str]) -> None:
        """To the end of all of it; what was published by now stays as it is."""
        process.communicate(timeout=300)
        all_gone(self.site.folder)
        if process.returncode and self.kills and self.kills[-1].who in ENDS_ALL:
            gone_ns = time.perf_counter_ns()
            self.kills[-1] = dataclasses.replace(self.kills[-1], gone_ns=gone_ns)
        for path, digest in self._published.items():
            assert digest_of(path) == digest, f"{path} was touched after it was published"
        for path in self.site.runs():
            self._published.setdefault(path, digest_of(path))


def digest_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_matrix_that_is_killed_at_random_moments_loses_nothing(tmp_path: Path) -> None:
    site, truth = Site(tmp_path / "matrix"), tmp_path / "truth.jsonl"
    site.folder.mkdir()
    print(f"\nseed {SEED}", flush=True)
    with kvsim(*PACE, "--fault", "no_metrics", "--truth", str(truth)) as engine:
        chaos = Chaos(site, engine.url)
        chaos.while_steps(STEP_KILLS)
        chaos.while_reporting(REPORT_KILLS)
        status, said = site.run(f"{MAKE} matrix CONFIG={site.folder / 'out.yaml'}", 900)
        assert status == 0, said
        all_gone(site.folder)
        disturbed = truth.read_bytes()
        path = matrix_of(site, engine.url, "calm", chaos.repeats)
        calm = site.run(f"{MAKE} matrix CONFIG={path}", 900)
        assert calm[0] == 0, calm[1]
    seen = tmp_path / "disturbed.jsonl"
    seen.write_bytes(disturbed)
    assert f"Matrix: {SCENARIOS} scenarios in all, {SCENARIOS} succeeded, 0 failed" in said
    steps = SCENARIOS * chaos.repeats
    once_and_whole(site, steps)
    assert told(site, "out") == told(site, "calm"), f"seed {SEED}"
    assert len(told(site, "out")) == 3 * steps
    report(site)
    files = sorted((site.folder / "out").glob("*/repeat-*/attempt-*/run.jsonl"))
    found = compare(seen, files, chaos.kills)
    by = Counter(f"{kill.how.name} {kill.who}" for kill in chaos.kills)
    print(f"{len(chaos.kills)} kills in {chaos.starts} starts: {dict(sorted(by.items()))}")
    print(f"{steps} repeats, {len(files)} attempts; {found}", flush=True)
    assert not found.lost, f"seed {SEED}: {found}"
    assert found.answered > REQUESTS * steps
    assert "pwned" not in {path.name for path in site.folder.rglob("*")}


def once_and_whole(site: Site, steps: int) -> None:
    """Every repeat is published once, nothing was begun after that, and no line of it is half."""
    assert len(site.runs()) == steps
    for path in site.runs():
        attempt, folder = path.parent, path.parent.parent
        numbers = [int(one.name.split("-")[1].split(".")[0]) for one in folder.iterdir()]
        assert int(attempt.name.split("-")[1]) == max(numbers), f"{folder} was run twice"
        assert not half_line(path)
        ends = [row for row in whole_lines(path) if row["record"] == "end"]
        assert [end["complete"] for end in ends] == [True] * 3
    for path in (site.folder / "out").glob("*/run.jsonl"):
        assert not half_line(path)
    runs = [one["run"] for one in site.stats()]
    assert len({run["run_id"] for run in runs}) == len(runs)
    assert len({run["experiment_id"] for run in runs}) == 1
    salts = {run["salt"] for run in runs if run["arm"] == "cold"}
    assert len(salts) == steps


def told(site: Site, out: str) -> list[tuple[Any, ...]]:
    """The results without times and ids."""
    return sorted(
        (
            one["run"]["name"],
            one["run"]["scenario"],
            one["run"]["repeat"],
            one["run"]["arm"],
            one["run"]["plan_sha256"],
            one["run"]["shape_sha256"],
            one["total_requests"],
            one["successful_requests"],
            one["hit_ratio"],
            str(one["cold_proof"]),
            tuple(one["samples"]["cached_tokens"]),
        )
        for one in site.stats(out)
    )


def report(site: Site) -> None:
    """It validates, has every scenario, and is the same in structure as the undisturbed one's."""
    schema = json.loads((ROOT / "schemas" / "report.schema.json").read_text(encoding="utf-8"))
    both = []
    for out in ("out", "calm"):
        text = (site.folder / out / "report.json").read_text(encoding="utf-8")
        one = json.loads(text)
        jsonschema.Draft202012Validator(schema).validate(one)
        both.append(
            [
                sorted((row["name"], row["repeats"]) for row in one["scenarios"]),
                sorted((row["name"], row["state"], row["done"]) for row in one["outcomes"]),
            ]
        )
    assert both[0] == both[1]
    assert len(both[0][0]) == SCENARIOS
