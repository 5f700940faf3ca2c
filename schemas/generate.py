"""From the record types to JSON Schema 2020-12."""

from __future__ import annotations

from typing import Any

import msgspec

from kvpipe import records

RECORDS: dict[str, type[msgspec.Struct]] = {
    "plan": records.Plan,
    "planned": records.Planned,
    "run": records.Run,
    "request": records.Request,
    "server_metrics": records.ServerMetrics,
    "end": records.End,
    "round_stats": records.RoundStats,
    "request_stats": records.RequestStats,
    "cleared": records.Cleared,
    "capacity": records.Capacity,
    "calibration": records.Calibration,
    "outcome": records.Outcome,
    "diagnosis": records.Diagnosis,
    "analysis": records.Analysis,
    "finding": records.Finding,
}


def record_schemas() -> dict[str, dict[str, Any]]:
    """One self-contained schema per record, `$id` carrying the version."""
    return {name: schema_of(name, kind) for name, kind in RECORDS.items()}


def schema_of(name: str, kind: type[msgspec.Struct]) -> dict[str, Any]:
    """The self-contained schema of one kind of line, whoever writes it."""
    (reference,), components = msgspec.json.schema_components([kind], ref_template="#/$defs/{name}")
    own = reference["$ref"].rsplit("/", 1)[1]
    body = dict(components.pop(own))
    schema: dict[str, Any] = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:kvworth:{name}:{records.SCHEMA_VERSION}",
        **body,
    }
    if "record" in schema["properties"]:
        _head_first(schema, name)
    for inner in components.values():
        if "record" in inner.get("properties", {}):
            (tag,) = inner["properties"]["record"]["enum"]
            inner["properties"] |= _envelope(tag)
            inner["required"].remove("record")
    if components:
        schema["$defs"] = dict(sorted(components.items()))
    return schema


def _head_first(schema: dict[str, Any], name: str) -> None:
    """The envelope of a line: both keys are required there; a record inside needs neither."""
    schema["properties"] |= _envelope(name)
    required = [key for key in schema.get("required", []) if key not in ("record", "schema")]
    schema["required"] = ["record", "schema", *required]


def _envelope(name: str) -> dict[str, Any]:
    """`record` names the schema, `schema` its version."""
    return {
        "record": {"const": name, "description": "Name of this record's schema."},
        "schema": {
            "const": records.SCHEMA_VERSION,
            "description": "Version of this record's schema.",
        },
    }
