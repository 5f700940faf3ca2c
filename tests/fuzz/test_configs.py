"""What people write by hand: configs, matrices, plans, flags. Taken, or refused in one line."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from hypothesis import strategies as st
from tests.family import ROOT
from tests.fuzz.fuzzing import fuzzed
from tests.fuzz.inprocess import files, refused, run
from tests.fuzz.mutation import broken, broken_lines, broken_object, changed, changes

from kvclear.cli import parser as kvclear_parser
from kvclear.cli import read_order
from kvengine.access import api_key, headers
from kvload.bodies import Dress, prepare
from kvload.console import Console
from kvload.flags import parser as kvload_parser
from kvload.resolve import experiments_of
from kvload.target import Target
from kvmatrix.cli import run as kvmatrix
from kvplan.cli import run as kvplan
from kvprompt.workload import read_plan
from kvsim import arguments as kvsim

FILES = {path.name: path.read_bytes() for path in sorted((ROOT / "configs").glob("*.yaml"))}
MATRICES = [data for name, data in FILES.items() if name.startswith("matrix_")]
MATRICES += [FILES["churn_store.yaml"]]
RUNS = [data for name, data in FILES.items() if name.startswith(("test_config", "multi_", "moon"))]
CLEARED = (ROOT / "schemas/examples/valid/cleared.json").read_bytes()
CALIBRATION = (ROOT / "schemas/examples/valid/calibration.json").read_bytes()
PLANS = [
    (ROOT / "schemas/examples/valid/plan.jsonl").read_bytes(),
    (ROOT / "tests/cases/kvplan/same-seed-same-bytes/out").read_bytes(),
    b'{"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 3, "group": "g"}\n' * 3,
    b'{"prompt": "Hello there", "at_s": 1.5}\n{"prompt": "Hello again", "at_s": 2}\n',
    b'{"prompt": [1, 2, 3]}\n{"prompt": [1, 2, 4], "max_tokens": 9}\n',
]


def another(data: bytes, ways: Sequence[tuple[int, int, int]]) -> bytes:
    """A config whose values are others, written as YAML again."""
    # JSON's keys are text: a config has numbers there too.
    value = changed(yaml.safe_load(data), ways)
    return yaml.safe_dump(value, allow_unicode=True, sort_keys=False).encode("utf-8", "replace")


def configs(seeds: list[bytes]) -> st.SearchStrategy[bytes]:
    """Configs with values changed, or with bytes and lines changed."""
    some = st.sampled_from(seeds)
    return st.builds(another, some, st.lists(changes, min_size=1, max_size=4)) | broken(some)


@fuzzed(configs(RUNS), examples=60)
def test_any_run_config(data: bytes) -> None:
    """kvload --config and kvclear --config: configs of runs"""
    with files(run_yaml=data) as (path,):

        def load(_: object) -> int:
            return len(
                experiments_of(kvload_parser().parse_args(["--config", path]), Console(True))
            )

        def clear(_: object) -> int:
            read_order(kvclear_parser().parse_args(["--config", path]))
            return 0

        ended = run("kvload", lambda _: min(1, load(_)))
        if ended.status == 2:
            refused(ended)
        ended = run("kvclear", clear)
        if ended.status == 2:
            refused(ended)


@fuzzed(configs(MATRICES), examples=40)
def test_any_matrix(data: bytes) -> None:
    """kvmatrix: matrices, to rules and to an estimate"""
    # The matrix names configs beside it, and folders for results below where it is run.
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        for name, config in FILES.items():
            (Path(folder) / name).write_bytes(config)
        path = str(Path(folder) / "fuzzed.yaml")
        Path(path).write_bytes(data)
        for flags in (["--check", "-q"], ["--estimate"], ["-q", "--allow-commands"]):
            ended = run("kvmatrix", kvmatrix, path, *flags)
            assert ended.status in (0, 1, 2)
            if ended.status == 2:
                refused(ended, folder)


@fuzzed(broken_lines(PLANS) | broken(st.sampled_from(PLANS)), examples=80)
def test_any_plan(data: bytes) -> None:
    """kvload --workload: plans, and lines of prompts, up to the bodies that are sent"""

    def main(_: object) -> int:
        for _head, requests in read_plan(io.BytesIO(data), "plan.jsonl"):
            for api in ("chat", "completions"):
                prepare(requests, _dress(api))
        return 0

    ended = run("kvload", main)
    if ended.status == 2:
        refused(ended, "plan.jsonl" if ended.err.startswith("kvload: plan.jsonl") else "request ")


def _dress(api: Any) -> Dress:
    return Dress(
        api=api, model="m", engine="vllm", extra={}, salt="s", salt_way="prefix", salt_each=True,
        nonce="n", run_id="r", keep_output=False,
    )  # fmt: skip


@fuzzed(broken_lines(PLANS) | broken(st.sampled_from(PLANS)), examples=20)
def test_any_own_file(data: bytes) -> None:
    """kvplan --prompts and --conversations: files of one's own, as plans and as traces"""
    with files(own_jsonl=data) as (path,):
        for source in ("--prompts", "--conversations"):
            for more in ([], ["--hash-only"]):
                ended = run("kvplan", kvplan, source, path, "-q", *more)
                if ended.status == 2:
                    refused(ended, path, streams=bool(more))


@fuzzed(broken_object([CLEARED.decode()]) | broken(st.just(CLEARED)), examples=20)
def test_any_side_file(data: bytes) -> None:
    """kvload --isolation and --calibration"""
    with files(side_json=data) as (path,):
        for flag in ("--isolation", "--calibration"):
            argv = ["--scenario", "cold_start", "--url", "http://h", flag, path]

            def main(_: object, argv: list[str] = argv) -> int:
                experiments_of(kvload_parser().parse_args(argv), Console(True))
                return 0

            ended = run("kvload", main)
            if ended.status == 2:
                refused(ended)


def secret(path: str, flag: str) -> int:
    """A key or headers from a file, up to the head of the requests."""
    if flag == "--api-key-file":
        Target.parse("http://h", api_key=api_key(path))
    else:
        Target.parse("http://h", headers=headers([f"@{path}"]))
    return 0


@fuzzed(broken(st.sampled_from([b"sk-abc\n", b"X-A: b\nAuthorization: Bearer c\n"])), examples=60)
def test_any_secret_file(data: bytes) -> None:
    """--api-key-file and --header @FILE: one line, and none of what stands in the file"""
    with files(secret_txt=data) as (path,):
        for flag in ("--api-key-file", "--header"):
            ended = run("kvload", lambda _, flag=flag: secret(path, flag))
            if ended.status == 2:
                refused(ended)


FLAGS = sorted(
    one.option_strings[0]
    for one in kvsim.parser()._actions
    if one.option_strings and one.option_strings[0] not in ("-h", "--version")
)
words = st.one_of(
    st.sampled_from(FLAGS),
    st.sampled_from(["0", "-1", "1", "nan", "inf", "1e400", "9" * 5000, "", "x", "\x00", "1.5"]),
    st.sampled_from(["node", "store", "proxy", "decode", "http://h:1", "slow=2", "drop=x", "é"]),
    st.sampled_from([f"{name}={n}" for name in kvsim.FAULTS for n in ("", "nan", "-1", "9" * 400)]),
)


@fuzzed(st.lists(st.tuples(st.sampled_from(FLAGS), words), max_size=4), examples=150)
def test_any_flags_of_kvsim(pairs: list[tuple[str, str]]) -> None:
    """kvsim's flags: any word behind any flag"""

    def main(argv: Sequence[str] | None) -> int:
        arguments = kvsim.parser().parse_args(argv)
        kvsim.check(arguments)
        kvsim.node_options(arguments)
        kvsim.store_options(arguments)
        kvsim.proxy_options(arguments, "h:1")
        return 0

    ended = run("kvsim", main, *(word for pair in pairs for word in pair))
    assert ended.status in (0, 2)


def test_the_seeds_are_taken() -> None:
    assert len(MATRICES) > 5 and len(RUNS) > 10
    for plan in PLANS:
        assert read_plan(io.BytesIO(plan), "plan.jsonl")
