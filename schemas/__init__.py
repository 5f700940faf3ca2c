"""The contract between the tools: JSON Schema 2020-12 for every record and both config files.

Record schemas are written from `kvpipe.records` by `python -m kvschemas` (`make docs`); the config
schemas are written by hand. Examples in `examples/` are validated by the tests.
"""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import Any

LONGEST_NAME = 40


@cache
def load_schema(name: str) -> dict[str, Any]:
    """The schema of a record (`request`) or a config (`config`, `matrix`); KeyError if unknown.

    The name may be anybody's data: it is no path.
    """
    if not name.isidentifier() or len(name) > LONGEST_NAME:
        raise KeyError(name)
    path = files("kvschemas") / f"{name}.schema.json"
    if not path.is_file():
        raise KeyError(name)
    schema: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return schema


def first_problem(name: str, value: object) -> str | None:
    """The most telling thing wrong with `value`, with its key; None if nothing is."""
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import best_match

    try:
        schema = load_schema(name)
    except KeyError:
        return f"`{name}` is no record of this schema version"
    error = best_match(Draft202012Validator(schema).iter_errors(value))
    if error is None:
        return None
    where = ".".join(str(part) for part in error.absolute_path)
    message = error.message if len(error.message) < 200 else error.message[:200] + "..."
    return f"'{where}': {message}" if where else message
