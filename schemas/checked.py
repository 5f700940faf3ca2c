"""A YAML config read safely and held against its schema, complaints with file, line and key."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kvpipe.process import ToolError
from kvschemas import load_schema

if TYPE_CHECKING:
    import yaml
    from jsonschema.exceptions import ValidationError

MAX_BYTES = 1_000_000
MAX_DEPTH = 32
"""Lists and mappings inside each other; the schemas need seven."""
MAX_NODES = 100_000
"""Values in a config when every alias is written out: a few lines of aliases of aliases would else
be billions, which no memory holds."""
PLACEHOLDERS = ("YOUR_", "NODE_A", "NODE_B", "//HOST:", "//HOST/")

Key = tuple[str | int, ...]


class Config:
    """A checked config: its value, and where each key stands in the file."""

    def __init__(
        self,
        path: Path,
        value: dict[str, Any],
        lines: dict[Key, int],
        origins: dict[Key, Key] | None = None,
    ) -> None:
        self.path = path
        self.value = value
        self._lines = lines
        self._origins = origins

    def made_of(self, value: dict[str, Any], origins: dict[Key, Key]) -> Config:
        """A config that was put together from pieces of this one; `origins` says which key is from
        which, the empty key standing for all others. Complaints name the piece."""
        return Config(self.path, value, self._lines, origins)

    def _origin(self, key: Key) -> Key:
        if self._origins is None:
            return key
        end = next(end for end in range(len(key), -1, -1) if key[:end] in self._origins)
        return (*self._origins[key[:end]], *key[end:])

    def place(self, *key: str | int) -> str:
        """`file:line: 'a.b'` of a key, or of the nearest key above it."""
        key = found = self._origin(key)
        while found and found not in self._lines:
            found = found[:-1]
        return f"{self.path}:{self._lines.get(found, 1)}: '{'.'.join(map(str, key))}'"

    def error(self, message: str, *key: str | int) -> ToolError:
        """A ToolError that names the place of a key."""
        return ToolError(f"{self.place(*key)}: {message}")

    def hold_against(self, schema: dict[str, Any]) -> None:
        """ToolError with file, line and key of the most telling thing that breaks the schema."""
        from jsonschema import Draft202012Validator
        from jsonschema.exceptions import best_match

        problem = best_match(Draft202012Validator(schema).iter_errors(self.value))
        if problem is not None:
            raise self.error(_words(problem), *problem.absolute_path, *_unknown_key(problem))


def load_checked(path: str | Path, schema: str) -> Config:
    """The YAML file at `path`, valid by schema `schema`; ToolError with file, line and key."""
    file = Path(path)
    node, value = read_yaml(file)
    lines = dict(_lines(node, (), str(file)))
    if not isinstance(value, dict):
        raise ToolError(f"{file}:1: a mapping of keys is expected, such as `rounds: 2`")
    config = Config(file, _plain_keys(value), lines)
    config.hold_against(load_schema(schema))
    return config


def read_yaml(file: Path) -> tuple[yaml.Node | None, Any]:
    """What a YAML file holds, as nodes and as a value; ToolError for what is none or too much.

    The safe loader makes nothing but plain values. It has no limits of its own: size, depth and
    what aliases grow to are held here, before anything is made of them.
    """
    import yaml  # an import that a run without a config never pays

    with file.open("rb") as stream:
        data = stream.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ToolError(f"{file}: more than {MAX_BYTES} bytes is no config")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ToolError(f"{file}: not UTF-8 text") from error
    try:
        _hold_depth(yaml.parse(text, Loader=yaml.SafeLoader), file)
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        _hold_size(node, file)
        value = None if node is None else loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ToolError(f"{file}:{line}: not YAML: {error.problem}") from error
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date or a number that is none
        said = " ".join(str(error).split())
        raise ToolError(f"{file}:1: not YAML: {said}") from error
    return node, value


def _hold_depth(events: Iterable[yaml.Event], file: Path) -> None:
    """ToolError for what is nested so deep that composing it would exhaust the stack."""
    import yaml

    depth = 0
    for event in events:
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                line = event.start_mark.line + 1 if event.start_mark else 1
                raise ToolError(f"{file}:{line}: nested deeper than {MAX_DEPTH}: no config is")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _hold_size(node: yaml.Node | None, file: Path) -> None:
    """ToolError for aliases that grow to more than a config, or hold themselves."""
    sizes: dict[int, tuple[int, int]] = {}

    def measured(one: yaml.Node) -> tuple[int, int]:
        """How many values it is, and how deep, each node being measured once."""
        known = sizes.get(id(one))
        if known is None:
            sizes[id(one)] = (MAX_NODES, MAX_DEPTH)  # met again below itself, it has no end
            below = [measured(child) for child in _children(one)]
            size = 1 + sum(one for one, _ in below)
            known = size, 1 + max((deep for _, deep in below), default=0)
            sizes[id(one)] = known
        if known[0] > MAX_NODES or known[1] > MAX_DEPTH + 1:
            line = one.start_mark.line + 1
            raise ToolError(
                f"{file}:{line}: its aliases (*name) grow beyond {MAX_NODES} values or"
                f" {MAX_DEPTH} levels: write out what is meant"
            )
        return known

    if node is not None:
        measured(node)


def _children(node: yaml.Node) -> Iterable[yaml.Node]:
    import yaml

    if isinstance(node, yaml.MappingNode):
        return [one for pair in node.value for one in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


def placeholder_in(text: str) -> str | None:
    """The placeholder that an example left in a URL or address, if one is still there."""
    return next((mark.strip("/:") for mark in PLACEHOLDERS if mark in f"{text}/"), None)


def _lines(node: yaml.Node | None, key: Key, file: str) -> Iterable[tuple[Key, int]]:
    import yaml

    if node is None:
        return
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for name, child in node.value:
            if not isinstance(name, yaml.ScalarNode):
                line = name.start_mark.line + 1
                raise ToolError(f"{file}:{line}: a key is one word, not a list or a mapping")
            if name.value in seen:
                line = name.start_mark.line + 1
                raise ToolError(f"{file}:{line}: '{name.value}' stands twice; keep one")
            seen.add(name.value)
            below = (*key, str(name.value))
            yield below, name.start_mark.line + 1
            yield from _lines(child, below, file)
    elif isinstance(node, yaml.SequenceNode):
        for index, child in enumerate(node.value):
            yield (*key, index), child.start_mark.line + 1
            yield from _lines(child, (*key, index), file)


def _plain_keys(value: Any) -> Any:
    """Mapping keys as text, since JSON Schema knows no other (`endpoints_per_round: {1: ...}`)."""
    if isinstance(value, dict):
        return {str(key): _plain_keys(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain_keys(item) for item in value]
    return value


def _unknown_key(problem: ValidationError) -> list[str]:
    """The key that no schema knows, which is what the complaint is about and not its mapping."""
    if problem.validator != "additionalProperties" or not isinstance(problem.schema, dict):
        return []
    known = problem.schema.get("properties", {})
    patterns = problem.schema.get("patternProperties", {})
    return [
        key
        for key in problem.instance
        if key not in known and not any(re.search(pattern, key) for pattern in patterns)
    ][:1]


def _words(problem: ValidationError) -> str:
    schema = problem.schema if isinstance(problem.schema, dict) else {}
    if problem.validator == "additionalProperties":
        known = ", ".join(sorted(schema.get("properties", {})))
        return f"{problem.message}; known keys: {known}"
    described = schema.get("description")
    message = problem.message if len(problem.message) < 200 else problem.message[:200] + "..."
    return f"{message} ({described})" if described else message
