"""What a matrix file says, and one clear line for what is wrong with it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from tests.family import ROOT
from tests.kvmatrix.matrices import Site

from kvmatrix.matrix import read_matrix
from kvmatrix.plan import plan_text
from kvmatrix.schedule import schedule
from kvpipe.process import ToolError, UsageError

URL = "http://127.0.0.1:9/v1"
MATRICES = sorted(
    path
    for path in (ROOT / "configs").glob("*.yaml")
    if re.search(r"^(test_scenarios|grid):", path.read_text("utf-8"), re.M)
)


def scenario(name: str = "a", config: str = "c.yaml", **keys: Any) -> dict[str, Any]:
    return {"name": name, "config_file": config, "scenario": "cold_start"} | keys


def refusal(path: Path, **flags: bool) -> str:
    with pytest.raises(ToolError) as refused:
        read_matrix(str(path), allow_commands=flags.get("allow_commands", False))
    text = str(refused.value)
    assert len(text.splitlines()) == 1
    return text


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("test_scenarios: []\n", 1, "test_scenarios"),
        ("repeats: 0\ntest_scenarios:\n  - {name: a, config_file: c.yaml}\n", 1, "repeats"),
        ("test_scenarios:\n  - name: a\n    config_file: c.yaml\n", 2, "'scenario' is a required"),
        (
            "test_scenarios:\n  - name: a\n    config_file: c.yaml\n    scenario: nope\n",
            4,
            "test_scenarios.0.scenario",
        ),
        (
            "test_scenarios:\n- {name: a, config_file: c.yaml, scenario: cold_start}\nrepeat: 2\n",
            3,
            "'repeat': .*known keys: .*repeats",
        ),
        (
            "test_scenarios:\n- {name: a, config_file: gone.yaml, scenario: cold_start}\n",
            2,
            "no such file",
        ),
        (
            'test_scenarios:\n- {name: "a\\0", config_file: c.yaml, scenario: cold_start}\n',
            2,
            "NUL",
        ),
        (
            "test_scenarios:\n- {name: a, config_file: c.yaml, scenario: cold_start}\n"
            "- {name: a, config_file: c.yaml, scenario: code_generation}\n",
            3,
            "a stands twice",
        ),
        (
            "output_dir: a b\ntest_scenarios:\n"
            "- {name: a, config_file: c.yaml, scenario: cold_start}\n",
            1,
            "make cannot have",
        ),
        (
            "test_scenarios:\n"
            "- {name: a, config_file: c.yaml, scenario: cold_start, tier: remote}\n",
            2,
            "tier remote needs",
        ),
    ],
)
def test_an_error_names_file_line_and_key(site: Site, text: str, line: int, words: str) -> None:
    site.config("c.yaml", URL)
    path = site.folder / "m.yaml"
    path.write_text(text, encoding="utf-8")
    said = refusal(path)
    assert said.startswith(f"{path}:{line}: ")
    assert re.search(words, said)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"proxy": {"url": "http://YOUR_IP:8000"}}, "'proxy.url': the placeholder YOUR_"),
        ({"isolation": {"commands": ["true"]}}, "'isolation.commands': .*--allow-commands"),
        (
            {
                "deployment_modes": {
                    "pd_disaggregated": {"url": "http://a:1"},
                    "non_disaggregated": {"url": "http://b:1"},
                }
            },
            "'deployment_modes': .*two arrangements",
        ),
        ({"mooncake": {"admin_url": "http://HOST:9003"}}, "'mooncake.admin_url': the placeholder"),
        ({"rounds": "many"}, "'rounds'"),
    ],
)
def test_an_error_in_a_run_config_names_that_file(
    site: Site, keys: dict[str, Any], words: str
) -> None:
    site.config("c.yaml", URL, **keys)
    said = refusal(site.matrix([scenario()]))
    assert said.startswith(f"{site.folder / 'c.yaml'}:1: ")
    assert re.search(words, said)


def test_commands_become_flags_of_kvclear_where_they_are_allowed(site: Site) -> None:
    site.config("c.yaml", URL, isolation={"commands": ["docker restart 'a b'"], "wait_s": 3})
    matrix = read_matrix(str(site.matrix([scenario()])), allow_commands=True)
    clearing = matrix.scenarios[0].clearing
    assert clearing is not None
    assert clearing.flags == (
        *("--engine", f"vllm={URL}", "--command", "docker restart 'a b'", "--wait", "3"),
    )


def test_what_the_run_config_says_of_isolation_beats_the_matrix(site: Site) -> None:
    site.config("own.yaml", URL, isolation={"engines": ["vllm=http://own:1"]})
    site.config("none.yaml", URL)
    path = site.matrix(
        [scenario("a", "own.yaml"), scenario("b", "none.yaml")],
        isolation={"engines": ["vllm=http://all:1"], "wait_s": 1},
        wait_between_scenarios=9,
    )
    own, other = read_matrix(str(path), allow_commands=False).scenarios
    assert own.clearing is not None
    assert other.clearing is not None
    assert own.clearing.flags == ("--engine", "vllm=http://own:1", "--wait", "1")
    assert other.clearing.flags == ("--engine", "vllm=http://all:1", "--wait", "1")
    assert "--engine" in other.overrides
    assert "--engine" not in own.overrides


def test_nothing_is_cleared_where_nothing_is_named_or_wanted(site: Site) -> None:
    site.config("c.yaml", URL)
    site.config("e.yaml", URL, isolation={"engines": ["vllm=http://own:1"]})
    bare = read_matrix(str(site.matrix([scenario()])), allow_commands=False)
    assert bare.scenarios[0].clearing is None
    path = site.matrix([scenario("a", "e.yaml")], clear_cache_between_scenarios=False)
    assert read_matrix(str(path), allow_commands=False).scenarios[0].clearing is None


def test_repeats_are_complete_blocks_reshuffled_by_the_seed(site: Site) -> None:
    site.config("c.yaml", URL)
    names = [f"s{number}" for number in range(8)]
    path = site.matrix([scenario(name) for name in names], repeats=4, seed=5)
    steps = schedule(read_matrix(str(path), allow_commands=False), None)
    blocks = [
        [step.scenario.name for step in steps if step.repeat == repeat] for repeat in range(1, 5)
    ]
    assert [step.repeat for step in steps] == sorted(step.repeat for step in steps)
    assert blocks[0] == names
    assert all(sorted(block) == names for block in blocks)
    assert len({tuple(block) for block in blocks}) == 4
    assert len({step.salt for step in steps}) == len(steps)
    again = schedule(read_matrix(str(path), allow_commands=False), None)
    assert [step.scenario.name for step in again] == [step.scenario.name for step in steps]
    assert not {step.salt for step in again} & {step.salt for step in steps}


def test_only_takes_a_name_and_knows_the_others(site: Site) -> None:
    site.config("c.yaml", URL)
    path = site.matrix([scenario("a\nb"), scenario("c")], repeats=2)
    matrix = read_matrix(str(path), allow_commands=False)
    due = [step for step in schedule(matrix, "a\nb") if step.attempt is not None]
    assert [step.scenario.name for step in due] == ["a\nb", "a\nb"]
    with pytest.raises(UsageError, match=r"no scenario is named 'd'; there are .*'c'"):
        schedule(matrix, "d")


def test_the_estimate_is_the_documents_formula_and_says_what_it_assumed(site: Site) -> None:
    site.config("c.yaml", URL, pause_between_rounds=5)
    one = site.matrix([scenario(requests=100)], "one.yaml", repeats=1)
    ten = site.matrix([scenario(requests=100, concurrency=10)], "ten.yaml", repeats=1)
    times = []
    for path in (one, ten):
        (made,) = read_matrix(str(path), allow_commands=False).scenarios
        shape = made.shape
        each = shape.prompt_tokens / 5000 + shape.output_tokens * 0.02
        work = 3 * 105 * each / shape.concurrency
        assert shape.repeat_s == pytest.approx(work + 2 * 5 + 15)
        times.append(shape.repeat_s)
    assert times[1] < times[0]
    matrix = read_matrix(str(one), allow_commands=False)
    assert "assuming 5,000 prompt tokens/s" in plan_text(matrix, schedule(matrix, None))


# --- what is shipped -----------------------------------------------------------------------------


def test_the_documents_files_are_there() -> None:
    names = {path.name for path in (ROOT / "configs").glob("*.yaml")}
    assert {
        "multi_scenario_config_simple.yaml",
        "test_config_cross_node_example.yaml",
        "test_config_large_models.yaml",
        "test_config_simple.yaml",
        "test_config_tencent_qwen_cross.yaml",
        "test_config_tencent_qwen_single.yaml",
    } <= names
    assert len(MATRICES) >= 5


@pytest.mark.parametrize(
    "path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.name
)
def test_a_shipped_file_opens_with_its_question(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    if "remote_serde" in text:
        return  # LMCache's own config: it answers no question
    assert re.match(r"# Question: .+\?\n(#           .+\n)*# Expect:   .+", text) or re.match(
        r"# Question: [^\n]+\n#           [^\n]+\?\n# Expect:   ", text
    )


@pytest.mark.parametrize("path", MATRICES, ids=lambda path: path.name)
def test_a_shipped_matrix_resolves_once_the_addresses_are_written(
    path: Path, tmp_path: Path
) -> None:
    for file in (ROOT / "configs").glob("*.yaml"):
        text = re.sub(
            r"YOUR_[A-Z_]+|NODE_[AB]", lambda found: found[0].lower(), file.read_text("utf-8")
        )
        (tmp_path / file.name).write_text(text, encoding="utf-8")
    matrix = read_matrix(str(tmp_path / path.name), allow_commands=False)
    assert matrix.repeats >= 3
    assert len({one.slug for one in matrix.scenarios}) == len(matrix.scenarios)
    assert all(one.control != (one.capacity is not None) for one in matrix.scenarios)
