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
    import yaml  # an import that a run without a config never pays

    file = Path(path)
    if file.stat().st_size > MAX_BYTES:
        raise ToolError(f"{file}: more than {MAX_BYTES} bytes is no config")
    text = file.read_text(encoding="utf-8")
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        lines = dict(_lines(node, (), str(file)))
        value = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ToolError(f"{file}:{line}: not YAML: {error.problem}") from error
    except yaml.YAMLError as error:
        raise ToolError(f"{file}:1: not YAML: {error}") from error
    if not isinstance(value, dict):
        raise ToolError(f"{file}:1: a mapping of keys is expected, such as `rounds: 2`")
    config = Config(file, _plain_keys(value), lines)
    config.hold_against(load_schema(schema))
    return config


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
