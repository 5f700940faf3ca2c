"""kvclear through its executable on what answers as engines that cannot run here."""

from __future__ import annotations

from collections.abc import Callable

from tests.kvclear.runs import Run

ResultOf = Callable[[str], Run]


def test_sglang_is_flushed_after_it_was_busy_and_shown_empty(result_of: ResultOf) -> None:
    run = result_of("sglang")
    assert (run.status, run.verified) == (0, True), run.err
    [flush] = run.steps("flush cache")
    assert flush["ok"] is True and "after 1 retries" in flush["answer"]
    [storage] = run.steps("clear storage backend")
    assert storage["ok"] is None and "not sent" in storage["answer"]
    assert run.seen["asked"] == ["flush", "flush"]


def test_sglangs_storage_keeps_it_warm_until_it_may_be_cleared(result_of: ResultOf) -> None:
    kept = result_of("sglang, storage kept")
    assert (kept.status, kept.verified) == (1, False)
    assert "--global" in kept.err
    run = result_of("sglang, storage too")
    assert (run.status, run.verified) == (0, True), run.err
    assert run.seen["asked"][-1] == "storage", "behind the node, so after it"


def test_a_head_that_no_tokenizer_tells_is_learned_and_no_false_alarm(result_of: ResultOf) -> None:
    """The first probe stores the head again, and the second finds it."""
    run = result_of("head not told")
    assert (run.status, run.verified) == (0, True), run.err
    assert [proof["after_tokens"] for proof in run.proofs("engine")] == [0, 80]
    assert run.record is not None and run.record["floor_tokens"] == 80


def test_llama_cpp_is_cold_only_without_its_cache_in_ram(result_of: ResultOf) -> None:
    run = result_of("llama.cpp")
    assert (run.status, run.verified) == (0, True), run.err
    assert run.record is not None and run.record["floor_tokens"] == 1, "its own key of /tokenize"
    warm = result_of("llama.cpp, cache in ram")
    assert (warm.status, warm.verified) == (1, False)
    [erase] = warm.steps("erase slots")
    assert erase["ok"] is True and "--cache-ram 0" in erase["advice"]


def test_a_front_end_is_shown_empty_only_with_one_worker(result_of: ResultOf) -> None:
    assert result_of("dynamo, one worker").verified is True
    run = result_of("dynamo, two workers")
    assert (run.status, run.verified) == (1, None)
    assert run.steps("clear KV blocks")[0]["ok"] is True
    assert "workers of its choice" in run.reason


def test_lmcache_comes_after_the_nodes_and_its_second_level_is_found_out(
    result_of: ResultOf,
) -> None:
    run = result_of("lmcache cleared")
    assert (run.status, run.verified) == (0, True), run.err
    what = [step["what"] for step in run.record["steps"]] if run.record else []
    assert what.index("reset prefix cache") < what.index("clear LMCache's L1")
    kept = result_of("lmcache, its L2 kept")
    assert (kept.status, kept.verified) == (1, False)
    [clear] = kept.steps("clear LMCache's L1")
    assert clear["ok"] is True and "L2 is not cleared" in clear["advice"]
    assert clear["tier"] == "lmcache"
