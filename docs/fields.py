"""The fields of schemas as Markdown tables: `python docs/fields.py run request`.

A record that stands inside another is shown by its name, with a table of its own behind the first
that holds it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

SCHEMAS = Path(__file__).resolve().parents[1] / "schemas"

Schema = dict[str, Any]


def type_of(schema: Schema) -> str:
    """What a value may be, in a few words: `integer or null`, `list of Finding`."""
    if "anyOf" in schema:
        return " or ".join(type_of(one) for one in schema["anyOf"])
    if "$ref" in schema:
        return str(schema["$ref"]).rsplit("/", 1)[1]
    if "const" in schema:
        return f"`{json.dumps(schema['const'])}`"
    if "enum" in schema:
        return ", ".join("null" if one is None else f"`{one}`" for one in schema["enum"])
    kind = schema.get("type", "anything")
    if isinstance(kind, list):
        return " or ".join(kind)
    if kind == "array":
        inner = schema.get("items")
        return f"list of {type_of(inner)}" if isinstance(inner, dict) and inner else "list"
    if kind == "object":
        inner = schema.get("additionalProperties")
        return f"object of {type_of(inner)}" if isinstance(inner, dict) and inner else "object"
    return str(kind)


def row(key: str, schema: Schema, required: bool) -> str:
    """One field; what may be left out is set in plain type, what must stand there in bold."""
    name = f"**`{key}`**" if required else f"`{key}`"
    cells = (name, type_of(schema), schema.get("description", ""))
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def table(schema: Schema) -> str:
    """All fields of one object."""
    required = schema.get("required", [])
    rows = [row(key, one, key in required) for key, one in schema["properties"].items()]
    return "\n".join(["| field | type | what it is |", "| --- | --- | --- |", *rows])


def links(schema: Schema) -> str:
    """The elements of a record that is written as a list, in order."""
    rows = [row(str(place), one, True) for place, one in enumerate(schema["prefixItems"])]
    return "\n".join(["| place | type | what it is |", "| --- | --- | --- |", *rows])


def page(name: str, told: set[str]) -> str:
    """A heading, the schema's table, then one for each record inside that nobody has told yet."""
    schema = json.loads((SCHEMAS / f"{name}.schema.json").read_text(encoding="utf-8"))
    parts = [f"### `{name}`", schema["description"], table(schema)]
    for title, inner in schema.get("$defs", {}).items():
        if title in told or (SCHEMAS / f"{_file_name(title)}.schema.json").exists():
            continue
        told.add(title)
        parts += [f"**{title}**: {inner['description']}"]
        parts += [links(inner) if "prefixItems" in inner else table(inner)]
    return "\n\n".join(parts)


def _file_name(title: str) -> str:
    """`ServerMetrics` is `server_metrics` on disk."""
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in title).lstrip("_")


if __name__ == "__main__":
    told: set[str] = set()
    print("\n\n".join(page(name, told) for name in sys.argv[1:]))
