"""The hostile strings of tests/test_hostile.py through the real executables.

They stand in arguments, file names and make's variables, and a server has nothing else to say.
"""

from __future__ import annotations

import json
import re
import struct
import subprocess
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest
from tests.conftest import Done
from tests.fakeserver import LAST_CHUNK, FakeServer, Received, Reply, chunk, chunked_answer
from tests.fakeserver import sized_answer as sized
from tests.family import ROOT, TOOLS, environment
from tests.faulty import DONE, GOOD, TWO, choice, event, kvload, records, workload
from tests.test_hostile import HOSTILE, concluded, quiet, rounds, stats

from kvmatrix.recipes import _as_yaml
from kvreport.charts import charts_of
from kvreport.charts.chart import Bars, Chart
from kvreport.charts.png import png
from kvreport.display import clean
from kvreport.experiments import group
from kvreport.words import Words

NASTY = " ".join(text for text in HOSTILE.values() if len(text) < 300)


def ran(*command: str, cwd: Path) -> Done:
    done = subprocess.run(
        command,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env=environment(),
        encoding="utf-8",
        timeout=120,
    )
    return Done(status=done.returncode, out=done.stdout, err=done.stderr)


# --- arguments, file names, make -----------------------------------------------------------------


@pytest.mark.parametrize("tool", TOOLS)
def test_a_usage_error_spells_its_arguments_out(tool: str, tmp_path: Path) -> None:
    needed = ["--scenario", "cold_start"] if tool == "kvplan" else []
    done = ran(tool, *needed, "--no-such-flag", *HOSTILE.values(), cwd=tmp_path)
    assert (done.status, done.out) == (2, "")
    quiet(done.err)
    assert "pwned" in done.err.splitlines()[-1]


def test_file_names_in_messages_are_spelt_out(tmp_path: Path) -> None:
    names = [text for text in HOSTILE.values() if "/" not in text and len(text.encode()) < 200]
    for at, name in enumerate(names):
        (tmp_path / name).write_text('{"record":"run"', encoding="utf-8")
        if at % 5 == 0:
            done = ran("kvstats", "--", name, cwd=tmp_path)
            assert done.status == 2 and done.err.count("\n") == 2
            quiet(done.err)


def given_to_make() -> list[tuple[str, str, str]]:
    """(target, name in its environment, variable) of whatever a person may give to make."""
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    found = re.findall(r"^([a-z -]+): export (\w+) :?= \$\(value (\w+)\)", text, re.M)
    listed = re.search(r"^FLEET := (.+)$", text, re.M)
    fleet = [("fleet", f"KV_{name}", name) for name in listed[1].split()] if listed else []
    return [(target, *rest) for targets, *rest in found for target in targets.split()] + fleet  # type: ignore[misc]


def test_make_expands_nothing_that_it_was_given(tmp_path: Path) -> None:
    """Every recipe and every $(shell) goes to a shell that only writes down what it was told."""
    given = given_to_make()
    assert len(given) >= 20 and {"matrix", "pd", "quick"} <= {target for target, *_ in given}
    log, shell = tmp_path / "log", tmp_path / "shell"
    shell.write_text(
        f'#!/bin/bash\n{{ printf "CALL=%s\\0" "${{@: -1}}"; env -0; }} >> {log}\n', "utf-8"
    )
    shell.chmod(0o755)
    targets = sorted({target for target, *_ in given})
    asked = ["make", "-o", ".venv/installed.stamp", f"SHELL={shell}", "PYTHON=python3", *targets]
    other = "`touch pwned` ${HOME} $$ \\ ' \" ; # \x1b[31m $(info x)"
    names = {variable for *_, variable in given}
    for text in ("$(shell touch NAME)", other, HOSTILE["make functions"], HOSTILE["newlines"]):
        log.unlink(missing_ok=True)
        words = sorted(f"{name}={text.replace('NAME', name)}" for name in names)
        made = subprocess.run(
            [*asked, *words], cwd=ROOT, env=environment(), capture_output=True, timeout=120
        )
        assert made.returncode == 0, made.stderr
        told = [one.partition("=") for one in log.read_bytes().decode().split("\0")]
        run = [value for key, _, value in told if key == "CALL" and value.startswith("touch")]
        assert not run, "unexport these"
        for target, name, variable in given:
            values = {value for key, _, value in told if key == name}
            assert text.replace("NAME", variable) in values, (target, name, variable)


def test_a_matrix_of_hostile_names_is_shown_quietly(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text('{"proxy": {"url": "http://127.0.0.1:9"}}', "utf-8")
    entries = [
        {"name": text, "scenario": "cold_start", "config_file": "run.yaml"}
        for text in HOSTILE.values()
    ]
    (tmp_path / "m.yaml").write_text(_as_yaml({"test_scenarios": entries}), encoding="utf-8")
    for flags in (["--estimate"], ["--summary"], ["--only", NASTY], ["-q", "--outcomes"]):
        done = ran("kvmatrix", "m.yaml", *flags, cwd=tmp_path)
        quiet(done.err)
        if "--outcomes" in flags:
            assert {one["name"] for one in records(done.out, "outcome")} == {*HOSTILE.values()}
        else:
            quiet(done.out)
    assert {one.name for one in tmp_path.iterdir()} == {"run.yaml", "m.yaml"}


# --- reports -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def statistics(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two rounds of every string as kvstats writes them."""
    file = tmp_path_factory.mktemp("hostile") / "stats.jsonl"
    file.write_bytes(b"".join(msgspec.json.encode(one) + b"\n" for one in stats()))
    return file


def test_kvreport_writes_its_files_and_no_others(statistics: Path, tmp_path: Path) -> None:
    formats = ("text", "json", "csv")
    flags = [flag for name in formats for flag in ("--format", name)]
    done = ran("kvreport", "-o", "out", *flags, str(statistics), cwd=tmp_path)
    assert done.status in (0, 1) and "Traceback" not in done.err
    quiet(done.err)
    assert {one.name for one in tmp_path.iterdir()} == {"out"}
    files = sorted(one.name for one in (tmp_path / "out").iterdir())
    kinds = ("csv", "json", "txt")
    assert files == [f"report.{kind}" for kind in kinds]
    quiet((tmp_path / "out" / "report.txt").read_text("utf-8"))


def names(charts: Sequence[Chart]) -> list[str]:
    return [name for chart in charts if isinstance(chart, Bars) for name in chart.categories]


def test_pictures_are_drawn_and_no_formula_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """matplotlib sets what stands between dollars as a formula, and fails where it is none."""
    from matplotlib import mathtext

    def refused(*_: object, **__: object) -> None:
        raise AssertionError("a name was read as a formula")

    monkeypatch.setattr(mathtext.MathTextParser, "parse", refused)
    found = charts_of(concluded(), group([*rounds()]), Words("en"))
    own = [chart for charts in found.scenarios.values() for chart in charts]
    assert len(found.summary) >= 2 and clean(HOSTILE["mathtext"]) in map(
        clean, names(found.summary)
    )
    drawn = [*found.summary, *own[:2]]
    for chart in drawn:
        data = png(chart)
        wide, high = struct.unpack(">II", data[16:24])
        assert data[:8] == b"\x89PNG\r\n\x1a\n" and wide == 1080 and 200 < high < 8000


# --- a server ------------------------------------------------------------------------------------


def metrics() -> str:
    """Names in labels, and lines that are none."""
    label = NASTY.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return (
        "# HELP vllm:num_requests_running \x1b[31m\n# TYPE vllm:num_requests_running gauge\n"
        f'vllm:num_requests_running{{model_name="{label}"}} 0\n'
        'vllm:num_requests_waiting{a="\x1b[2J"} 0\n\x1b[31mno sample {{{\n'
    )


def questions(request: Received) -> Reply | None:
    if "/v1/models" in request.line:
        model = {"id": NASTY, "object": "model", "root": NASTY, "max_model_len": 4096}
        return sized(json.dumps({"object": "list", "data": [model]}).encode())
    if "/version" in request.line:
        return sized(json.dumps({"version": NASTY}).encode())
    if "/metrics" in request.line:
        return sized(metrics().encode(), content_type="text/plain")
    if request.line.startswith("GET"):
        detail = json.dumps({"detail": NASTY}).encode()
        return sized(detail, "404 Not Found")
    return None


def answers() -> Iterator[Reply]:
    """Each string as an error, an error within a stream, what ends one, an event and a redirect."""
    for at, text in enumerate(HOSTILE.values()):
        line = re.sub(r"[\r\n]", " ", text).encode()
        error = {"message": text, "type": text, "code": text}
        ways: list[Reply] = [
            sized(json.dumps({"error": error}).encode(), "400 B\x1b[31mad"),
            [*TWO, chunk(event({"error": error})), LAST_CHUNK],
            [*TWO, chunk(event(choice({"content": text}, text))), chunk(DONE), LAST_CHUNK],
            [*TWO, chunk(b"data: {" + line + b"\n\n"), LAST_CHUNK],
            sized(b"", "302 Found", f"location: http://127.0.0.1:1/{line.decode('latin-1')}"),
        ]
        yield ways[at % len(ways)]


def test_a_server_with_nothing_else_to_say(sh: Callable[..., Done], tmp_path: Path) -> None:
    ready = [*answers()]

    def answer(request: Received) -> Reply:
        asked = questions(request)
        if asked is not None and request.line.startswith("GET"):
            return asked
        number = re.search(rb"bad-(\d+)-", request.body)
        return ready[int(number[1])] if number else chunked_answer(GOOD)

    work = workload(tmp_path, "good one", *(f"{at * 7} bad-{at}-" for at in range(len(ready))))
    with FakeServer(answer) as server, ThreadPoolExecutor(5) as pool:
        lines = {
            "load": f"{kvload(server.url, work, 9)} --keep-output --concurrency 16",
            "nobody": f"kvload -v --url {server.url} --model nobody --workload {work}",
            "doctor": f"kvdoctor --url {server.url} --format table",
            "clear": f"kvclear --vllm {server.url} --dry-run",
            "plan": f"kvplan --scenario cold_start --requests 2 --context-tokens 64"
            f" --url {server.url}",
        }
        started = {name: pool.submit(sh, line) for name, line in lines.items()}
        done = {name: one.result() for name, one in started.items()}
    for name, one in done.items():
        quiet(one.err)
        assert "Traceback" not in one.err or name == "nobody"
    quiet(done["doctor"].out)
    assert done["nobody"].status == 2 and "pwned" in done["nobody"].err
    told = records(done["load"].out, "request")
    assert len(told) == 1 + len(HOSTILE) and done["load"].status == 1
    failed = {one["error"] for one in told if one["status"] != "ok"}
    assert len(failed) >= len(HOSTILE) // 2
    (tmp_path / "run.jsonl").write_text(done["load"].out, encoding="utf-8")
    for line in ("kvstats --format table run.jsonl", "kvstats run.jsonl | kvreport --format md"):
        shown = sh(line)
        quiet(shown.out + shown.err)
        assert shown.out and "Traceback" not in shown.err
    assert {one.name for one in tmp_path.iterdir()} == {"work.jsonl", "run.jsonl"}
