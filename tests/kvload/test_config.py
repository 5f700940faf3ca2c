"""Run configs: every key of the documents, and one clear line for what is wrong with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kvload.cli import experiments_of, parser
from kvload.config import read_config
from kvload.console import Console
from kvload.settings import Experiment
from kvpipe.process import ToolError

FULL = """\
active_model: "qwen_72b"
models:
  qwen_7b:       {name: "Qwen/Qwen2.5-7B-Instruct-GPTQ-Int4"}
  qwen_72b:      {name: "Qwen/Qwen2.5-72B-Instruct", tensor_parallel_size: 8, max_tokens: 32}
  deepseek_671b:
    {name: "deepseek-ai/DeepSeek-R1", tensor_parallel_size: 8, pipeline_parallel_size: 8}
machines:         {machine_a: {ip: "10.0.0.1"}}
endpoints_per_round: {1: "http://10.0.0.1:8080/v1", 2: "http://10.0.0.2:8080/v1"}
deployment_modes:
  pd_disaggregated:  {enabled: true}
  non_disaggregated: {enabled: false}
default_scenarios: [long_context_high_reuse, code_generation]
scenarios:
  long_context_high_reuse:
    {requests: 12, context_tokens: "16000-32000", output_tokens: 16, concurrency: 5}
rounds: 3
pause_between_rounds: 7
mooncake:
  metadata_server_url: "http://10.0.0.1:8080/metadata"
  admin_url: "http://10.0.0.1:9003"
  lmcache:  {chunk_size: 256}
  transfer: {protocol: tcp, global_segment_size: 107374182400, local_buffer_size: 2147483648}
"""


def write(folder: Path, text: str) -> str:
    path = folder / "run.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def experiments(path: str, *flags: str) -> list[Experiment]:
    return experiments_of(parser().parse_args(["--config", path, *flags]), Console(True))


def test_every_key_of_the_documents_reaches_the_experiment(tmp_path: Path) -> None:
    long, code = experiments(write(tmp_path, FULL))
    assert long.model == "Qwen/Qwen2.5-72B-Instruct"
    assert long.endpoints == {1: "http://10.0.0.1:8080/v1", 2: "http://10.0.0.2:8080/v1"}
    assert long.tier == "remote" and long.rounds == 3 and long.pause_s == 7
    assert (long.arrival.kind, long.arrival.concurrency) == ("closed", 5)
    assert long.engines == (("mooncake", "http://10.0.0.1:9003"),)
    assert long.chunk_tokens == 256
    flags = " ".join(long.source.plan_flags)
    assert "--requests 12 --context-tokens 16000-32000 --output-tokens 16" in flags
    assert long.config["file"]["mooncake"]["transfer"]["protocol"] == "tcp"
    assert long.name == "long_context_high_reuse (pd_disaggregated)"
    assert code.source.scenario == "code_generation" and code.arrival.kind == "serial"
    assert "--output-tokens 32" in " ".join(code.source.plan_flags)  # the model's max_tokens


def test_flags_beat_the_config(tmp_path: Path) -> None:
    (one,) = experiments(
        write(tmp_path, FULL),
        *("--scenarios", "code_generation", "--rounds", "2", "--requests", "4", "--model", "m"),
        *("--url", "http://127.0.0.1:8000", "--concurrency", "2", "--pause", "0"),
    )
    assert one.source.scenario == "code_generation"
    assert (one.rounds, one.model, one.pause_s, one.tier) == (2, "m", 0, "local")
    assert one.endpoints == {1: "http://127.0.0.1:8000"} and one.arrival.concurrency == 2
    assert "--requests 4" in " ".join(one.source.plan_flags)


def test_defaults_are_the_documents(tmp_path: Path) -> None:
    (one,) = experiments(write(tmp_path, 'proxy: {url: "http://localhost:9000/v1"}\n'))
    assert one.source.scenario == "long_context_high_reuse"
    assert (one.rounds, one.pause_s, one.arrival.kind, one.tier) == (2, 5.0, "serial", "local")


def test_each_mode_with_an_endpoint_is_an_arrangement_of_its_own(tmp_path: Path) -> None:
    text = (
        'proxy: {url: "http://h:9000/v1"}\n'
        "deployment_modes:\n"
        "  pd_disaggregated: {enabled: true}\n"
        '  non_disaggregated: {enabled: true, url: "http://h:8000/v1"}\n'
    )
    found = read_config(write(tmp_path, text), None)
    assert [(one.mode, one.endpoints[1]) for one in found] == [
        ("pd_disaggregated", "http://h:9000/v1"),
        ("non_disaggregated", "http://h:8000/v1"),
    ]


def test_a_machine_alone_is_the_documents_proxy(tmp_path: Path) -> None:
    (one,) = read_config(write(tmp_path, "machines: {machine_a: {ip: 10.1.1.1}}\n"), None)
    assert one.endpoints == {1: "http://10.1.1.1:9000/v1"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("rounds: 0\n", "run.yaml:1: 'rounds': 0 is less than the minimum of 1"),
        ("round: 2\n", "run.yaml:1: 'round': Additional properties are not allowed ('round'"),
        ("rounds: 2\nrounds: 3\n", "run.yaml:2: 'rounds' stands twice"),
        ("a: [1\n", "run.yaml:2: not YAML"),
        ("- 1\n", "run.yaml:1: a mapping of keys"),
        ("default_scenarios: [chat]\n", "run.yaml:1: 'default_scenarios.0': 'chat' is not one of"),
        (
            "proxy:\n  url: http://x\nactive_model: q\n",
            "run.yaml:3: 'active_model': q is not among `models` (none)",
        ),
        (
            "machines:\n  machine_a:\n    ip: YOUR_IP\n",
            "run.yaml:3: 'machines.machine_a.ip': the placeholder YOUR_ is still there",
        ),
        (
            "endpoints_per_round:\n  1: http://NODE_A:8080/v1\n",
            "run.yaml:2: 'endpoints_per_round.1': the placeholder NODE_A is still there",
        ),
        (
            "scenarios:\n  cold_start:\n    requests: many\n",
            "run.yaml:3: 'scenarios.cold_start.requests': 'many' is not of type 'integer'",
        ),
        (
            "scenarios:\n  cold_start:\n    context_tokens: 2k\n",
            "run.yaml:3: 'scenarios.cold_start.context_tokens': '2k'",
        ),
    ],
)
def test_what_is_wrong_is_named_with_file_line_and_key(
    tmp_path: Path, text: str, words: str
) -> None:
    with pytest.raises(ToolError) as refusal:
        experiments(write(tmp_path, text))
    assert words in str(refusal.value) and "\n" not in str(refusal.value)


def test_a_config_without_an_endpoint_says_how_to_name_one(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match="no endpoint: give --url"):
        experiments(write(tmp_path, "rounds: 2\n"))


def test_the_shipped_examples_are_valid() -> None:
    folder = Path(__file__).parents[2] / "configs"
    (simple,) = read_config(folder / "test_config_simple.yaml", None)
    assert simple.endpoints == {1: "http://localhost:8000/v1"}
    with pytest.raises(ToolError, match="NODE_A is still there"):
        read_config(folder / "test_config_cross_node_example.yaml", None)


def test_yaml_runs_no_code(tmp_path: Path) -> None:
    mark: Any = tmp_path / "ran"
    text = f"name: !!python/object/apply:os.system ['touch {mark}']\n"
    with pytest.raises(ToolError, match="not YAML"):
        experiments(write(tmp_path, text))
    assert not mark.exists()


def test_a_flow_reaches_the_experiment_and_a_flag_beats_it(tmp_path: Path) -> None:
    text = "proxy: {url: 'http://127.0.0.1:1'}\npd_flow: lmcache\n"
    path = write(tmp_path, text)
    [asked] = experiments(path)
    assert (asked.pd_flow, asked.disaggregated) == ("lmcache", True)
    assert asked.config["pd_flow"] == "lmcache", "kvstats reads it there"
    assert [one.pd_flow for one in experiments(path, "--pd-flow", "vllm")] == ["vllm"]
    [plain] = experiments(write(tmp_path, "proxy: {url: 'http://127.0.0.1:1'}\n"))
    assert (plain.pd_flow, plain.disaggregated) == (None, False)
