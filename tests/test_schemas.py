"""The contract: types and schemas are one, examples are what they say, decoder and schema agree."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from tests.family import ROOT
from tests.strategies import ANYTHING, LARGEST, NAMES, values

import kvschemas
from kvpipe import jsonl
from kvpipe.process import ToolError
from kvpipe.records import End, PlanRecord, Record, Request, Run, ServerMetrics
from kvschemas.checked import load_checked
from kvschemas.generate import RECORDS, record_schemas

SCHEMAS = ROOT / "schemas"
VALID = sorted((SCHEMAS / "examples" / "valid").glob("*.json*"))
INVALID = sorted((SCHEMAS / "examples" / "invalid").glob("*/*.json"))
CONFIGS = sorted(
    path
    for path in (ROOT / "configs").glob("*.yaml")
    if not path.name.startswith("mooncake-")  # LMCache's own: tests/test_compose.py
)

# Making a round's stats takes hypothesis long: that says nothing about the code under test.
patient = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


# --- types and schemas ---------------------------------------------------------------------------


def test_schemas_on_disk_are_those_of_the_types() -> None:
    on_disk = {name: kvschemas.load_schema(name) for name in RECORDS}
    assert on_disk == record_schemas(), "the types changed: make docs"


def test_every_schema_file_is_a_record_or_a_config() -> None:
    files = {path.name.removesuffix(".schema.json") for path in SCHEMAS.glob("*.schema.json")}
    assert files == set(RECORDS) | {"config", "matrix", "report"}


def schema_names() -> list[str]:
    return sorted(path.name.removesuffix(".schema.json") for path in SCHEMAS.glob("*.schema.json"))


@pytest.mark.parametrize("name", schema_names())
def test_schema_is_valid_and_carries_its_version(name: str) -> None:
    schema = kvschemas.load_schema(name)
    Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert re.fullmatch(rf"urn:kvworth:{name}:\d+", schema["$id"])
    assert schema["additionalProperties"] is False


def described(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every property anywhere in a schema, with the path to it."""
    for key, value in schema.get("properties", {}).items():
        yield f"{path}.{key}", value
    for key, value in schema.items():
        if isinstance(value, dict):
            yield from described(value, f"{path}/{key}")


@pytest.mark.parametrize("name", schema_names())
def test_every_property_is_described_by_a_sentence(name: str) -> None:
    properties = dict(described(kvschemas.load_schema(name)))
    assert properties
    for path, schema in properties.items():
        text = schema.get("description", "")
        assert re.fullmatch(r"[A-Z0-9`(].{8,}[.]", text), f"{name}{path}: {text!r} is no sentence"


@pytest.mark.parametrize("name", RECORDS)
def test_a_field_that_may_be_null_and_required_says_when(name: str) -> None:
    """Optional fields are null where not known; one that must be written says what null means."""
    schema = kvschemas.load_schema(name)
    for key in schema.get("required", []):
        value = schema["properties"][key]
        if {"type": "null"} in value.get("anyOf", []):
            assert re.search(r"[Nn]ull|: none|not shown", value["description"]), f"{name}.{key}"


# --- examples ------------------------------------------------------------------------------------


def lines_of(path: Path) -> list[str]:
    """The records of an example: a .json file is one, a .jsonl file one a line."""
    text = path.read_text(encoding="utf-8")
    return text.splitlines() if path.suffix == ".jsonl" else [json.dumps(json.loads(text))]


def kind_of(path: Path, value: dict[str, Any]) -> str:
    """What an example is of: as its `record` says, else as its file is named."""
    return str(value.get("record") or path.name.partition(".")[0])


def decode(kind: str, line: bytes) -> Any:
    """As the tools read it: a line by its envelope, a part of a record by its type."""
    if RECORDS[kind].__struct_config__.tag is None:
        return jsonl.decode_as(RECORDS[kind], line, "here")
    return jsonl.decode_line(line, "here")


@pytest.mark.parametrize("path", VALID, ids=lambda path: path.name)
def test_valid_example_is_accepted_by_schema_and_decoder(path: Path) -> None:
    assert lines_of(path)
    for line in lines_of(path):
        value = json.loads(line)
        kind = kind_of(path, value)
        assert kvschemas.first_problem(kind, value) is None
        assert isinstance(decode(kind, line.encode()), RECORDS[kind])


@pytest.mark.parametrize("name", RECORDS)
def test_examples_show_every_field_with_a_value(name: str) -> None:
    shown = {
        key
        for path in VALID
        for value in map(json.loads, lines_of(path))
        if kind_of(path, value) == name
        for key, held in value.items()
        if held not in (None, [], {})
    }
    assert shown == set(kvschemas.load_schema(name)["properties"])


@pytest.mark.parametrize("name", RECORDS)
def test_two_examples_at_least_are_invalid(name: str) -> None:
    assert len([path for path in INVALID if path.parent.name == name]) >= 2


@pytest.mark.parametrize("path", INVALID, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_invalid_example_is_refused_by_both_and_the_key_is_named(path: Path) -> None:
    """The file is named for the key: `sent_ns-is-text.json`."""
    kind, key = path.parent.name, path.stem.partition("-")[0]
    (line,) = lines_of(path)
    problem = kvschemas.first_problem(kind, json.loads(line))
    assert problem is not None
    assert f"'{key}'" in problem or f".{key}'" in problem
    with pytest.raises(ToolError, match=f"^here: .*{key}"):
        decode(kind, line.encode())


def test_a_stream_is_run_requests_metrics_end() -> None:
    """The grammar of schemas/README.md, held by the example that shows it."""
    text = (SCHEMAS / "examples" / "valid" / "stream.jsonl").read_bytes()
    records = list(jsonl.read_records(text.splitlines(), "stream.jsonl"))
    letters = {Run: "r", Request: "q", ServerMetrics: "m", End: "e"}
    assert re.fullmatch("(rq+m+e)+", "".join(letters[type(record)] for record in records))
    runs = [record for record in records if isinstance(record, Run)]
    assert len(runs) >= 2, "several streams may follow one another: show it"
    assert len({run.experiment_id for run in runs}) == 1
    assert len({run.plan_sha256 for run in runs}) == 1
    for end in (record for record in records if isinstance(record, End)):
        mine = [r for r in records if isinstance(r, Request) and r.run_id == end.run_id]
        assert (len(mine), sum(r.status == "ok" for r in mine)) == (end.planned, end.ok)


def test_a_plan_is_a_head_and_its_requests() -> None:
    text = (SCHEMAS / "examples" / "valid" / "plan.jsonl").read_bytes()
    kinds = [type(r) for r in jsonl.read_records(text.splitlines(), "plan.jsonl")]
    assert len(kinds) > 2
    assert all(issubclass(kind, PlanRecord) for kind in kinds)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_shipped_config_is_valid(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    if "metadata_server: " in text and "remote_url: " in text:
        return  # LMCache's own config, which is LMCache's to judge
    matrix = re.search(r"^(test_scenarios|grid):", text, re.M)
    load_checked(path, "matrix" if matrix else "config")


# --- decoder and schema --------------------------------------------------------------------------

# jsonschema's type is cheap to build and dear to compile: one of each kind for the whole session.
VALIDATORS = {name: Draft202012Validator(schema) for name, schema in record_schemas().items()}


@pytest.mark.parametrize("name", RECORDS)
@patient
@given(data=st.data())
def test_what_is_written_is_read_back_equal(name: str, data: st.DataObject) -> None:
    value = data.draw(values(RECORDS[name]))
    assert not list(VALIDATORS[name].iter_errors(value))
    record = decode(name, msgspec.json.encode(value))
    assert isinstance(record, Record)
    line = jsonl.encode(record)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert decode(name, line) == record
    written = json.loads(line)
    assert not list(VALIDATORS[name].iter_errors(written))
    assert holds(written, value), "something that was read is not written"
    if "record" in written:
        assert list(written)[:2] == ["record", "schema"]


def holds(written: Any, value: Any) -> bool:
    """Everything in `value` stands in `written`, which may say more: what is null by default."""
    if isinstance(value, dict):
        return all(key in written and holds(written[key], value[key]) for key in value)
    if isinstance(value, list):
        return len(value) == len(written) and all(map(holds, written, value))
    return bool(written == value)


@pytest.mark.parametrize("name", RECORDS)
@patient
@given(data=st.data())
def test_decoder_and_schema_agree_on_damaged_records(name: str, data: st.DataObject) -> None:
    """Drop a key, put in a strange one, or put anything in a key's place, at any depth."""
    value = damaged(data, data.draw(values(RECORDS[name])))
    by_schema = VALIDATORS[name].is_valid(value)
    try:
        decode(name, msgspec.json.encode(value))
    except ToolError as error:
        assert not by_schema, f"the schema accepts what the decoder refuses: {error}"
    else:
        assert by_schema, "the decoder accepts what the schema refuses"


def damaged(data: st.DataObject, value: dict[str, Any]) -> dict[str, Any]:
    changed = copy.deepcopy(value)
    places = [place for place in objects(changed) if place]
    place = data.draw(st.sampled_from(places))
    key = data.draw(st.sampled_from(sorted(place)))
    match data.draw(st.sampled_from(["drop", "extra", "replace"])):
        case "drop":
            del place[key]
        case "extra":
            place[data.draw(NAMES)] = data.draw(ANYTHING)
        case "replace":
            place[key] = data.draw(ANYTHING | st.floats(-LARGEST, LARGEST).filter(has_fraction))
    return changed


def has_fraction(number: float) -> bool:
    """JSON Schema takes 1.0 for an integer and the decoder does not: said in schemas/README.md."""
    return not number.is_integer()


def objects(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
        for inner in value.values():
            yield from objects(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from objects(inner)


def test_the_example_of_stats_is_what_kvstats_makes_of_the_stream(sh: Callable[..., Any]) -> None:
    done = sh(f"kvstats --slo ttft=500ms {SCHEMAS}/examples/valid/stream.jsonl")
    wanted = (SCHEMAS / "examples" / "valid" / "round_stats.jsonl").read_text(encoding="utf-8")
    assert done.out == wanted, "make docs"
