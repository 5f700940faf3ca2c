"""Neutral counters against pages of a real vLLM and a real Mooncake."""

import re

import pytest
from tests.kvengine.conftest import capture

from kvengine.counters import (
    COUNTERS,
    Snapshot,
    block_tokens,
    counter,
    delta,
    gauge,
    snapshot_of,
)


def look(text: str) -> Snapshot:
    found = snapshot_of(text, 1)
    assert found is not None
    return found


NODE = capture("vllm_metrics_nodeB_mooncakestore.txt")
STORE = capture("mooncake_metrics_vllm_1_after_A.txt")


def test_names_of_the_interface() -> None:
    assert set(COUNTERS) == {
        *("requests", "prompt_tokens", "generation_tokens", "computed_tokens", "local_tokens"),
        *("external_tokens", "preemptions", "save_keys", "load_keys", "save_failed_keys"),
        *("load_failed_keys", "ttft_sum_s", "ttft_count", "queue_sum_s", "queue_count"),
        *("prefill_sum_s", "prefill_count", "decode_sum_s", "decode_count", "transfer_sum_s"),
        *("transfer_count", "store_puts", "store_evicted_keys", "store_alloc_failures"),
    }


def test_a_node_with_a_store_behind_it() -> None:
    node = look(NODE)
    figures = {name: counter(node, name) for name in COUNTERS}
    assert figures["requests"] == 16
    assert figures["prompt_tokens"] == 55907
    assert figures["computed_tokens"] == 6755
    assert figures["local_tokens"] == 19456
    assert figures["external_tokens"] == 29696
    assert figures["generation_tokens"] == 128
    assert figures["save_keys"] == 66
    assert figures["load_keys"] == 232
    assert figures["save_failed_keys"] == 0
    assert figures["transfer_count"] == 9
    assert figures["ttft_count"] == 16
    assert figures["store_puts"] is None, "a node counts no puts of the store"
    assert gauge(node, "running") == gauge(node, "waiting") == 0
    assert block_tokens(look(capture("vllm_metrics.txt"))) == 128


def test_an_lmcache_server_counts_chunks_over_all_salts() -> None:
    server = look(capture("lmcache_mp_metrics_end.txt"))
    assert counter(server, "store_puts") == 106 + 11
    assert counter(server, "store_evicted_keys") == 45 + 11
    assert gauge(server, "store_keys") is None, "the page tells bytes, the status page objects"


def test_a_node_without_a_connector_has_no_keys_rather_than_none_moved() -> None:
    node = look(capture("vllm_metrics.txt"))
    assert counter(node, "save_keys") is None
    assert counter(node, "transfer_sum_s") is None
    assert node.start_s is not None


def test_a_store() -> None:
    store = look(STORE)
    assert gauge(store, "store_keys") == 21
    assert counter(store, "store_puts") == 46
    assert counter(store, "store_evicted_keys") == 0
    assert counter(store, "requests") is None
    assert block_tokens(store) is None
    empty = look(capture("mooncake_metrics_4_after_force.txt"))
    assert gauge(empty, "store_keys") == 0


@pytest.mark.parametrize("external", [True, False])
def test_versions_without_tokens_by_source(external: bool) -> None:
    """Before 0.16 there was no prompt_tokens_by_source, before 0.11.2 no external hits."""
    text = re.sub(r"(?m)^.*prompt_tokens_by_source.*\n", "", NODE)
    if not external:
        text = re.sub(r"(?m)^.*external_prefix_cache.*\n", "", text)
    node = look(text)
    assert counter(node, "local_tokens") == 19456
    assert counter(node, "external_tokens") == (29696 if external else None)
    computed = 55907 - 19456 - (29696 if external else 0)
    assert counter(node, "computed_tokens") == computed


def test_engines_behind_one_page_are_summed_and_the_fullest_counts() -> None:
    two = look(
        "# TYPE vllm:prompt_tokens_total counter\n"
        'vllm:prompt_tokens_total{engine="0"} 3\nvllm:prompt_tokens_total{engine="1"} 4\n'
        'vllm:kv_cache_usage_perc{engine="0"} 0.25\nvllm:kv_cache_usage_perc{engine="1"} 0.75\n'
    )
    assert counter(two, "prompt_tokens") == 7
    assert gauge(two, "kv_usage_ratio") == 0.75


def test_delta_counts_and_leaves_gauges_out() -> None:
    before = look(NODE)
    after = look(
        NODE.replace('local_compute"} 6755', 'local_compute"} 6800')
        .replace('num_requests_running{engine="0",model_name="tiny"} 0', 'x{a="0"} 0')
        .replace("process_open_fds 34.0", "process_open_fds 12.0")
    )
    counters, deltas, fell = delta(before, after)
    assert counters["computed_tokens"] == 45
    assert counters["local_tokens"] == 0
    assert counters["store_puts"] is None
    assert list(deltas.values()) == [45]
    assert fell == []


def test_a_label_that_appears_began_at_zero() -> None:
    without = re.sub(r"(?m)^.*mooncake_store.*\n", "", NODE)
    counters, _, fell = delta(look(without), look(NODE))
    assert counters["save_keys"] == 66
    assert fell == []


def test_a_restart_is_seen_by_what_fell_or_vanished() -> None:
    fresh = re.sub(r"(?m)^.*mooncake_store.*\n", "", NODE)
    fresh = re.sub(r"(?m)^(vllm:prompt_tokens_total\S*) .*$", r"\1 12.0", fresh)
    _, _, fell = delta(look(NODE), look(fresh))
    assert any(key.startswith("vllm:prompt_tokens_total") for key in fell)
    assert any(key.startswith("vllm:mooncake_store_operation_keys_total") for key in fell)


def test_a_time_below_zero_is_no_restart_and_leaves_no_times() -> None:
    """vLLM 0.32 when KV does not load: the queue's sum falls by the machine's uptime."""
    queue, prefill = "vllm:request_queue_time_seconds", "vllm:request_prefill_time_seconds"
    page = re.sub(rf"(?m)^({queue}_sum\S*) .*$", r"\1 -40000.0", NODE)
    page = re.sub(rf"(?m)^({prefill}_sum\S*) .*$", r"\1 40000.0", page)
    counters, deltas, fell = delta(look(NODE), look(page))
    assert fell == []
    assert any(key.startswith(f"{queue}_sum") and change < 0 for key, change in deltas.items())
    assert {counters[name] for name in ("queue_sum_s", "prefill_sum_s", "ttft_sum_s")} == {None}
    assert counters["prompt_tokens"] == 0
    fresh = re.sub(rf"(?m)^({queue}_count\S*) .*$", r"\1 0.0", page)
    assert any(key.startswith(queue) for key in delta(look(NODE), look(fresh))[2])


def test_a_page_without_samples_is_no_snapshot() -> None:
    assert snapshot_of('{"detail":"Not Found"}', 1) is None
