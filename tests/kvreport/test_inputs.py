"""What kvreport reads: three forms, old files, labels; and how it refuses the rest."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from tests.kvreport.rounds import Setting, experiment, lines

from kvpipe.process import ToolError
from kvreport.inputs import read_inputs, split_label
from kvreport.rounds import Round

OLD = {"scenario": "qa", "round_num": 1, "avg_ttft": 1.5}


def read_rounds(files: list[str]) -> list[Round]:
    return read_inputs(files).rounds


def written(folder: Path, name: str, text: str) -> str:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_lines_a_list_and_one_object_read_the_same(tmp_path: Path) -> None:
    text = lines(experiment(1))
    objects = [json.loads(line) for line in text.splitlines()]
    forms = {
        "lines.jsonl": text,
        "list.json": json.dumps(objects, indent=2),
        "blank.jsonl": "\n" + text.replace("\n", "\n\n"),
    }
    read = [read_rounds([written(tmp_path, name, form)]) for name, form in forms.items()]
    assert [[one.stats for one in rounds] for rounds in read] == [[r.stats for r in read[0]]] * 3
    (single,) = read_rounds([written(tmp_path, "one.json", json.dumps(objects[0], indent=1))])
    assert single.stats == read[0][0].stats
    assert single.place.endswith("one.json:1")
    assert [one.place.rpartition("/")[2] for one in read[0]] == ["lines.jsonl:1", "lines.jsonl:2"]


def test_gzip_is_read(tmp_path: Path) -> None:
    path = tmp_path / "stats.jsonl.gz"
    path.write_bytes(gzip.compress(lines(experiment(1)).encode()))
    assert len(read_rounds([str(path)])) == 2


def test_a_round_that_is_read_twice_counts_once(tmp_path: Path) -> None:
    path = written(tmp_path, "stats.jsonl", lines(experiment(1)))
    assert len(read_rounds([path, path])) == 2
    assert len(read_rounds([f"a={path}", f"b={path}"])) == 4


def test_a_label_replaces_the_name(tmp_path: Path) -> None:
    path = written(tmp_path, "stats.jsonl", lines(experiment(1)))
    assert {one.name for one in read_rounds([f"monday={path}"])} == {"monday"}
    both = experiment(1) + experiment(1, setting=Setting(name="other", experiment_id="e2"))
    path = written(tmp_path, "two.jsonl", lines(both))
    names = {one.name for one in read_rounds([f"monday={path}"])}
    assert names == {"monday: long_context_high_reuse", "monday: other"}


def test_a_file_whose_name_has_an_equals_sign_needs_no_label(tmp_path: Path) -> None:
    path = written(tmp_path, "a=b.jsonl", "")
    assert split_label(path) == (None, path)
    assert split_label("a=c.jsonl") == ("a", "c.jsonl")
    assert split_label("a=b=c.jsonl") == ("a", "b=c.jsonl")
    assert split_label("c.jsonl") == (None, "c.jsonl")


def test_an_old_stats_file_is_read_for_ever(tmp_path: Path) -> None:
    old = [
        OLD | {"endpoint_url": "http://a/v1", "total_requests": 30, "failed_requests": 1},
        OLD | {"round_num": 2, "avg_ttft": 0.45, "p99_ttft": 0.9, "whatever": {"x": [1]}},
    ]
    one, two = read_rounds([written(tmp_path, "old.json", json.dumps(old))])
    assert (one.arm, two.arm, one.old, one.run) == ("cold", "hit", True, None)
    assert (one.stats.name, one.stats.avg_ttft, one.endpoint) == ("qa", 1.5, "http://a/v1")
    assert (one.stats.total_requests, one.stats.successful_requests) == (30, 29)
    assert two.stats.timings.ttft_s.p99 == 0.9
    assert two.stats.timings.tpot_s.mean is None
    assert (one.stats.samples, one.stats.hit_ratio, one.stats.cold_proof) == (None, None, None)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('{"scenario": "qa", "round_num": 1}', "r.json:1: stats: 'avg_ttft' is missing"),
        ('{"round_num": 1, "avg_ttft": 1}', "r.json:1: stats: 'scenario' is missing"),
        (json.dumps(OLD | {"round_num": "1"}), "'round_num' is '1'"),
        (json.dumps(OLD | {"avg_ttft": -1}), "'avg_ttft' is -1"),
        (json.dumps(OLD | {"avg_ttft": True}), "'avg_ttft' is True"),
        (json.dumps(OLD | {"p99_ttft": "fast"}), "'p99_ttft' is 'fast'"),
        (json.dumps([OLD, {"scenario": 3}]), "r.json: element 2: stats: 'scenario' is 3"),
        ('{"scenario": "qa", ', "r.json:1: not a JSON line"),
        ("[1]", "r.json: element 1: not round stats"),
        ('{"record": "end", "schema": 1}', "r.json:1: end: "),
        ('{"record": "round_stats", "schema": 1, "name": "x"}', "r.json:1: round_stats: "),
        ('{"record": "round_stats", "schema": 9}', "version 9"),
    ],
)
def test_broken_input_names_file_line_and_key(tmp_path: Path, text: str, complaint: str) -> None:
    path = written(tmp_path, "r.json", text)
    with pytest.raises(ToolError) as raised:
        read_rounds([path])
    assert complaint in str(raised.value)
    assert raised.value.status == 2


def test_records_of_another_tool_are_told_where_to_go(tmp_path: Path) -> None:
    end = {"record": "end", "schema": 1, "run_id": "r", "complete": True, "planned": 1}
    end |= {"sent": 1, "ok": 1, "failed": 0, "wall_s": 1.0}
    with pytest.raises(ToolError, match=r"`end` record.*through kvstats"):
        read_rounds([written(tmp_path, "r.json", json.dumps(end))])


def test_the_second_line_is_named(tmp_path: Path) -> None:
    text = lines(experiment(1)).splitlines()[0] + '\n{"scenario": 1}\n'
    with pytest.raises(ToolError, match=r"r\.jsonl:2: stats: 'scenario'"):
        read_rounds([written(tmp_path, "r.jsonl", text)])


def test_columns_of_samples_must_be_of_one_length(tmp_path: Path) -> None:
    value = json.loads(lines(experiment(1)).splitlines()[0])
    value["samples"]["ttft_s"].pop()
    with pytest.raises(ToolError, match=r"'samples\.ttft_s' has 32 rows.*has 33"):
        read_rounds([written(tmp_path, "r.jsonl", json.dumps(value))])


def test_a_column_that_came_later_may_be_empty(tmp_path: Path) -> None:
    """Whoever wrote the file did not know of it; half of one is as broken as any other."""
    value = json.loads(lines(experiment(1)).splitlines()[0])
    value["samples"]["cached_local_tokens"] = []
    assert len(read_rounds([written(tmp_path, "r.jsonl", json.dumps(value))])) == 1
    value["samples"]["cached_local_tokens"] = [1]
    with pytest.raises(ToolError, match=r"'samples\.cached_local_tokens' has 1 rows"):
        read_rounds([written(tmp_path, "r.jsonl", json.dumps(value))])
