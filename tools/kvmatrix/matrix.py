"""A matrix file and the run configs that it names, read, checked and resolved."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from kvmatrix.clearing import Clearing, clearing_of
from kvmatrix.endpoints import endpoints_of, mode_of
from kvmatrix.estimate import Shape, shape_of
from kvmatrix.quoting import UNSAFE_IN_RULES, shown, slug
from kvpipe.process import ToolError
from kvschemas.checked import Config, load_checked

OUTPUT_DIR = "test_results_multi"  # the documents' name
REPEATS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One scenario of the matrix, resolved."""

    name: str
    slug: str
    scenario: str
    config: Path
    overrides: tuple[str, ...]
    """kvload's flags that beat the config's keys."""
    control: bool
    salt: str
    """As the configs say it: `auto`, `none`, `request`, or a prefix."""
    clearing: Clearing | None
    """None: nothing is cleared, and the salt isolates alone."""
    shape: Shape
    fingerprint: str
    """Of everything that decides what is measured; attempts of another one are stale."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Matrix:
    """The whole matrix."""

    path: Path
    out: Path
    repeats: int
    seed: int
    on_unverified: Literal["fail", "continue"]
    clears: bool
    scenarios: tuple[Scenario, ...]


def read_matrix(path: str, *, allow_commands: bool) -> Matrix:
    """The matrix at `path`; ToolError with file, line and key for whatever is wrong with it."""
    config = load_checked(path, "matrix")
    value = config.value
    return Matrix(
        path=config.path,
        out=_output_dir(config),
        repeats=value.get("repeats", REPEATS),
        seed=value.get("seed", 1),
        on_unverified=value.get("on_unverified", "fail"),
        clears=value.get("clear_cache_between_scenarios", True),
        scenarios=tuple(
            _scenario(config, index, allow_commands)
            for index in range(len(value["test_scenarios"]))
        ),
    )


def _output_dir(config: Config) -> Path:
    text = config.value.get("output_dir", OUTPUT_DIR)
    bad = UNSAFE_IN_RULES.search(text)
    if bad or text.startswith("-"):
        sign = text[0] if bad is None else shown(bad[0])
        raise config.error(
            f"make cannot have {sign!r} in a path: name a folder of letters, digits and . _ - /",
            "output_dir",
        )
    return Path(text)


def _scenario(matrix: Config, index: int, allow_commands: bool) -> Scenario:
    entry = matrix.value["test_scenarios"][index]
    key = ("test_scenarios", index)
    name = _name(matrix, index)
    run = _run_config(matrix, index)
    mode = mode_of(run)
    endpoints = endpoints_of(run, mode)
    settings = run.value.get("scenarios", {}).get(entry["scenario"], {})
    tier = entry.get("tier", settings.get("tier", run.value.get("tier")))
    if tier == "remote" and len(set(endpoints.values())) < 2:
        raise matrix.error(
            f"tier remote needs round 2 on another endpoint, but {run.path} has one:"
            " add endpoints_per_round there",
            *key,
            "tier" if "tier" in entry else "config_file",
        )
    clearing = clearing_of(matrix, run, endpoints, allow_commands=allow_commands)
    salt = _salt(matrix, run)
    shape = shape_of(entry, run.value, clearing, salted=salt != "none")
    seed = matrix.value.get("seed", run.value.get("seed", 1))
    decides = {
        "entry": entry,
        "config": run.value,
        "clear": clearing.flags if clearing else None,
        "salt": salt,
        "seed": seed,
    }
    return Scenario(
        name=name,
        slug=slug(name),
        scenario=entry["scenario"],
        config=run.path,
        overrides=(
            *(
                text
                for flag in ("rounds", "concurrency", "requests", "tier")
                if flag in entry
                for text in (f"--{flag}", str(entry[flag]))
            ),
            *("--seed", str(seed)),
            *(_engines_for_load(clearing, run) if clearing else ()),
        ),
        control=shape.rounds >= 2 and salt != "none",
        salt=salt,
        clearing=clearing,
        shape=shape,
        fingerprint=_hash(decides),
    )


def _name(matrix: Config, index: int) -> str:
    """The scenario's name, if nothing forbids it: it becomes an argument and a label."""
    entries = matrix.value["test_scenarios"]
    name: str = entries[index]["name"]
    key = ("test_scenarios", index, "name")
    if "\0" in name:
        raise matrix.error("no program can be given a name with a NUL in it", *key)
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise matrix.error("half a surrogate pair is no character", *key) from error
    if any(entry["name"] == name for entry in entries[:index]):
        raise matrix.error(f"{shown(name)} stands twice: results go by name, so each has one", *key)
    return name


def _run_config(matrix: Config, index: int) -> Config:
    file = matrix.value["test_scenarios"][index]["config_file"]
    path = matrix.path.parent / file
    if not path.is_file():
        raise matrix.error(
            f"no such file: {path} (config files are looked for beside the matrix)",
            *("test_scenarios", index, "config_file"),
        )
    try:
        return load_checked(path, "config")
    except UnicodeDecodeError as error:
        raise ToolError(f"{path}: not UTF-8 text") from error


def _salt(matrix: Config, run: Config) -> str:
    for config in (run, matrix):
        asked = config.value.get("isolation", {}).get("salt")
        if asked is not None:
            return str(asked)
    return "auto"


def _engines_for_load(clearing: Clearing, run: Config) -> list[str]:
    """Engines that the matrix names and the run config does not: kvload resets and watches them."""
    own = run.value.get("isolation", {}).get("engines", [])
    admin = run.value.get("mooncake", {}).get("admin_url")
    known = {*own, f"mooncake={admin}"}
    useful = [
        engine
        for engine in clearing.named
        if engine not in known and engine.partition("=")[0] in ("vllm", "sglang", "mooncake")
    ]
    return [text for engine in useful for text in ("--engine", engine)]


def _hash(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
