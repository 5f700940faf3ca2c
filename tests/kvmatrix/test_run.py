"""Whole matrices on simulated engines: run by make, failing, resumed, pasted into bash."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.family import ROOT
from tests.kvmatrix.matrices import MAKE, QUICK, Site
from tests.simulated import Sim, kvsim

HOSTILE = "腾讯云-单机 $(shell touch pwned)$(touch pwned)/`touch pwned`\n$$HOME 'q' \"#%: \\"
PLAIN = "plain"
GONE = "gone away"


def scenario(name: str, config: str, kind: str = "cold_start", **keys: Any) -> dict[str, Any]:
    return {"name": name, "config_file": config, "scenario": kind} | keys


# --- one matrix, end to end ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(quick: Sim, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Site, str]]:
    """Two scenarios that work, one that cannot, three repeats, and what make said."""
    site = Site(tmp_path_factory.mktemp("matrix"))
    site.config("c.yaml", quick.url)
    site.config("gone.yaml", "http://127.0.0.1:9/v1")
    site.matrix(
        [
            scenario(PLAIN, "c.yaml", "long_context_high_reuse"),
            scenario(GONE, "gone.yaml"),
            scenario(HOSTILE, "c.yaml", requests=4),
        ],
        repeats=3,
        formats=["text", "html", "json", "png"],
    )
    status, said = site.make()
    assert status == 2, said  # make's, because the summary's is 1
    yield site, said


def test_a_failing_scenario_does_not_stop_the_rest(finished: tuple[Site, str]) -> None:
    site, said = finished
    assert len(site.runs()) == 6
    assert "Matrix: 3 scenarios in all, 2 succeeded, 1 failed, 0 tainted; " in said
    assert f"failed: {GONE}: 0 of 3 repeats (failed: repeat 1, 2, 3)\n    kvload: http" in said
    (log,) = re.findall(r"^    log: (\S+)$", said, re.M)
    assert "connection refused" in (site.folder / log).read_text(encoding="utf-8")


def test_the_report_has_intervals_between_repeats_and_tells_of_the_failure(
    finished: tuple[Site, str],
) -> None:
    site, _ = finished
    report = json.loads((site.folder / "out" / "report.json").read_text(encoding="utf-8"))
    assert {one["name"]: one["repeats"] for one in report["scenarios"]} == {PLAIN: 3, HOSTILE: 3}
    for one in report["scenarios"]:
        interval = one["effects"]["ttft"]["interval"]
        assert interval["method"] == "repeats"
        assert interval["low"] < interval["high"]
    failed = next(one for one in report["outcomes"] if one["name"] == GONE)
    assert (failed["state"], failed["done"], failed["failed_repeats"]) == ("failed", 0, [1, 2, 3])
    assert "connection refused" in failed["error"][-1]
    assert "connection refused" in (site.folder / failed["log"]).read_text(encoding="utf-8")
    for name in ("report.md", "report.txt", "report.html"):
        text = (site.folder / "out" / name).read_text(encoding="utf-8")
        assert "3 scenarios in all, 2 succeeded, 1 failed, 0 tainted" in text
        assert failed["log"] in text or name == "report.txt"  # where it is folded
    assert list((site.folder / "out" / "charts").glob("ttft_comparison.png"))


def test_a_matrix_of_which_nothing_succeeds_has_a_report_too(site: Site) -> None:
    site.config("gone.yaml", "http://127.0.0.1:9/v1")
    site.matrix([scenario(GONE, "gone.yaml")], repeats=1)
    status, said = site.make()
    assert status == 2
    assert "1 scenarios in all, 0 succeeded, 1 failed" in said
    text = (site.folder / "out" / "report.md").read_text(encoding="utf-8")
    assert "1 scenarios in all, 0 succeeded, 1 failed" in text
    assert "connection refused" in text
    assert "old stats" not in text


def test_names_are_data(finished: tuple[Site, str]) -> None:
    site, said = finished
    assert "pwned" not in {path.name for path in site.folder.rglob("*")}
    names = Counter(line["run"]["name"] for line in site.stats())
    assert names == {PLAIN: 9, HOSTILE: 9}
    assert "\\n$$HOME" in said


def test_every_repeat_has_its_own_salt_text_and_control(finished: tuple[Site, str]) -> None:
    site, _ = finished
    rounds = site.stats()
    salts, plans = set(), set()
    for name in (PLAIN, HOSTILE):
        for repeat in (1, 2, 3):
            own = [
                one["run"]
                for one in rounds
                if (one["run"]["name"], one["run"]["repeat"]) == (name, repeat)
            ]
            arms = [(run["arm"], run["position"]) for run in own]
            control = ("no_reuse", "before" if repeat % 2 else "after")
            assert sorted(arms, key=str) == sorted(
                [("cold", None), ("hit", None), control], key=str
            )
            (salt,) = {run["salt"] for run in own if run["arm"] != "no_reuse"}
            assert f"-r{repeat}-a1" in salt
            salts.add(salt)
            plans |= {run["plan_sha256"] for run in own}
    assert len(salts) == 6
    assert len(plans) == 6
    assert len({one["run"]["experiment_id"] for one in rounds}) == 1
    assert {one["cold_proof"] for one in rounds if one["run"]["arm"] == "cold"} == {"proven"}


def test_statistics_are_those_of_the_published_records(
    finished: tuple[Site, str],
) -> None:
    site, _ = finished
    for folder in {path.parents[2] for path in site.runs()}:
        status, said = site.run(
            f"cat {shlex.quote(str(folder))}/repeat-*/attempt-1/run.jsonl | kvstats"
        )
        assert status == 0
        made = [json.loads(line)["run"]["run_id"] for line in said.splitlines()]
        kept = (folder / "stats.json").read_text(encoding="utf-8").splitlines()
        assert sorted(made) == sorted(json.loads(line)["run"]["run_id"] for line in kept)


def test_the_same_command_does_only_what_is_missing(finished: tuple[Site, str]) -> None:
    """The scenario that failed is tried again; nothing else is touched. Last of this group."""
    site, _ = finished
    before = {path: path.stat().st_mtime_ns for path in site.runs()}
    status, said = site.make()
    assert status == 2
    assert {path: path.stat().st_mtime_ns for path in site.runs()} == before
    assert "matrix: 3/3" in said
    assert PLAIN not in re.findall(r"^matrix: \d/3: repeat \d of 3: (.+) \(", said, re.M)
    assert len(list((site.folder / "out").glob("gone*/repeat-*/attempt-2.part"))) == 3


# --- one scenario again --------------------------------------------------------------------------


def test_only_one_scenario_is_run_by_the_repositorys_make(site: Site, quick: Sim) -> None:
    site.config("c.yaml", quick.url)
    path = site.matrix(
        [scenario(HOSTILE, "c.yaml"), scenario(PLAIN, "c.yaml")],
        repeats=1,
        output_dir=str(site.folder / "out"),
    )
    for attempts in (1, 2):  # what is missing of it; then, since nothing is, all of it once more
        status, said = site.run(f"{MAKE} matrix CONFIG={path} ONLY={shlex.quote(HOSTILE)}")
        assert status == 0, said  # its own: the other one has not run
        assert "1 succeeded, 0 failed, 0 tainted, 1 not run" in said
        assert len(site.runs()) == attempts
    stats = site.stats()
    assert {one["run"]["name"] for one in stats} == {HOSTILE}
    assert len(stats) == 3
    assert all("-a2" in one["run"]["salt"] for one in stats if one["run"]["arm"] == "cold")
    status, said = site.run(f"{MAKE} matrix CONFIG={path}")
    assert (status, len(site.runs())) == (0, 3)
    assert not (ROOT / "pwned").exists()
    assert "2 succeeded, 0 failed, 0 tainted; " in said


def made(site: Site) -> None:
    status, said = site.make()
    assert status == 0, said


def test_a_changed_scenario_runs_anew(site: Site, quick: Sim) -> None:
    site.config("c.yaml", quick.url)
    site.matrix([scenario(PLAIN, "c.yaml")], repeats=1)
    made(site)
    site.matrix([scenario(PLAIN, "c.yaml", requests=5)], repeats=1)
    made(site)
    assert [one["total_requests"] for one in site.stats()] == [5] * 3
    site.matrix([scenario(PLAIN, "c.yaml", requests=5)], repeats=2)
    made(site)  # one repeat more is all that is missing
    assert len(site.runs()) == 1 + 2
    assert len(site.stats()) == 6


# --- what make -n prints -------------------------------------------------------------------------


def told(site: Site, out: str) -> list[tuple[Any, ...]]:
    """What must be equal whoever ran the pipelines: counts and cached tokens, not times."""
    return sorted(
        (
            one["run"]["name"],
            one["run"]["repeat"],
            one["round_num"],
            one["total_requests"],
            one["successful_requests"],
            one["hit_ratio"],
            one["run"]["plan_sha256"],
            tuple(one["samples"]["cached_tokens"]),
        )
        for one in site.stats(out)
    )


def test_the_lines_of_make_n_can_be_pasted_into_bash(site: Site, quick: Sim) -> None:
    site.config("c.yaml", quick.url)
    paths = {}
    for out in ("made", "pasted"):
        paths[out] = site.matrix(
            [
                scenario(HOSTILE, "c.yaml"),
                scenario(PLAIN, "c.yaml", "long_context_high_reuse", concurrency=1),
            ],
            f"{out}.yaml",
            repeats=1,
            output_dir=str(site.folder / out),
        )
    status, said = site.run(f"{MAKE} matrix CONFIG={paths['made']}")
    assert status == 0, said
    status, lines = site.run(f"{MAKE} -n matrix CONFIG={paths['pasted']} 2>/dev/null")
    assert status == 0
    assert not (site.folder / "pasted").exists(), "make -n ran something"
    assert len(re.findall(r"^setpriv --pdeathsig TERM kvload ", lines, re.M)) == 2
    (site.folder / "lines").write_text(lines, encoding="utf-8")
    status, said = site.run("bash lines")  # as somebody's shell has it: without -e or pipefail
    assert "2 succeeded, 0 failed" in said
    assert told(site, "made") == told(site, "pasted")
    assert len(told(site, "made")) == 6


# --- isolation -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "succeeded", "tainted"),
    [({}, 0, 0), ({"on_unverified": "continue"}, 1, 1)],
    ids=["fail", "continue"],
)
def test_a_refuted_clearing_fails_the_scenario_unless_it_may_go_on(
    site: Site, keys: dict[str, Any], succeeded: int, tainted: int
) -> None:
    with kvsim(*QUICK[2:], "--fault", "persistent") as engine:
        site.config("c.yaml", engine.url, rounds=1, isolation={"engines": [f"vllm={engine.url}"]})
        site.matrix([scenario(PLAIN, "c.yaml")], repeats=1, **keys)
        status, said = site.make()
    assert status == 2
    assert f"{succeeded} succeeded, {1 - succeeded} failed, {tainted} tainted" in said
    assert len(site.runs()) == succeeded
    if tainted:
        assert "tainted: isolation refuted: " in said
        (run,) = {line["run"]["run_id"]: line["run"] for line in site.stats()}.values()
        assert run["isolation"]["verified"] is False


def test_a_clearing_that_cannot_be_shown_taints(site: Site) -> None:
    with kvsim(*QUICK[2:], "--no-prompt-tokens-details", "--fault", "no_metrics") as engine:
        site.config("c.yaml", engine.url, rounds=1, isolation={"engines": [f"vllm={engine.url}"]})
        site.matrix([scenario(PLAIN, "c.yaml")], repeats=1)
        status, said = site.make()
    assert status == 2
    assert "1 succeeded, 0 failed, 1 tainted" in said
    assert "going on, tainted" in said
    assert "tainted: isolation not shown: " in said


def test_a_clearing_that_is_shown_taints_nothing_and_commands_need_a_word(site: Site) -> None:
    with kvsim(*QUICK[2:]) as engine:
        ways = {"engines": [f"vllm={engine.url}"], "commands": ["sleep 600 & echo $! > 'ran here'"]}
        site.config("c.yaml", engine.url, rounds=1, isolation=ways)
        site.matrix([scenario(PLAIN, "c.yaml")], repeats=1)
        status, said = site.make()
        assert status == 2
        assert "'isolation.commands': commands of a config run only with --allow-commands" in said
        assert not (site.folder / "out").exists()
        status, said = site.make(flags="--allow-commands")
    assert status == 0, said
    # Somebody's server, started in the background, is alive and has not held anything up.
    os.kill(int((site.folder / "ran here").read_text(encoding="utf-8")), signal.SIGTERM)
    (record,) = (site.folder / "out").glob("*/repeat-1/attempt-1/isolation.json")
    assert json.loads(record.read_text(encoding="utf-8"))["verified"] is True


# --- stopped -------------------------------------------------------------------------------------


def at_work(path: Path) -> bool:
    """Whether somebody has written there."""
    return path.stat().st_size > 0


def wait_for(path: Path, pattern: str, ready: Callable[[Path], bool] = Path.exists) -> None:
    end = time.monotonic() + 60
    while not any(ready(found) for found in path.glob(pattern)):
        assert time.monotonic() < end, f"{pattern} did not appear"
        time.sleep(0.02)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_matrix_is_resumed(site: Site, quick: Sim, signum: int) -> None:
    site.config("c.yaml", quick.url, pause_between_rounds=1)
    site.matrix([scenario(PLAIN, "c.yaml"), scenario(HOSTILE, "c.yaml")], repeats=1)
    with site.start("kvmatrix m.yaml -q > rules.mk; exec make -f rules.mk") as process:
        wait_for(site.folder, "out/*/repeat-1/attempt-1.part/run.jsonl")
        os.killpg(process.pid, signum)  # as a terminal's Ctrl-C reaches all of them
        process.communicate(timeout=60)
    assert process.returncode != 0
    assert not site.runs()
    status, said = site.make()
    assert status == 0, said
    assert len(site.runs()) == 2
    assert len(list((site.folder / "out").glob("plain*/repeat-1/attempt-2"))) == 1


def processes_of(site: Site) -> list[str]:
    """Command lines of what is at work in the site's folder, kvload's first word apart."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (folder / "cwd").resolve() == site.folder:
                found.append((folder / "cmdline").read_text(errors="replace").replace("\0", " "))
    return [line for line in found if "kvload" in line and "bash" not in line]


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL])
def test_what_a_step_started_dies_with_its_make(site: Site, quick: Sim, signum: int) -> None:
    """Of make alone, not of its process group: the kernel tells the recipe, and that kvload."""
    site.config("c.yaml", quick.url, pause_between_rounds=60)
    site.matrix([scenario(PLAIN, "c.yaml")], repeats=1)
    with site.start("kvmatrix m.yaml -q > rules.mk; exec make -f rules.mk") as process:
        wait_for(site.folder, "out/*/repeat-1/attempt-1.part/run.jsonl", at_work)
        assert processes_of(site)
        process.send_signal(signum)
        end = time.monotonic() + 50  # less than the pause between rounds
        while processes_of(site):
            assert time.monotonic() < end, processes_of(site)
            time.sleep(0.05)
        process.communicate(timeout=60)
    assert process.returncode == -signum
    assert not site.runs()
    site.config("c.yaml", quick.url, pause_between_rounds=0)
    status, said = site.make()
    assert status == 0, said
    assert len(site.runs()) == 1


def test_two_makes_never_share_an_engine(site: Site, quick: Sim) -> None:
    site.config("c.yaml", quick.url, pause_between_rounds=1)
    site.matrix([scenario(PLAIN, "c.yaml")], repeats=1)
    with site.start("kvmatrix m.yaml -q | make -f -") as process:
        wait_for(site.folder, "out/*/repeat-1/attempt-1.part/run.jsonl")
        status, said = site.make()
        process.communicate(timeout=60)
    assert (process.returncode, status) == (0, 0), said
    assert "waiting until it has ended" in said
    assert "done meanwhile" in said
    assert [path.parent.name for path in site.runs()] == ["attempt-1"]
    assert len(site.stats()) == 3


# --- as many repeats as it takes -----------------------------------------------------------------


def test_the_first_repeats_fix_the_total_once(site: Site, quick: Sim) -> None:
    """Two stages; the total is what kvreport says of the first, and stays, whatever follows."""
    site.config("c.yaml", quick.url)
    site.matrix([scenario(PLAIN, "c.yaml"), scenario(HOSTILE, "c.yaml")], repeats=3)
    status, said = site.make(flags="--until 40% --until-max 4")
    assert status == 0, said
    fixed = json.loads((site.folder / "out" / "until.json").read_text(encoding="utf-8"))
    stage = json.loads((site.folder / "out" / "first-stage.json").read_text(encoding="utf-8"))
    assert fixed["needed"] == stage["until"]["needed"] >= 3
    assert fixed["total"] == min(4, fixed["needed"])
    assert {one["repeats"] for one in stage["until"]["per_name"]} == {3}
    assert len(site.runs()) == 2 * fixed["total"]  # complete blocks
    report = json.loads((site.folder / "out" / "report.json").read_text(encoding="utf-8"))
    assert {one["repeats"] for one in report["scenarios"]} == {fixed["total"]}
    assert report["until"]["first_repeats"] == 3
    # The same again: the total stands, and nothing is run.
    before = (site.folder / "out" / "until.json").stat().st_mtime_ns
    status, said = site.make(flags="--until 40% --until-max 4")
    assert status == 0, said
    assert (site.folder / "out" / "until.json").stat().st_mtime_ns == before
    assert len(site.runs()) == 2 * fixed["total"]


def test_a_total_that_was_fixed_is_resumed(site: Site, quick: Sim) -> None:
    """Killed after the first stage: the next run does the second, by the number that was fixed."""
    site.config("c.yaml", quick.url)
    site.matrix([scenario(PLAIN, "c.yaml")], repeats=3)
    with site.start("kvmatrix m.yaml -q --until 0.5% --until-max 5 | make -f -") as process:
        wait_for(site.folder, "out/*/repeat-4/attempt-1.part/run.jsonl", at_work)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=60)
    fixed = (site.folder / "out" / "until.json").read_bytes()
    status, said = site.make(flags="--until 0.5% --until-max 5")
    assert status == 0, said
    assert (site.folder / "out" / "until.json").read_bytes() == fixed
    assert json.loads(fixed)["total"] == 5
    assert len(site.runs()) == 5
    assert len(list((site.folder / "out").glob("*/repeat-4/attempt-2"))) == 1


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--until 5", "a half-width in percent is expected"),
        ("--until 5% --only plain", "--only goes without it"),
        ("--until 5% --until-max 1", "the matrix begins with 2 repeats|three|3 repeats or more"),
        ("--until-max 9", "go with --until W%"),
    ],
)
def test_what_two_stages_cannot_be_is_one_line(site: Site, flags: str, words: str) -> None:
    site.config("c.yaml", "http://127.0.0.1:9/v1")
    site.matrix([scenario(PLAIN, "c.yaml")], repeats=2)
    status, said = site.run(f"kvmatrix m.yaml {flags}")
    assert status == 2
    assert len(said.splitlines()) == 1
    assert re.search(words, said)


# --- steps of the user's own ---------------------------------------------------------------------


def test_steps_between_run_in_their_order_and_need_a_word(site: Site, quick: Sim) -> None:
    site.config("c.yaml", quick.url)
    between = [
        {"http": f"POST {quick.url}/reset_prefix_cache"},
        {"command": "echo matrix >> ran"},
        {"health": f"{quick.url}/health"},
        {"wait": 0.1},
    ]
    own = scenario(PLAIN, "c.yaml", restart=["echo 'of its own' >> ran"])
    site.matrix([own, scenario(GONE, "c.yaml")], repeats=1, between=between)
    status, said = site.make()
    assert status == 2
    assert "'between.1.command': commands of a config run only with --allow-commands" in said
    assert not (site.folder / "out").exists()
    status, said = site.make(flags="--allow-commands")
    assert status == 0, said
    ran = (site.folder / "ran").read_text(encoding="utf-8").splitlines()
    assert ran == ["matrix", "of its own", "matrix"]
    (first,) = (site.folder / "out").glob("plain*/repeat-1/attempt-1/between-1.json")
    steps = [
        [step["what"] for step in json.loads(path.read_bytes())["steps"]]
        for path in sorted(first.parent.glob("between-*.json"))
    ]
    assert steps == [
        ["http POST"],
        ["run command", "wait for health", "wait"],
        ["run command", "wait for health"],
    ]


@pytest.mark.parametrize(
    "keys", [{"between": [{"http": "POST http://127.0.0.1:9/gone"}]}, {"restart": ["exit 3"]}]
)
def test_a_step_that_fails_fails_the_scenario(site: Site, quick: Sim, keys: dict[str, Any]) -> None:
    site.config("c.yaml", quick.url)
    own = {"restart": keys["restart"]} if "restart" in keys else {}
    matrix = {key: value for key, value in keys.items() if key == "between"}
    site.matrix([scenario(PLAIN, "c.yaml", **own)], repeats=1, **matrix)
    status, said = site.make(flags="--allow-commands")
    assert status == 2
    assert "a step between the scenarios failed" in said
    assert "0 succeeded, 1 failed" in said
    assert not site.runs()


def test_records_that_kvstats_refuses_do_not_cost_the_report(site: Site, quick: Sim) -> None:
    site.config("c.yaml", quick.url)
    site.matrix([scenario(PLAIN, "c.yaml"), scenario(HOSTILE, "c.yaml")], repeats=1)
    assert site.make()[0] == 0
    (path,) = (site.folder / "out").glob("plain*/repeat-1/attempt-1/run.jsonl")
    path.write_text('{"record":"nothing"}\n', encoding="utf-8")
    status, said = site.make()
    assert status == 2
    assert "tainted: it has no statistics" in said
    report = json.loads((site.folder / "out" / "report.json").read_text(encoding="utf-8"))
    assert [one["name"] for one in report["scenarios"]] == [HOSTILE]
    assert {one["name"]: bool(one["tainted"]) for one in report["outcomes"]} == {
        PLAIN: True,
        HOSTILE: False,
    }
