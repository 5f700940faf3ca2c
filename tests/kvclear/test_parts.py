"""Whose keys they are, how many servers answer, what a config orders: the parts by themselves."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.kvengine.conftest import capture

from kvclear.canary import canary_text
from kvclear.config import order_of
from kvclear.order import engines_of, hook_of
from kvclear.stores import Keys, Pool
from kvengine import mooncake
from kvengine.counters import Snapshot, snapshot_of
from kvengine.replicas import several_servers
from kvengine.server import Server
from kvpipe.process import ToolError, UsageError

NODE = capture("vllm_metrics.txt")
OURS = frozenset(capture("mooncake_get_all_keys_vllm.txt").split())


def looks(*pages: str) -> list[Snapshot]:
    found = [snapshot_of(page, at) for at, page in enumerate(pages)]
    return [look for look in found if look is not None]


def test_one_server_is_one_server() -> None:
    later = re.sub(r"(?m)^(process_cpu_seconds_total) .*$", r"\1 99999", NODE)
    assert several_servers(looks(NODE, NODE, later)) is None
    assert several_servers([]) is None


def test_two_start_times_are_two_servers() -> None:
    other = re.sub(r"(?m)^(process_start_time_seconds) .*$", r"\1 1.0", NODE)
    assert "2 process start times" in (several_servers(looks(NODE, other)) or "")


def test_falling_counters_are_several_servers_even_without_a_start_time() -> None:
    page = re.sub(r"(?m)^process_start_time_seconds .*\n", "", NODE)
    fewer = re.sub(r"(?m)^(vllm:prompt_tokens_total\S*) .*$", r"\1 1.0", page)
    assert "counters fell" in (several_servers(looks(page, fewer, page)) or "")
    assert several_servers(looks(fewer, page)) is None, "rising is what counters do"


def pool(models: list[str], planted: frozenset[str] = frozenset(), everyone: bool = False) -> Pool:
    assert mooncake.ENGINE.store is not None
    return Pool(
        engine=mooncake.ENGINE,
        access=mooncake.ENGINE.store,
        server=Server("http://m:9003"),
        models=models,
        everyone=everyone,
        before=Keys(count=0, names=frozenset()),
        planted=planted,
    )


def keys(*names: str) -> Keys:
    return Keys(count=len(names), names=frozenset(names))


def test_keys_of_our_models_are_ours_and_others_are_not() -> None:
    mine = pool(["/models/model"])
    both = keys(*OURS, "their@model-b@1@0@ff")
    assert mine.ours(both) == len(OURS) == 21
    assert mine.foreign(both) == ["their@model-b@1@0@ff"]
    assert mine.foreign(keys(*OURS)) == []


def test_keys_that_appeared_by_planting_are_ours_where_none_names_a_model() -> None:
    hashed = pool(["tiny"], planted=frozenset({"a1", "b2"}))
    assert hashed.foreign(keys("a1", "b2", "c3")) == ["c3"]
    # but where planted keys do name the model, an unnamed one is somebody's who wrote meanwhile
    named = pool(["model"], planted=OURS | {"c3"})
    assert named.foreign(keys(*OURS, "c3")) == ["c3"]


def test_everyone_makes_every_key_count() -> None:
    assert pool([], everyone=True).ours(keys("a", "b")) == 2
    assert pool([], everyone=True).foreign(keys("a", "b")) == []


def test_keys_that_are_only_counted_have_no_known_owner() -> None:
    mine = pool(["model"])
    assert mine.foreign(Keys(count=3, names=None)) is None
    assert mine.foreign(Keys(count=0, names=None)) == []
    assert mine.ours(Keys(count=3, names=None)) == 3


def test_an_engine_named_twice_is_cleared_once() -> None:
    engines = engines_of(["vllm=http://a:8000/v1"], ["http://a:8000/", "http://b:8000"], [])
    assert [url for _, url in engines] == ["http://a:8000/v1", "http://b:8000"]


@pytest.mark.parametrize("text", ["http://a/x", "FETCH http://a", "POST", "POST nowhere"])
def test_a_hook_is_a_method_and_a_url(text: str) -> None:
    with pytest.raises(UsageError):
        hook_of(text)
    assert hook_of("post http://a/x?y=1").method == "POST"


def test_canaries_share_nothing_from_their_first_word_on() -> None:
    first, second = canary_text("1a", 300), canary_text("2b", 300)
    assert first.split()[0] != second.split()[0]
    assert 300 <= len(first.split()) < 340
    assert len(set(re.split(r"(?<=\.) ", first))) > 15, "no sentence is there twice"


# Configs


def order(tmp_path: Path, text: str):
    path = tmp_path / "run.yaml"
    path.write_text(text, encoding="utf-8")
    return order_of(str(path))


def test_the_documents_keys_make_an_order(tmp_path: Path) -> None:
    found = order(
        tmp_path,
        """
active_model: b
models: {a: {name: x}, b: {name: the/model}}
endpoints_per_round: {1: "http://a:8000/v1", 2: "http://b:8000/v1"}
mooncake: {metadata_server_url: "http://m:8080/metadata"}
""",
    )
    assert [(engine.kind, url) for engine, url in found.engines] == [
        ("vllm", "http://a:8000/v1"),
        ("vllm", "http://b:8000/v1"),
    ]
    assert found.metadata_clear == "http://m:8080/metadata"
    assert found.model == "the/model"
    assert found.wait_s == 0


def test_isolation_says_it_better(tmp_path: Path) -> None:
    found = order(
        tmp_path,
        """
model: {name: m}
proxy: {url: "http://p:9000/v1"}
isolation:
  engines: ["vllm=http://a:8000", "mooncake=http://m:9003"]
  health: ["http://a:8000"]
  wait_s: 3
  global: true
""",
    )
    assert [engine.kind for engine, _ in found.engines] == ["vllm", "mooncake"]
    assert (found.wait_s, found.health, found.everyone) == (3, ("http://a:8000",), True)


def test_a_matrix_gives_its_store_and_its_wait(tmp_path: Path) -> None:
    found = order(
        tmp_path,
        """
wait_between_scenarios: 10
clear_cache_between_scenarios: true
mooncake: {metadata_server_url: "http://10.0.0.1:8080/metadata"}
test_scenarios:
  - {name: "单机", config_file: "a.yaml", scenario: long_context_high_reuse}
""",
    )
    assert (found.wait_s, found.engines) == (10, ())
    assert found.metadata_clear == "http://10.0.0.1:8080/metadata"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("proxy: {url: 'http://NODE_A:8000/v1'}", r":1: 'proxy\.url': the placeholder NODE_A"),
        ("mooncake:\n  metadata_server_url: http://HOST:8080/m", r":2: .*placeholder HOST"),
        ("isolation:\n  commands: ['reboot']", r":2: .*give them with --command"),
        ("isolation: {engine: [a]}", r":1: 'isolation.engine': .*known keys"),
        ("- a list", ":1: a mapping of keys is expected"),
        ("a: [", r":1: not YAML|:2: not YAML"),
    ],
)
def test_a_config_that_orders_nothing_clear_names_file_line_and_key(
    tmp_path: Path, text: str, message: str
) -> None:
    with pytest.raises(ToolError, match=message) as caught:
        order(tmp_path, text)
    assert "run.yaml" in str(caught.value)
