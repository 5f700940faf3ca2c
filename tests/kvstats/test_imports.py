"""`--from`: what vllm bench serve and AIPerf wrote, held against their own summaries."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.family import environment
from tests.kvstats.peers import AIPERF, VLLM, read, stats_of

from kvpipe.process import ToolError, UsageError
from kvpipe.records import Request
from kvstats.imports import aiperf, vllm_bench
from kvstats.imports.source import NS

Capture = pytest.CaptureFixture[bytes]
VLLM_ROUNDS = (VLLM / "cold.json", VLLM / "hit.json")
AIPERF_ROUNDS = (AIPERF / "cold", AIPERF / "hit")


def told(stats: dict[str, Any], code: str) -> dict[str, Any]:
    (found,) = [one for one in stats["findings"] if one["code"] == code]
    return found


@pytest.mark.parametrize("name", ["cold", "hit", "rate"])
def test_vllm_figures_are_the_peers_own(name: str, capsysbinary: Capture) -> None:
    theirs = read(VLLM / f"{name}.json")
    (ours,) = stats_of(capsysbinary, "--from", "vllm-bench", VLLM / f"{name}.json")
    timings = ours["timings"]
    assert ours["successful_requests"] == theirs["completed"] == 12
    assert timings["e2e_s"]["mean"] * 1e3 == pytest.approx(theirs["mean_e2el_ms"])
    assert timings["e2e_s"]["p50"] * 1e3 == pytest.approx(theirs["median_e2el_ms"])
    assert sum(ours["samples"]["prompt_tokens"]) == theirs["total_input_tokens"]
    assert sum(ours["samples"]["output_tokens"]) == theirs["total_output_tokens"]
    # Theirs is from the first due to the last end, ours from the first sent.
    assert 1 <= ours["request_throughput_rps"] / theirs["request_throughput"] < 1.3


def test_vllm_ttft_is_ours_where_the_role_came_alone() -> None:
    """In chat vLLM stops at the chunk with the role; its first gap leads to the first token."""
    theirs = read(VLLM / "cold.json")
    requests = requests_of(VLLM / "cold.json")
    for at, one in enumerate(requests):
        assert one.sent_ns is not None and one.first_chunk_ns is not None
        assert one.first_chunk_ns - one.sent_ns == round(theirs["ttfts"][at] * NS)
        assert one.first_token_ns == one.first_chunk_ns + round(theirs["itls"][at][0] * NS)
        assert len(one.chunk_ns or ()) == one.output_tokens == 8


def test_vllm_ttft_is_theirs_in_completions() -> None:
    theirs = read(VLLM / "rate.json")
    for at, one in enumerate(requests_of(VLLM / "rate.json")):
        assert one.first_token_ns == one.first_chunk_ns
        assert (one.first_token_ns or 0) - (one.sent_ns or 0) == round(theirs["ttfts"][at] * NS)


def test_vllm_head_carries_what_the_file_says(capsysbinary: Capture) -> None:
    (stats,) = stats_of(capsysbinary, "--from", "vllm-bench", VLLM / "rate.json")
    run = stats["run"]
    assert (stats["name"], stats["round_num"], run["arm"]) == ("bursts", 2, "hit")
    assert run["arrival"]["kind"] == "gamma"
    assert (run["arrival"]["burstiness"], run["arrival"]["rate_rps"]) == (0.5, 20)
    assert (run["api"], run["model"], run["config"]["tokenizer_id"]) == (
        "completions",
        "sim",
        "tokenizer",
    )
    assert stats["timings"]["queue_s"]["max"] > 0  # it waited for one of four places


def test_what_vllm_does_not_tell_is_null_and_said(capsysbinary: Capture) -> None:
    (stats,) = stats_of(capsysbinary, "--from", "vllm-bench", VLLM / "cold.json")
    assert stats["hit_ratio"] is stats["tier_served"] is stats["client"] is None
    assert stats["run"]["host"] is stats["stamp_source"] is None or stats["run"]["host"] is None
    assert set(stats["samples"]["cached_tokens"]) == {None}
    assert stats["cold_proof"] == "not shown"
    found = told(stats, "imported")
    assert found["severity"] == "warning"
    assert {"cached tokens", "isolation", "server counters"} <= set(found["evidence"]["not_told"])
    assert {"cold_not_shown", "not_isolated"} <= {one["code"] for one in stats["findings"]}


def test_vllm_failures_are_failures(capsysbinary: Capture) -> None:
    (stats,) = stats_of(capsysbinary, "--from", "vllm-bench", VLLM / "errors.json")
    assert stats["status_counts"] == {"http_error": 2, "ok": 6}
    failed = [one for one in requests_of(VLLM / "errors.json") if one.status != "ok"]
    assert {one.http_status for one in failed} == {500}
    assert {one.first_token_ns for one in failed} == {one.output_tokens for one in failed} == {None}
    assert stats["timings"]["ttft_s"]["n"] == 6  # a TTFT of 0 is none


@pytest.mark.parametrize("name", ["cold", "hit"])
def test_aiperf_figures_are_the_peers_own(name: str, capsysbinary: Capture) -> None:
    theirs = read(AIPERF / name / "profile_export_aiperf.json")
    (ours,) = stats_of(capsysbinary, "--from", "aiperf", AIPERF / name / "profile_export.jsonl")
    timings = ours["timings"]
    for metric, tag in (("ttft_s", "time_to_first_token"), ("e2e_s", "request_latency")):
        for rank, key in (("mean", "avg"), ("p50", "p50"), ("p90", "p90"), ("max", "max")):
            assert timings[metric][rank] * 1e3 == pytest.approx(theirs[tag][key]), (metric, rank)
    assert timings["second_token_s"]["mean"] * 1e3 == pytest.approx(
        theirs["time_to_second_token"]["avg"]
    )
    cached = theirs["overall_usage_prompt_cache_read_pct"]["avg"]
    assert ours["hit_ratio"] * 100 == pytest.approx(cached)
    assert sum(ours["samples"]["output_tokens"]) == theirs["total_usage_completion_tokens"]["avg"]


def test_aiperf_summary_beside_it_gives_the_head(tmp_path: Path, capsysbinary: Capture) -> None:
    (known,) = stats_of(capsysbinary, "--from", "aiperf", AIPERF / "cold")
    assert known["run"]["arrival"] | {} == known["run"]["arrival"]
    assert known["run"]["arrival"]["kind"] == "serial"
    assert (known["run"]["model"], known["run"]["seed"]) == ("sim", 7)
    assert known["run"]["tool_version"] == "aiperf 0.13.0"
    assert known["endpoint_url"] == "http://127.0.0.1:26000"
    bare = tmp_path / "profile_export.jsonl"
    bare.write_bytes((AIPERF / "cold" / "profile_export.jsonl").read_bytes())
    (stats,) = stats_of(capsysbinary, "--from", "aiperf", bare)
    assert stats["run"]["arrival"] == known["run"]["arrival"] | {
        "kind": "closed",
        "concurrency": 1,
    }
    assert stats["run"]["model"] is None
    assert "the model" in told(stats, "imported")["evidence"]["not_told"]
    assert stats["timings"] == known["timings"]


def test_aiperf_requests_of_two_runs_are_the_same_by_conversation(capsysbinary: Capture) -> None:
    """Lines stand in the order of ending, and pairs are made by index."""
    paths = [one / "profile_export.jsonl" for one in AIPERF_ROUNDS]
    lines = [json.loads(line) for line in paths[1].read_text().splitlines()]
    turned = sorted(lines, key=lambda one: one["metadata"]["x_request_id"])
    of_conversation = {
        one["metadata"]["conversation_id"]: one["metrics"]["usage_prompt_tokens"]["value"]
        for one in turned
    }
    stats = stats_of(capsysbinary, "--from", "aiperf", *paths)
    wanted = [of_conversation[key] for key in sorted(of_conversation)]
    assert [one["samples"]["prompt_tokens"] for one in stats] == [wanted, wanted]


def test_aiperf_failures_are_failures(capsysbinary: Capture) -> None:
    (stats,) = stats_of(capsysbinary, "--from", "aiperf", AIPERF / "errors")
    assert stats["status_counts"]["http_error"] >= 2
    assert stats["total_requests"] == 12
    assert "simulated failure" in told(stats, "errors")["message"]


@pytest.mark.parametrize(
    ("tool", "files"), [("vllm-bench", VLLM_ROUNDS), ("aiperf", AIPERF_ROUNDS)]
)
def test_two_imported_rounds_make_a_report_that_believes_nothing(
    tool: str, files: tuple[Path, Path], tmp_path: Path
) -> None:
    """Through the real tools: paired by index, with what nobody recorded said."""
    kept = tmp_path / "stats.jsonl"
    with kept.open("wb") as out:
        subprocess.run(
            ["kvstats", "--from", tool, *files], stdout=out, env=environment(), check=True
        )
    done = subprocess.run(
        ["kvreport", "--format", "json", kept], capture_output=True, env=environment(), check=True
    )
    (scenario,) = json.loads(done.stdout)["scenarios"]
    assert scenario["comparable"] and not scenario["old"]
    assert scenario["effects"]["ttft"]["pairs"] == 12
    assert scenario["effects"]["ttft"]["ratio"] < 1  # the hits were hits
    codes = {one["finding"]["code"] for one in scenario["findings"]}
    assert {"imported", "cold_not_shown", "not_isolated"} <= codes
    assert "plan_differs" not in codes
    page = subprocess.run(
        ["kvreport", kept], capture_output=True, env=environment(), check=True, text=True
    ).stdout
    assert "COLD NOT SHOWN" in page and "[imported]" in page


def test_answers_of_vllm_bench_are_compared(capsysbinary: Capture) -> None:
    """Its texts give hashes, of which pairs are made."""
    cold, hit = stats_of(capsysbinary, "--from", "vllm-bench", *VLLM_ROUNDS)
    assert None not in cold["samples"]["output_sha256"]
    assert cold["samples"]["output_sha256"] == hit["samples"]["output_sha256"]


def test_results_appended_to_one_file_are_rounds(tmp_path: Path, capsysbinary: Capture) -> None:
    path = tmp_path / "both.json"
    path.write_text("".join(json.dumps(read(one)) + "\n" for one in VLLM_ROUNDS))
    one = stats_of(capsysbinary, "--from", "vllm-bench", path)
    two = stats_of(capsysbinary, "--from", "vllm-bench", *VLLM_ROUNDS)
    assert [stats["round_num"] for stats in one] == [1, 2]
    assert [stats["timings"] for stats in one] == [stats["timings"] for stats in two]


def test_the_same_file_twice_is_refused(capsysbinary: Capture) -> None:
    with pytest.raises(ToolError, match=r"cold\.json: run: run_id .* twice"):
        stats_of(capsysbinary, "--from", "vllm-bench", VLLM_ROUNDS[0], VLLM_ROUNDS[0])


def requests_of(path: Path) -> list[Request]:
    return [one for one in vllm_bench.records_of(str(path), 1) if isinstance(one, Request)]


def without(key: str) -> Any:
    return lambda value: value.pop(key)


def put(key: str, new: Any) -> Any:
    return lambda value: value.update({key: new})


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (without("ttfts"), "'ttfts' is missing: it holds no figures per request"),
        (without("itls"), "'itls' is missing, but a list of lists of seconds is needed"),
        (put("ttfts", "no"), "'ttfts' is 'no', but a list of seconds is needed"),
        (put("ttfts", []), "has 12 rows, but 'ttfts' has 0"),
        (put("input_lens", [1]), "'input_lens' has 1 rows, but 'ttfts' has 12"),
        (put("output_lens", [-1] * 12), r"'output_lens\[0\]' is -1"),
        (put("ttfts", [None] * 12), r"'ttfts\[0\]' is 'null', but one of seconds"),
        (put("errors", [0] * 12), r"'errors\[0\]' is 0, but one of strings"),
        (put("latencies", [1e300] * 12), r"'latencies\[0\]' is 1e\+300"),
        (put("date", "yesterday"), "'date' is 'yesterday', but the time of the run"),
        (put("round", "two"), "'round' is 'two', but a round's number"),
        (put("max_concurrency", "many"), "'max_concurrency' is 'many', but a whole number"),
        (put("request_rate", "fast"), "'request_rate' is 'fast', but a time"),
        (put("model_id", 7), "'model_id' is 7, but a string"),
    ],
)
def test_a_bad_file_of_vllm_is_one_clear_line(
    spoil: Any, complaint: str, tmp_path: Path, capsysbinary: Capture
) -> None:
    value = read(VLLM / "cold.json")
    spoil(value)
    path = tmp_path / "bad.json"
    path.write_text(json.dumps(value))
    with pytest.raises(ToolError, match=complaint) as caught:
        stats_of(capsysbinary, "--from", "vllm-bench", path)
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"", "empty"),
        (b"{\n", "not JSON"),
        (b"[1]", "an object is expected"),
        (b'{"a":1}', "is it a file of vllm bench serve"),
        (b"\xff\xfe", "not JSON"),
    ],
)
def test_no_file_of_vllm_at_all(
    data: bytes, complaint: str, tmp_path: Path, capsysbinary: Capture
) -> None:
    path = tmp_path / "bad.json"
    path.write_bytes(data)
    with pytest.raises(ToolError, match=complaint):
        stats_of(capsysbinary, "--from", "vllm-bench", path)


def test_a_summary_alone_says_what_to_do(capsysbinary: Capture) -> None:
    with pytest.raises(ToolError, match="with --save-detailed"):
        stats_of(capsysbinary, "--from", "vllm-bench", VLLM / "summary.json")


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        (b'{"metadata"', b'{"metadta"', r":1: not a request of AIPerf"),
        (b'"request_start_ns":', b'"request_start":', r":1: 'metadata.request_start_ns' is miss"),
        (b'"request_end_ns":', b'"request_end_ns":-', "'metadata.request_end_ns' is -"),
        (b'"unit":"ms"', b'"unit":"moons"', r"'metrics\.\S+\.unit' is 'moons', but one of ns"),
        (b'"turn_index":0', b'"turn_index":0.5', "'metadata.turn_index' is 0.5"),
    ],
)
def test_a_bad_file_of_aiperf_is_one_clear_line(
    old: bytes, new: bytes, complaint: str, tmp_path: Path, capsysbinary: Capture
) -> None:
    data = (AIPERF / "cold" / "profile_export.jsonl").read_bytes()
    assert old in data
    path = tmp_path / "profile_export.jsonl"
    path.write_bytes(data.replace(old, new))
    with pytest.raises(ToolError, match=complaint) as caught:
        stats_of(capsysbinary, "--from", "aiperf", path)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


def test_aiperf_cut_short_names_the_line(tmp_path: Path, capsysbinary: Capture) -> None:
    path = tmp_path / "profile_export.jsonl"
    path.write_bytes((AIPERF / "cold" / "profile_export.jsonl").read_bytes()[:-200])
    with pytest.raises(ToolError, match=r":12: not JSON"):
        stats_of(capsysbinary, "--from", "aiperf", path)


def test_aiperf_is_not_read_from_a_pipe(capsysbinary: Capture) -> None:
    with pytest.raises(UsageError, match="name it"):
        stats_of(capsysbinary, "--from", "aiperf", "-")


def test_aiperf_warmup_is_left_out(tmp_path: Path, capsysbinary: Capture) -> None:
    lines = (AIPERF / "cold" / "profile_export.jsonl").read_bytes().splitlines(keepends=True)
    warm = lines[0].replace(b'"benchmark_phase":"profiling"', b'"benchmark_phase":"warmup"')
    path = tmp_path / "profile_export.jsonl"
    path.write_bytes(warm + b"".join(lines[1:]))
    (stats,) = stats_of(capsysbinary, "--from", "aiperf", path)
    assert stats["total_requests"] == 11


ANY = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False)
    | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)


@given(data=st.data())
def test_whatever_stands_under_a_key_is_read_or_refused(data: st.DataObject) -> None:
    """Never a traceback, in either tool's file."""
    value = read(VLLM / "errors.json")
    key = data.draw(st.sampled_from(sorted(value)))
    new = data.draw(ANY)
    rows = isinstance(value[key], list) and data.draw(st.booleans())
    value[key] = [new, *value[key][1:]] if rows else new
    piece = json.dumps(value).encode()
    try:
        assert len([*vllm_bench._stream(piece, "f", 1)]) == 10
    except ToolError as error:
        assert str(error).startswith("f: ")


LINE = json.loads((AIPERF / "cold" / "profile_export.jsonl").read_text().splitlines()[0])


@given(data=st.data())
def test_whatever_stands_in_a_line_of_aiperf_is_read_or_refused(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    line = json.loads(json.dumps(LINE))
    part = data.draw(st.sampled_from(["metadata", "metrics"]))
    key = data.draw(st.sampled_from(sorted(line[part])))
    new = data.draw(ANY)
    if part == "metrics" and data.draw(st.booleans()):
        line[part][key][data.draw(st.sampled_from(["value", "unit"]))] = new
    else:
        line[part][key] = new
    path = tmp_path_factory.mktemp("line") / "profile_export.jsonl"
    path.write_text(json.dumps(line))
    try:
        assert len([*aiperf.records_of(str(path), 1)]) in (2, 3)
    except ToolError as error:
        assert str(error).startswith(str(path))
