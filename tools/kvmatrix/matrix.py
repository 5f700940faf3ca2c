"""A matrix file and the run configs that it names, read, checked and resolved."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from kvmatrix.between import between_of, restart_of
from kvmatrix.clearing import Clearing, clearing_of, refuse_password
from kvmatrix.endpoints import endpoints_of, mode_of
from kvmatrix.estimate import Shape, shape_of
from kvmatrix.grid import Wanted, cells_of
from kvmatrix.limits import Limits, limits_of, search_shape
from kvmatrix.overrides import check_load, flags_of
from kvmatrix.quoting import UNSAFE_IN_RULES, shown, slug
from kvschemas.checked import Config, Key, load_checked

OUTPUT_DIR = "test_results_multi"  # the documents' name
REPEATS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One scenario of the matrix, resolved."""

    name: str
    slug: str
    scenario: str
    config: Path | None
    """Its run config's file; None: it was made of pieces of the matrix, and is `settings`."""
    settings: dict[str, Any]
    """The run config."""
    restart: tuple[str, ...]
    """kvclear's flags for restarting its engines; empty: they are left as they are."""
    overrides: tuple[str, ...]
    """kvload's flags that beat the config's keys."""
    control: bool
    capacity: Limits | None
    """None: rounds are run; else the rate is searched for that keeps an SLO."""
    seed: int
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
    formats: tuple[str, ...]
    """Of the report; empty: all that kvreport has."""
    between: tuple[tuple[str, ...], ...]
    """kvclear's flags for the user's own steps before each scenario; one call each."""
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
        formats=tuple(value.get("formats", ())),
        between=between_of(config, allow_commands=allow_commands),
        scenarios=tuple(_scenario(config, wanted, allow_commands) for wanted in _distinct(config)),
    )


def _distinct(matrix: Config) -> Iterator[Wanted]:
    """What is listed, then the cells of the grid; each has a name of its own."""
    seen: set[str] = set()
    for wanted in (*_listed(matrix), *cells_of(matrix)):
        name = wanted.entry["name"]
        _check_name(matrix, name, (*wanted.key, "name"))
        if name in seen:
            raise matrix.error(
                f"{shown(name)} stands twice: results go by name, so each has one",
                *(*wanted.key, "name"),
            )
        seen.add(name)
        yield wanted


def _listed(matrix: Config) -> Iterator[Wanted]:
    for index, entry in enumerate(matrix.value.get("test_scenarios", [])):
        key = ("test_scenarios", index)
        _check_name(matrix, entry["name"], (*key, "name"))
        yield Wanted(entry=entry, key=key, run=_run_config(matrix, index), made=False)


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


def _scenario(matrix: Config, wanted: Wanted, allow_commands: bool) -> Scenario:
    entry, run = wanted.entry, wanted.run
    if wanted.made:  # its config is written by its recipe
        _refuse_passwords(run, run.value)
    mode = mode_of(run)
    endpoints = endpoints_of(run, mode)
    settings = run.value.get("scenarios", {}).get(entry["scenario"], {})
    _check_tier(matrix, wanted, endpoints, settings)
    check_load(matrix, wanted.key, entry, settings)
    clearing = clearing_of(matrix, run, endpoints, allow_commands=allow_commands)
    salt = _salt(matrix, run)
    shape = shape_of(entry, run.value, clearing, salted=salt != "none")
    capacity = limits_of(matrix, wanted.key, entry, salt=salt, endpoints=endpoints, tier=shape.tier)
    if capacity is not None:
        shape = search_shape(shape, capacity)
    seed = matrix.value.get("seed", run.value.get("seed", 1))
    decides = {
        "entry": entry,
        "config": run.value,
        "clear": clearing.flags if clearing else None,
        "salt": salt,
        "seed": seed,
    }
    if between := matrix.value.get("between"):
        decides["between"] = between
    return Scenario(
        name=entry["name"],
        slug=slug(entry["name"]),
        scenario=entry["scenario"],
        config=None if wanted.made else run.path,
        settings=run.value,
        restart=restart_of(matrix, wanted.key, entry, endpoints, allow_commands=allow_commands),
        overrides=(
            *flags_of(entry),
            *("--seed", str(seed)),
            *(_engines_for_load(clearing, run) if clearing else ()),
        ),
        control=capacity is None and shape.rounds >= 2 and salt != "none",
        capacity=capacity,
        seed=seed,
        salt=salt,
        clearing=clearing,
        shape=shape,
        fingerprint=_hash(decides),
    )


def _refuse_passwords(run: Config, value: Any, *key: str | int) -> None:
    if isinstance(value, dict):
        for name, item in value.items():
            _refuse_passwords(run, item, *key, name)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _refuse_passwords(run, item, *key, index)
    elif isinstance(value, str):
        refuse_password(run, value, *key)


def _check_tier(
    matrix: Config, wanted: Wanted, endpoints: dict[int, str], settings: dict[str, Any]
) -> None:
    tier = wanted.entry.get("tier", settings.get("tier", wanted.run.value.get("tier")))
    if tier == "remote" and len(set(endpoints.values())) < 2:
        if wanted.made:
            raise wanted.run.error(
                "tier remote needs round 2 on another endpoint: add endpoints_per_round", "tier"
            )
        raise matrix.error(
            f"tier remote needs round 2 on another endpoint, but {wanted.run.path} has one:"
            " add endpoints_per_round there",
            *wanted.key,
            "tier" if "tier" in wanted.entry else "config_file",
        )


def _check_name(matrix: Config, name: str, key: Key) -> None:
    """ToolError for a name that cannot become an argument and a label."""
    if "\0" in name:
        raise matrix.error("no program can be given a name with a NUL in it", *key)
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise matrix.error("half a surrogate pair is no character", *key) from error


def _run_config(matrix: Config, index: int) -> Config:
    file = matrix.value["test_scenarios"][index]["config_file"]
    path = matrix.path.parent / file
    if not path.is_file():
        raise matrix.error(
            f"no such file: {path} (config files are looked for beside the matrix)",
            *("test_scenarios", index, "config_file"),
        )
    return load_checked(path, "config")


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
