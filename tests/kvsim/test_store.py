"""The store: leases, room, eviction; and what goes through it from node to node."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from stack.ports import Claims
from tests.kvsim.conftest import FAST, Reply, Sim, words

from kvsim.options import StoreOptions
from kvsim.store import Store

LEASE_S = 5.0


def mounted(**options: float) -> Store:
    store = Store(StoreOptions(lease_s=LEASE_S, **options))  # type: ignore[arg-type]
    store.mount("a", 500)
    store.mount("b", 500)
    return store


def keys(count: int, start: int = 0) -> list[str]:
    return [f"key{at}" for at in range(start, start + count)]


def test_within_a_lease_an_unforced_removal_keeps_keys_silently() -> None:
    store = mounted()
    store.put(keys(5), 10, now=0)
    store.get(["key0"], now=1)
    store.exist(["key1"], now=1)
    assert store.remove_all(force=False, now=2) == 3
    assert set(store.objects) == {"key0", "key1"}
    assert store.remove_all(force=False, now=1 + LEASE_S + 1) == 2


def test_force_removes_leased_keys() -> None:
    store = mounted()
    store.put(keys(5), 10, now=0)
    store.exist(keys(5), now=1)
    assert store.remove_all(force=False, now=1) == 0
    assert store.remove_all(force=True, now=1) == 5
    assert (len(store.objects), store.allocated) == (0, 0)


def test_the_longest_unused_is_evicted_above_the_watermark() -> None:
    store = mounted(watermark=0.9, eviction=0.1)
    store.put(keys(90), 10, now=0)
    assert store.counts.get("master_evicted_key_count", 0) == 0
    store.exist(keys(50), now=0)  # leased until 5
    store.put(keys(1, 90), 10, now=1)
    assert store.counts["master_evicted_key_count"] == 11
    assert all(key in store.objects for key in keys(50))
    assert store.allocated == 800


def test_without_room_a_put_fails_and_is_counted() -> None:
    store = mounted(watermark=1.0, eviction=0.1)
    store.put(keys(100), 10, now=0)
    store.exist(keys(100), now=0)  # all leased: nothing can go
    assert store.put(keys(3, 100), 10, now=1) == 3
    assert store.counts["master_put_start_alloc_failures_total"] == 3
    assert store.put(keys(3, 100), 10, now=LEASE_S + 2) == 0


def test_objects_go_with_their_segment() -> None:
    store = mounted()
    store.put(keys(40), 10, now=0)
    in_a = store.used_by("a") // 10
    assert 0 < in_a < 40
    store.unmount("a")
    assert (len(store.objects), store.capacity) == (40 - in_a, 500)
    store.unmount("b")
    assert (len(store.objects), store.capacity) == (0, 0)


Start = Callable[..., Sim]
PROMPT = words(500)  # 511 tokens: 31 blocks of 16, 30 of them findable


def pair(kvsim: Start, *more: str) -> tuple[Sim, Sim, Sim]:
    store = kvsim("--role", "store")
    a, b = (kvsim(*FAST, "--save-delay-ms", "0", "--store", store.url, *more) for _ in "ab")
    return store, a, b


def by_source(sim: Sim) -> list[float]:
    name = "vllm:prompt_tokens_by_source_total"
    sources = ("local_compute", "local_cache_hit", "external_kv_transfer")
    return [sim.metric(name, source=source) for source in sources]


def test_what_one_node_saved_another_one_loads(kvsim: Start) -> None:
    store, a, b = pair(kvsim)
    assert a.chat(PROMPT).cached == 0
    store.wait_for("master_key_count", 31)
    assert a.chat(PROMPT).cached == 496
    assert b.chat(PROMPT).cached == 496
    assert b.chat(PROMPT).cached == 496
    assert by_source(a) == [511 + 15, 496, 0]
    assert by_source(b) == [15 + 15, 496, 496]
    for sim in (a, b):
        assert sum(by_source(sim)) == sim.metric("vllm:prompt_tokens_total") == 2 * 511
        assert sim.metric("vllm:prefix_cache_hits_total") == by_source(sim)[1]
        assert sim.metric("vllm:external_prefix_cache_hits_total") == by_source(sim)[2]
    assert b.metric("vllm:mooncake_store_operation_keys_total", operation="load_get") == 31


def test_a_shared_beginning_is_loaded_and_the_rest_computed(kvsim: Start) -> None:
    store, a, b = pair(kvsim)
    a.chat(PROMPT + " " + words(100, 30))
    store.wait_for("master_key_count", 38)
    cached = b.chat(PROMPT + " " + words(100, 60)).cached
    assert cached == (500 + 4) // 16 * 16


def test_a_local_reset_is_not_cold_while_the_store_has_the_blocks(kvsim: Start) -> None:
    store, a, _ = pair(kvsim)
    a.chat(PROMPT)
    store.wait_for("master_key_count", 31)
    a.reset()
    assert a.chat(PROMPT).cached == 496
    assert by_source(a)[2] == 496
    a.reset("?reset_external=true")
    assert store.metric("master_key_count") == 0
    assert a.chat(PROMPT).cached == 0


def test_a_store_cleared_before_the_nodes_fills_again(kvsim: Start) -> None:
    store, a, _ = pair(kvsim)
    a.chat(PROMPT)
    store.wait_for("master_key_count", 31)
    unforced = store.call("POST", "/api/v1/remove_all").json
    assert unforced["success"] is True
    assert store.call("POST", "/api/v1/remove_all?force=true").json["success"] is True
    assert store.metric("master_key_count") == 0
    a.chat(PROMPT)  # a local hit uploads what is missing
    store.wait_for("master_key_count", 31)


def test_a_read_lease_keeps_keys_through_the_api(kvsim: Start) -> None:
    store, a, b = pair(kvsim)
    a.chat(PROMPT)
    store.wait_for("master_key_count", 31)
    assert b.chat(PROMPT).cached == 496  # reads take leases
    assert store.call("POST", "/api/v1/remove_all").json == {"success": True, "removed_count": 0}
    forced = store.call("POST", "/api/v1/remove_all?force=true").json
    assert forced == {"success": True, "removed_count": 31}


def test_a_hit_that_comes_before_the_save_is_none(kvsim: Start) -> None:
    store = kvsim("--role", "store")
    a, b = (kvsim(*FAST, "--save-delay-ms", "600000", "--store", store.url) for _ in "ab")
    a.chat(PROMPT)
    assert a.call("POST", "/reset_prefix_cache").json == {"success": False}  # a save holds blocks
    assert b.chat(PROMPT).cached == 0
    assert store.metric("master_key_count") == 0


def test_salts_divide_the_store_too(kvsim: Start) -> None:
    store, a, b = pair(kvsim)
    a.chat(PROMPT, cache_salt="one")
    store.wait_for("master_key_count", 31)
    assert b.chat(PROMPT, cache_salt="two").cached == 0
    assert b.chat(PROMPT, cache_salt="one").cached == 496


def test_a_node_takes_its_segment_with_it(kvsim: Start) -> None:
    store, a, _ = pair(kvsim)
    a.chat(PROMPT)
    store.wait_for("master_key_count", 31)
    a.process.terminate()
    store.wait_for("master_active_clients", 1)
    assert 0 < store.metric("master_key_count") < 31


def test_nodes_mount_again_with_a_new_master_on_the_same_port(kvsim: Start) -> None:
    # Claimed, and below those of outgoing connections: nobody may have it between the two.
    claims = Claims()
    port = str(claims.take(9501))
    store = kvsim("--role", "store", "--port", port)
    a, b = (kvsim(*FAST, "--save-delay-ms", "0", "--store", store.url) for _ in "ab")
    a.chat(PROMPT)
    store.wait_for("master_key_count", 31)
    store.process.kill()
    store.process.wait()
    assert b.chat(PROMPT).cached == 0  # nothing answers for the store: a miss, and no error
    again = kvsim("--role", "store", "--port", port)
    assert again.metric("master_key_count") == 0
    assert a.chat(PROMPT, cache_salt="new").cached == 0
    again.wait_for("master_key_count", 31)
    assert b.chat(PROMPT, cache_salt="new").cached == 496


def test_what_a_master_does_not_know_is_404(kvsim: Start) -> None:
    store = kvsim("--role", "store")
    asked = [("GET", "/api/v1/remove_all"), ("PUT", "/api/v1/remove_all"),
             ("POST", "/metadata/clear"), ("GET", "/metadata")]  # fmt: skip
    assert [store.call(*what).status for what in asked] == [404] * 4
    assert store.call("GET", "/health").json["status"] == "ok"
    assert store.call("GET", "/query_key?key=none").status == 404
    assert store.call("GET", "/get_all_keys").body == b""
    assert store.metric("kvsim_info", simulated="true") == 1


def test_a_full_store_evicts_and_says_so(kvsim: Start) -> None:
    size = 16 * 4096
    store = kvsim("--role", "store", "--capacity-bytes", str(40 * size), "--lease-ms", "0")
    a = kvsim(*FAST, "--save-delay-ms", "0", "--store", store.url)
    a.chat(PROMPT)
    store.wait_for("master_key_count", 31)
    a.chat(words(500, 60))
    store.wait_for("master_put_start_requests_total", 0)
    store.wait_for("master_batch_put_end_requests_total", 2)
    assert store.metric("master_evicted_key_count") > 0
    assert store.metric("master_key_count") <= 36


def vanishing(kvsim: Start, policy: str) -> tuple[Sim, Reply]:
    """A node that is loading blocks while somebody clears the store; and its answer."""
    store = kvsim("--role", "store")
    a = kvsim(*FAST, "--save-delay-ms", "0", "--store", store.url)
    b = kvsim(*FAST, "--load-latency-ms", "8000", "--store", store.url,
              "--kv-load-failure-policy", policy)  # fmt: skip
    a.chat(PROMPT)
    store.wait_for("master_key_count", 31)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(b.chat, PROMPT)
        # waiting also counts a request that has only just come and holds no block yet
        b.wait_for("vllm:num_requests_waiting_by_reason", 1, reason="deferred")
        assert b.call("POST", "/reset_prefix_cache").json == {"success": False}
        running = b.call("POST", "/reset_prefix_cache?reset_running_requests=true")
        assert running.status == 500
        store.call("POST", "/api/v1/remove_all?force=true")
        return b, answer.result()


def test_blocks_that_vanish_while_they_are_loaded_fail_the_request(kvsim: Start) -> None:
    node, reply = vanishing(kvsim, "fail")
    assert (reply.status, reply.events[0]["error"]["code"]) == (200, 500)
    assert node.metric("vllm:request_success_total", finished_reason="error") == 1
    failed = "vllm:mooncake_store_operation_failed_keys_total"
    assert node.metric(failed, operation="load_get") == 31
    assert node.chat(PROMPT).cached == 0  # and nothing stays behind


def test_or_are_computed_anew_if_that_is_the_policy(kvsim: Start) -> None:
    node, reply = vanishing(kvsim, "recompute")
    assert reply.usage["completion_tokens"] == 4
    assert node.metric("vllm:request_success_total", finished_reason="error") == 0


def test_many_loads_into_a_small_cache_all_end(kvsim: Start) -> None:
    store = kvsim("--role", "store")
    a = kvsim(*FAST, "--save-delay-ms", "0", "--store", store.url)
    small = kvsim(*FAST, "--store", store.url, "--capacity-blocks", "24")
    for at in range(8):
        a.chat(words(150, at * 7))
    store.wait_for("master_key_count", 80)
    with ThreadPoolExecutor(8) as pool:
        done = list(pool.map(lambda at: small.chat(words(150, at * 7), max_tokens=60), range(8)))
    assert all(reply.usage["completion_tokens"] == 60 for reply in done)
    assert small.metric("vllm:kv_cache_usage_perc") == 0


def test_nodes_of_two_hash_seeds_share_a_store_and_nothing_in_it(kvsim: Start) -> None:
    store = kvsim("--role", "store")
    flags = (*FAST, "--save-delay-ms", "0", "--store", store.url)
    a, b = kvsim(*flags), kvsim(*flags, "--hash-seed", "7")
    a.chat(PROMPT)
    store.wait_for("master_key_count", 31)
    assert b.chat(PROMPT).cached == 0
    store.wait_for("master_key_count", 62)
    b.reset()
    assert b.chat(PROMPT).cached == 31 * 16, "its own it finds"
