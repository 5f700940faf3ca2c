"""The cells of a grid: platforms x deployments x models, and further axes, as scenarios.

Every name on an axis brings keys of a run config and of a scenario; a cell has those of all its
names, merged, so that nobody writes a config file for each of them. A text in it may name a
machine: `http://{a}:8000/v1` takes the address of `machines.a`, `{a.port}` another of its keys.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from kvmatrix.overrides import OVERRIDES
from kvmatrix.quoting import shown
from kvschemas import load_schema
from kvschemas.checked import Config, Key, placeholder_in

AXES = {
    "platforms": "platform",
    "deployments": "deployment",
    "models": "model",
    "lengths": "length",
    "reuse": "reuse",
    "loads": "load",
}
"""In the order in which their names stand in a scenario's; the last one changes slowest."""
OWN = (*OVERRIDES, "restart")
"""Keys of a piece that are the scenario's and not the run config's."""
MACHINE = re.compile(r"\{(?P<name>[^{}.]+)(?:\.(?P<key>[^{}]+))?\}")


class Pieces:
    """Pieces of a matrix on their way to being a cell; each key knows where it came from."""

    def __init__(self) -> None:
        self.value: dict[str, Any] = {}
        self.origins: dict[Key, Key] = {(): ("grid",)}

    def lay(self, piece: dict[str, Any], origin: Key) -> None:
        """Lay a piece over what is there: mappings are merged, anything else takes its place."""
        _lay(self.value, piece, (), origin, self.origins)


def _lay(
    into: dict[str, Any], piece: dict[str, Any], at: Key, origin: Key, origins: dict[Key, Key]
) -> None:
    for name, value in piece.items():
        key, source = (*at, name), (*origin, name)
        origins[key] = source
        if isinstance(value, dict):
            below = into[name] if isinstance(into.get(name), dict) else {}
            into[name] = below
            _lay(below, value, key, source, origins)
        else:
            into[name] = value


def _filled(cell: Config, value: Any, key: Key) -> Any:
    """The value with the machines' addresses in every text that names one."""
    if isinstance(value, dict):
        return {name: _filled(cell, item, (*key, name)) for name, item in value.items()}
    if isinstance(value, list):
        return [_filled(cell, item, (*key, at)) for at, item in enumerate(value)]
    if not isinstance(value, str):
        return value
    return MACHINE.sub(lambda found: _address(cell, found, key), value)


def _address(cell: Config, found: re.Match[str], key: Key) -> str:
    name, what = found["name"], found["key"] or "ip"
    machines = cell.value["machines"]
    if name not in machines:
        known = ", ".join(machines) or "none"
        raise cell.error(f"{found[0]}: {name} is not among `machines` ({known})", *key)
    value = machines[name].get(what)
    if not isinstance(value, (str, int)):
        raise cell.error(f"{found[0]}: machines.{name} has no {what}", *key)
    mark = placeholder_in(str(value))
    if mark is not None:
        raise cell.error(
            f"the placeholder {mark} is still there: write the real address",
            *("machines", name, what),
        )
    return str(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """One scenario as the matrix asks for it, before it is resolved."""

    entry: dict[str, Any]
    """Name, scenario, and the keys that beat the run config's."""
    key: Key
    """Where it stands in the matrix."""
    run: Config
    made: bool
    """Whether the run config is of no file, but made of pieces."""


def cells_of(matrix: Config) -> Iterator[Wanted]:
    """The cells of the matrix' grid, the last axis slowest; ToolError for what cannot be."""
    grid = matrix.value.get("grid")
    if grid is None:
        return
    axes = [axis for axis in AXES if axis in grid]
    if not axes:
        raise matrix.error(f"a grid needs an axis: {', '.join(AXES)}", "grid")
    every = list(itertools.product(*(grid[axis] for axis in reversed(axes))))
    named = [dict(zip(axes, reversed(names), strict=True)) for names in every]
    left = _without_excluded(matrix, named)
    for names in left:
        yield _cell(matrix, grid, names)


def _without_excluded(matrix: Config, named: list[dict[str, str]]) -> list[dict[str, str]]:
    grid = matrix.value["grid"]
    for index, entry in enumerate(grid.get("exclude", [])):
        key = ("grid", "exclude", index)
        for axis, singular in AXES.items():
            if singular in entry and entry[singular] not in grid.get(axis, {}):
                known = ", ".join(shown(name) for name in grid.get(axis, {})) or "none"
                raise matrix.error(
                    f"{shown(entry[singular])} is not among `{axis}` ({known})", *key, singular
                )
        kept = [names for names in named if not _excluded(entry, names)]
        if len(kept) == len(named):
            raise matrix.error(
                "leaves nothing out: what it names was left out before; take it away", *key
            )
        named = kept
    if not named:
        raise matrix.error("every cell of the grid is left out", "grid", "exclude")
    return named


def _excluded(entry: dict[str, str], names: dict[str, str]) -> bool:
    return all(
        entry[singular] == names.get(axis) for axis, singular in AXES.items() if singular in entry
    )


def _cell(matrix: Config, grid: dict[str, Any], names: dict[str, str]) -> Wanted:
    pieces = Pieces()
    pieces.lay(grid.get("base") or {}, ("grid", "base"))
    for axis, name in names.items():
        pieces.lay(grid[axis][name] or {}, ("grid", axis, name))
    value, origins = pieces.value, pieces.origins
    entry = {"name": "-".join(names.values()), "scenario": grid["scenario"]}
    entry |= {key: value.pop(key) for key in OWN if key in value}
    matrix.made_of(entry, origins).hold_against(_entry_schema())
    whole = matrix.made_of(value, origins)
    whole.hold_against(_config_schema())
    if "machines" in value:
        value = {
            key: item if key == "machines" else _filled(whole, item, (key,))
            for key, item in value.items()
        }
    run = matrix.made_of(value, origins)
    return Wanted(entry=entry, key=("grid",), run=run, made=True)


def _entry_schema() -> dict[str, Any]:
    """A scenario's in a matrix, whose run config is no file."""
    item: dict[str, Any] = load_schema("matrix")["properties"]["test_scenarios"]["items"]
    return item | {"required": ["name", "scenario"]}


def _config_schema() -> dict[str, Any]:
    """A run config's, whose complaint about an unknown key names those of a scenario too."""
    schema: dict[str, Any] = load_schema("config")
    keys = _entry_schema()["properties"]
    more = {key: keys[key] for key in OWN}
    return schema | {"properties": more | schema["properties"]}
