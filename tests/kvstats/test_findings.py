"""Every other finding: what provokes it, and the near miss at which it is silent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from msgspec import structs
from tests.kvstats.streams import (
    BLOCK,
    CONTEXT,
    ENDPOINT,
    HIT_MS,
    METRICS,
    MISS_MS,
    MS,
    PROMPT,
    Made,
    cached,
    cold,
    failed,
    hit,
    no_reuse,
    node,
    request,
    run,
    shards,
    summarise_lines,
)

from kvpipe.records import (
    Arrival,
    Barrier,
    Cleared,
    ClientHealth,
    Finding,
    ServerMetrics,
)
from kvstats.client import LATE_FLOOR_S

Spoil = Callable[[Made], Made]


def found(made: Made, code: str) -> Finding | None:
    return next((f for f in made.stats().findings if f.code == code), None)


def watched(made: Made, **over: Any) -> Made:
    return made.seen_by(node(made, **over))


def first(which: str) -> Callable[[Any], bool]:
    """The first request of a stratum in the factory's plan."""
    index = next(one.index for one in cold().requests if one.stratum == which)
    return lambda one: one.index == index


@pytest.mark.parametrize("made", [cold(), hit(), no_reuse()], ids=["cold", "hit", "no_reuse"])
def test_a_good_round_has_no_finding(made: Made) -> None:
    assert watched(made).stats().findings == []


# lost


def test_lost_below_95_per_cent() -> None:
    made = hit()
    ideal = sum(r.cached_tokens or 0 for r in made.requests)
    one_less = made.change(first("unique"), cached_tokens=0)
    assert ideal > 0
    lost = found(one_less, "lost")
    assert lost is not None
    assert lost.severity == "warning"
    assert lost.evidence["efficiency"] == pytest.approx(11 / 12)
    assert "no counter" in lost.message


def test_lost_stays_silent_at_95_per_cent() -> None:
    few = hit().change(first("unique"), cached_tokens=cached(PROMPT) // 2 // BLOCK * BLOCK)
    assert few.stats().efficiency == pytest.approx(0.958, abs=0.005)
    assert found(few, "lost") is None


def test_lost_stays_silent_at_exactly_95_per_cent() -> None:
    made = cold(groups=0, uniques=20, sentinels=0).head(arm="hit", round_num=2)
    given = {"cached_tokens": cached(PROMPT), "ideal_prior_tokens": cached(PROMPT)}
    made = made.change(lambda one: True, **given)
    at = made.change(lambda one: one.index == 3, cached_tokens=0)
    assert at.stats().efficiency == 0.95
    assert found(at, "lost") is None
    assert found(at.change(lambda one: one.index == 4, cached_tokens=1632), "lost") is not None


def test_lost_when_one_group_gets_less_than_half() -> None:
    made = cold(groups=20, followers=1, uniques=0)

    def warm(one: Any) -> Any:
        return structs.replace(
            one,
            cached_tokens=0 if one.group == "g3" else cached(PROMPT),
            ideal_prior_tokens=cached(PROMPT),
        )

    made = made.head(arm="hit", round_num=2).map(
        lambda one: one if one.stratum == "sentinel" else warm(one)
    )
    lost = found(made, "lost")
    assert lost is not None
    assert lost.evidence["efficiency"] == pytest.approx(0.95)
    assert lost.evidence["groups"] == {"g3": 0.0}
    half = made.change(lambda one: one.group == "g3", cached_tokens=824)
    assert found(half, "lost") is None


@pytest.mark.parametrize(
    ("counter", "words"),
    [
        ("preemptions", "preempted 7 times"),
        ("load_failed_keys", "7 keys failed to load"),
        ("save_failed_keys", "7 keys failed to be saved"),
    ],
)
def test_lost_names_the_cause(counter: str, words: str) -> None:
    made = hit().change(first("unique"), cached_tokens=0)
    lost = found(watched(made, **{counter: 7}), "lost")
    assert lost is not None
    assert words in lost.message
    assert f"{counter}" not in lost.message


def test_lost_names_what_the_store_evicted() -> None:
    store = ServerMetrics(
        run_id="r2", url="http://s", role="store", counters={"store_evicted_keys": 21}
    )
    made = hit().change(first("unique"), cached_tokens=0, created_cache_tokens=64)
    lost = found(made.seen_by(store), "lost")
    assert lost is not None
    assert lost.evidence["causes"] == [
        "the store evicted 21 keys",
        "the engine put 64 tokens into its cache anew",
    ]


def test_reuse_in_chunks_is_not_loss() -> None:
    """LMCache gives whole chunks of 256: the tail of a prompt is nobody's loss."""
    chunk = 256
    made = hit(tier="remote", chunk_tokens=chunk).change(
        lambda one: one.stratum != "sentinel", cached_tokens=PROMPT // chunk * chunk
    )
    assert made.stats().efficiency == 1.0
    assert hit(chunk_tokens=None).change(
        lambda one: one.stratum != "sentinel", cached_tokens=PROMPT // chunk * chunk
    ).stats().efficiency == pytest.approx(1536 / 1648)


# pd_transfer


def decoder(made: Made) -> Made:
    return made.change(lambda one: True, cached_tokens=PROMPT - 1)


def test_a_decoder_reports_transfers() -> None:
    stats = decoder(cold()).stats()
    codes = {f.code for f in stats.findings}
    assert codes == {"pd_transfer", "cold_not_shown"}
    assert stats.cold_proof == "not shown"
    assert stats.hit_ratio is not None
    hot = decoder(hit()).stats()
    assert {f.code for f in hot.findings} == {"pd_transfer"}
    assert hot.efficiency is None


def test_the_floor_is_no_transfer() -> None:
    made = cold().change(lambda one: True, floor_tokens=2 * BLOCK)
    made = made.change(first("sentinel"), cached_tokens=2 * BLOCK)
    assert found(made, "pd_transfer") is None
    assert found(made.change(first("sentinel"), cached_tokens=3 * BLOCK), "pd_transfer")


def test_a_salt_at_the_head_of_the_prompts_is_no_transfer() -> None:
    made = cold().change(first("sentinel"), cached_tokens=BLOCK, floor_tokens=4)
    assert found(made, "pd_transfer")
    assert found(made.change(first("sentinel"), ideal_in_round_hi=BLOCK), "pd_transfer") is None


def test_without_a_floor_half_of_the_prompt_is_a_transfer() -> None:
    made = cold().change(lambda one: True, floor_tokens=None)
    assert found(made.change(first("sentinel"), cached_tokens=PROMPT // 2), "pd_transfer") is None
    assert found(made.change(first("sentinel"), cached_tokens=PROMPT - 1), "pd_transfer")


def test_a_prefillers_counters_prove_what_a_decoders_tokens_cannot() -> None:
    made = cold()
    prefill = structs.replace(node(made), role="prefill", url="http://p", endpoint_url=None)
    assert decoder(made).seen_by(prefill).stats().cold_proof == "proven"
    decode = structs.replace(prefill, role="decode", url="http://d")
    assert decoder(made).seen_by(decode).stats().cold_proof == "not shown"


# foreign_traffic, restarted


@pytest.mark.parametrize("counter", ["requests", "prompt_tokens", "generation_tokens"])
def test_one_more_is_foreign(counter: str) -> None:
    made = cold()
    ours = node(made).counters[counter] or 0
    more = ours + (1 if counter != "generation_tokens" else len(made.requests) + 1)
    spoilt = found(watched(made, **{counter: more}), "foreign_traffic")
    assert spoilt is not None
    assert spoilt.severity == "invalid"
    assert METRICS in spoilt.message
    assert found(watched(made), "foreign_traffic") is None


def test_fewer_than_ours_after_a_quiet_barrier() -> None:
    made = cold()
    fewer = watched(made, requests=len(made.requests) - 1)
    spoilt = found(fewer, "foreign_traffic")
    assert spoilt is not None
    assert "several servers" in spoilt.message
    unseen = fewer.foot(barrier=Barrier(state="skipped", waited_s=0.0))
    assert found(unseen, "foreign_traffic") is None


@pytest.mark.parametrize("counted", [12, 13])
def test_failures_and_retries_explain_traffic(counted: int) -> None:
    made = cold().map(lambda one: failed(one) if one.index == 1 else one)
    assert found(watched(made, requests=counted), "foreign_traffic") is None
    assert found(watched(made, requests=14), "foreign_traffic") is not None
    retried = cold().change(first("leader"), retries=1)
    assert found(watched(retried, requests=14), "foreign_traffic") is None


def test_what_a_failed_request_may_have_cost() -> None:
    """Up to the longest prompt and output of ours for each."""
    made = cold().map(lambda one: failed(one) if one.index == 1 else one)
    prompt = node(made).counters["prompt_tokens"] or 0
    assert found(watched(made, prompt_tokens=prompt + PROMPT), "foreign_traffic") is None
    assert found(watched(made, prompt_tokens=prompt + PROMPT + 1), "foreign_traffic") is not None


def test_a_preempted_prompt_may_be_counted_again() -> None:
    made = cold()
    twice = (node(made).counters["prompt_tokens"] or 0) + PROMPT
    assert found(watched(made, prompt_tokens=twice), "foreign_traffic") is not None
    assert found(watched(made, prompt_tokens=twice, preemptions=1), "foreign_traffic") is None


def test_a_counter_that_one_of_two_servers_lacks_says_nothing() -> None:
    made = cold()
    half = [
        structs.replace(node(made, requests=n), url=url, endpoint_url=None)
        for url, n in (("http://a", 99), ("http://b", None))
    ]
    mute = [structs.replace(one, counters={"requests": one.counters["requests"]}) for one in half]
    assert found(made.seen_by(*mute), "foreign_traffic") is None


def test_windows_of_shards_differ() -> None:
    """Each shard reads the counters when it ends: the last one sees all, none sees too few."""
    parts = shards(cold(), 2)
    whole = cold()
    seen = [
        part.seen_by(structs.replace(node(whole, requests=n), run_id=part.run.run_id))
        for part, n in zip(parts, (7, 12), strict=True)
    ]
    (stats,) = summarise_lines(b"".join(p.lines() for p in seen).splitlines(True))
    assert stats.findings == []
    seen[1] = parts[1].seen_by(
        structs.replace(node(whole, requests=14), run_id=parts[1].run.run_id)
    )
    (stats,) = summarise_lines(b"".join(p.lines() for p in seen).splitlines(True))
    assert [f.code for f in stats.findings] == ["foreign_traffic"]


def test_pd_roles_are_held_to_requests_only() -> None:
    made = cold()
    roles = [
        structs.replace(node(made, prompt_tokens=9, generation_tokens=13), role=role, url=role)
        for role in ("prefill", "decode")
    ]
    assert found(made.seen_by(*roles), "foreign_traffic") is None
    roles[1] = structs.replace(roles[1], counters={"requests": 14})
    assert found(made.seen_by(*roles), "foreign_traffic") is not None


def test_traffic_on_the_other_node() -> None:
    made = cold()
    other = structs.replace(
        node(made, requests=0, prompt_tokens=0, generation_tokens=0),
        url="http://b/metrics",
        endpoint_url="http://b",
    )
    assert found(watched(made).seen_by(other), "foreign_traffic") is None
    busy = structs.replace(other, counters={"requests": 1})
    assert found(watched(made).seen_by(busy), "foreign_traffic") is not None


def test_replicas_behind_a_router_are_summed() -> None:
    made = cold()
    half = [
        structs.replace(
            node(made, requests=share, prompt_tokens=None, generation_tokens=None),
            url=url,
            endpoint_url=None,
        )
        for url, share in (("http://a", 6), ("http://b", 7))
    ]
    assert found(made.seen_by(*half), "foreign_traffic") is None
    half[1] = structs.replace(half[1], counters={"requests": 8})
    assert found(made.seen_by(*half), "foreign_traffic") is not None


def test_a_url_with_v1_is_the_same_endpoint() -> None:
    made = cold()
    same = structs.replace(node(made), endpoint_url=f"{ENDPOINT}/v1/")
    assert made.seen_by(same).stats().findings == []
    assert made.seen_by(same).stats().tier_served == "local"


def test_an_unreadable_server_says_nothing() -> None:
    made = cold()
    mute = structs.replace(node(made, requests=99), error="connection refused")
    assert made.seen_by(mute).stats().findings == []


def test_a_restart_shows_by_start_time_or_falling_counters() -> None:
    made = cold()
    server = node(made)
    for gone in (
        structs.replace(server, start_before_s=1e9, start_after_s=1e9 + 5),
        structs.replace(server, fell=["vllm:prompt_tokens_total"]),
    ):
        restarted = found(made.seen_by(gone), "restarted")
        assert restarted is not None
        assert restarted.severity == "invalid"
    same = structs.replace(server, start_before_s=1e9, start_after_s=1e9)
    assert found(made.seen_by(same), "restarted") is None
    unknown = structs.replace(server, start_before_s=None, start_after_s=1e9)
    assert found(made.seen_by(unknown), "restarted") is None


def test_a_server_that_is_not_there_after_the_round_died() -> None:
    made = cold()
    dead = structs.replace(node(made), counters={}, fell=["vllm:prompt_tokens_total"], error="gone")
    restarted = found(made.seen_by(dead), "restarted")
    assert restarted is not None and restarted.severity == "invalid"
    assert "died during the round" in restarted.message and dead.url in restarted.message
    # Another shard still reads it: it lives. And one that was never read has not died.
    assert found(made.seen_by(dead, node(made)), "restarted") is None
    assert found(made.seen_by(structs.replace(dead, fell=[])), "restarted") is None


# tiers


def by_source(made: Made, local: int, external: int) -> Made:
    """A hit round of tier store in which leaders and uniques tell where their tokens came from."""
    return made.change(
        lambda one: one.stratum in ("leader", "unique"),
        cached_local_tokens=local,
        cached_remote_tokens=external,
    )


@pytest.mark.parametrize("tier", ["store", "remote"])
def test_the_tier_is_named_from_the_leaders(tier: str) -> None:
    tokens = cached(PROMPT)
    stats = by_source(hit(tier=tier), 0, tokens).stats()
    assert stats.tier_served == tier
    assert stats.findings == []
    assert stats.leaders_served is not None
    assert stats.leaders_served.external == 4 * tokens
    stale = by_source(hit(tier=tier), tokens, 0)
    assert stale.stats().tier_served == "local"
    assert found(stale, "tier_not_shown") is not None
    half = by_source(hit(tier=tier), tokens // 2, tokens // 2)
    assert half.stats().tier_served == "mixed"
    assert found(half, "tier_not_shown") is not None
    tenth = by_source(hit(tier=tier), tokens // 10, tokens - tokens // 10)
    assert tenth.stats().tier_served == "mixed"


@pytest.mark.parametrize("tier", ["store", "remote"])
def test_counters_name_the_tier_less_what_followers_owe_their_leaders(tier: str) -> None:
    made = hit(tier=tier)
    every = sum(r.cached_tokens or 0 for r in made.requests)
    followers = 8 * cached(CONTEXT)
    served = watched(made, local_tokens=followers, external_tokens=every - followers)
    assert served.stats().tier_served == tier
    assert found(served, "tier_not_shown") is None
    stale = watched(made, local_tokens=every, external_tokens=0)
    assert stale.stats().tier_served == "local"
    assert found(stale, "tier_not_shown") is not None


def test_without_evidence_no_tier_is_named() -> None:
    made = hit(tier="remote")
    assert made.stats().tier_served is None
    assert found(made, "tier_not_shown") is not None
    assert found(hit(tier="local"), "tier_not_shown") is None


def test_a_cold_round_is_looked_at_as_a_whole() -> None:
    told = by_source(cold(), 0, 0).change(
        lambda one: one.stratum == "follower",
        cached_local_tokens=cached(CONTEXT),
        cached_remote_tokens=0,
    )
    assert told.stats().tier_served == "local"
    assert watched(told).stats().tier_served == "local"
    assert watched(no_reuse()).stats().tier_served == "computed"
    assert cold().stats().tier_served is None


def test_a_hit_round_that_computed_everything() -> None:
    made = by_source(hit(tier="store"), 0, 0).change(lambda one: True, cached_tokens=0)
    assert made.stats().tier_served == "computed"
    assert {f.code for f in made.stats().findings} == {"lost", "tier_not_shown"}


# overload


def open_loop(n: int, ttft_ms: Callable[[int], float], **over: Any) -> Made:
    """Uniques at 10 a second."""
    head = run(arrival=Arrival(kind="poisson", rate_rps=10.0), requests=n, **over)
    made = [request(i, at_ms=100 * i, ttft_ms=ttft_ms(i)) for i in range(n)]
    return Made(head, made).closed()


def test_a_queue_that_grows_is_overload() -> None:
    growing = open_loop(60, lambda i: MISS_MS + 40 * i)
    overload = found(growing, "overload")
    assert overload is not None
    assert overload.severity == "invalid"
    assert overload.evidence["ratio"] > 1.5


@pytest.mark.parametrize(
    "made",
    [
        open_loop(60, lambda i: MISS_MS + 5 * i),  # grows by a quarter
        open_loop(60, lambda i: MISS_MS + 400 * (i % 2)),  # varies, but does not grow
        open_loop(29, lambda i: MISS_MS + 40 * i),  # too few to tell
        open_loop(60, lambda i: MISS_MS + 40 * i, arm="hit"),
        open_loop(60, lambda i: MISS_MS + 40 * i).head(
            arrival=Arrival(kind="closed", concurrency=8)
        ),
    ],
    ids=["little", "variance", "few", "hit", "closed"],
)
def test_overload_near_misses(made: Made) -> None:
    assert found(made, "overload") is None


def test_longer_prompts_are_no_overload() -> None:
    """Prompts that grow over the round take longer; at equal uncached tokens nothing grew."""
    steady = open_loop(60, lambda i: MISS_MS + 40 * i)
    longer = steady.map(
        lambda one: structs.replace(
            one,
            prompt_tokens=PROMPT + 80 * one.index,
            new_tokens=PROMPT + 80 * one.index,
        )
    )
    assert found(longer, "overload") is None


def test_a_token_more_does_not_excuse_growth() -> None:
    """Later prompts are a token or two longer (their number has more digits): no reason."""
    growing = open_loop(60, lambda i: MISS_MS + 40 * i).map(
        lambda one: structs.replace(one, prompt_tokens=PROMPT + one.index // 10)
    )
    assert found(growing, "overload") is not None


def test_waiting_in_the_client_is_overload_too() -> None:
    """With --max-concurrency the queue stands here and not in the server."""
    capped = open_loop(60, lambda i: MISS_MS).map(
        lambda one: structs.replace(one, scheduled_ns=(one.sent_ns or 0) - 40 * MS * one.index)
    )
    assert found(capped, "overload") is not None


# delivery, client


def test_many_tokens_in_few_reads() -> None:
    long = {"output_tokens": 64, "reads": 7}
    buffered = found(cold().change(lambda one: True, **long), "stream_buffered")
    assert buffered is not None
    assert buffered.evidence["tokens"] == 64 * 13
    for fine in ({"reads": 8}, {"output_tokens": 15, "reads": 1}, {"reads": None}):
        spoilt = long | fine | ({"chunk_ns": None} if fine == {"reads": None} else {})
        assert found(cold().change(lambda one: True, **spoilt), "stream_buffered") is None
    few = cold().change(lambda one: one.index < 6, **long)
    few = few.change(lambda one: one.index >= 6, output_tokens=64, reads=65)
    assert found(few, "stream_buffered") is None


def test_stamps_of_two_kinds() -> None:
    mixed = found(cold().change(first("leader"), stamp_source="user"), "stamps_mixed")
    assert mixed is not None
    assert (mixed.evidence["kernel"], mixed.evidence["user"]) == (12, 1)
    assert found(cold().change(lambda one: True, stamp_source="user"), "stamps_mixed") is None


@pytest.mark.parametrize("lag", ["lateness_p99_s", "loop_lag_p99_s"])
def test_a_client_that_lags_by_5_per_cent(lag: str) -> None:
    median = HIT_MS / 1e3  # most of the factory's cold round are followers
    limit = max(LATE_FLOOR_S, 0.05 * median)
    by_user = cold().change(lambda one: True, stamp_source="user")
    over = by_user.foot(client=ClientHealth(**{lag: limit * 1.01}))
    assert found(over, "client_limited") is not None
    at = by_user.foot(client=ClientHealth(**{lag: limit}))
    assert found(at, "client_limited") is None
    slow = cold(followers=0).foot(client=ClientHealth(**{lag: 0.9 * 0.05 * MISS_MS / 1e3}))
    assert found(slow, "client_limited") is None


def test_a_lagging_loop_moves_no_kernel_stamp_until_reads_merge() -> None:
    lagging = cold().foot(client=ClientHealth(loop_lag_p99_s=1.0))
    assert found(lagging, "client_limited") is None
    events = len(lagging.requests[0].chunk_ns or [])
    few = max(0, int(0.05 * events))
    assert found(lagging.change(lambda one: True, merged_reads=few), "client_limited") is None
    merged = lagging.change(lambda one: True, merged_reads=few + 1)
    assert found(merged, "client_limited") is not None


def test_the_worst_shard_counts() -> None:
    late, early = ClientHealth(lateness_p99_s=0.2), ClientHealth(lateness_p99_s=0.0)
    for order in ((late, early), (early, late)):
        parts = [
            part.foot(client=health) for part, health in zip(shards(cold(), 2), order, strict=True)
        ]
        (stats,) = summarise_lines(b"".join(p.lines() for p in parts).splitlines(True))
        assert [f.code for f in stats.findings] == ["client_limited"]


def test_shards_that_ran_apart() -> None:
    parts = shards(cold(), 2)
    together = summarise_lines(b"".join(p.lines() for p in parts).splitlines(True))[0]
    assert together.findings == []
    assert together.request_throughput_rps is not None
    parts[1] = parts[1].head(started_at="2026-01-02T03:14:05+00:00")
    apart = summarise_lines(b"".join(p.lines() for p in parts).splitlines(True))[0]
    assert [f.code for f in apart.findings] == ["client_limited"]
    assert apart.request_throughput_rps is None


# conditions


def test_errors_are_a_warning_up_to_one_per_cent() -> None:
    made = cold(uniques=187, sentinels=3)  # 200 requests
    two = made.map(lambda one: failed(one) if one.index in (190, 191) else one)
    warning = found(two, "errors")
    assert warning is not None
    assert warning.severity == "warning"
    assert warning.evidence == {"failed": 2, "planned": 200, "statuses": {"timeout": 2}}
    three = made.map(lambda one: failed(one) if one.index in (190, 191, 192) else one)
    assert three.codes()["errors"] == "invalid"
    assert found(made, "errors") is None


def test_the_first_error_by_index_is_told() -> None:
    made = cold().map(
        lambda one: failed(one, error=f"no {one.index}") if one.index in (3, 5) else one
    )
    error = found(made, "errors")
    assert error is not None
    assert "no 3" in error.message


def cleared(verified: bool | None, *, dry_run: bool = False) -> Cleared:
    return Cleared(
        tool_version="0.1.0",
        cleared_at="2026-01-02T03:04:05Z",
        steps=[],
        proofs=[],
        verified=verified,
        reason="because",
        dry_run=dry_run,
    )


UNPROVEN: Spoil = lambda made: made.change(lambda one: True, cached_tokens=None)  # noqa: E731
PROVEN: Spoil = lambda made: made  # noqa: E731


@pytest.mark.parametrize(
    ("isolation", "salt", "spoil", "severity"),
    [
        (None, None, UNPROVEN, "warning"),
        (None, None, PROVEN, None),  # the cold round is its own proof
        (None, "s", UNPROVEN, None),
        (cleared(None), None, UNPROVEN, "warning"),
        (cleared(True), None, UNPROVEN, None),
        (cleared(True, dry_run=True), None, UNPROVEN, "warning"),
        (cleared(False), None, UNPROVEN, "invalid"),
        (cleared(False), "s", UNPROVEN, "invalid"),
        (cleared(False), "s", PROVEN, "warning"),
    ],
)
def test_isolation(
    isolation: Cleared | None, salt: str | None, spoil: Spoil, severity: str | None
) -> None:
    made = spoil(cold().head(isolation=isolation, salt=salt))
    assert made.codes().get("not_isolated") == severity


def test_an_ignored_salt_isolates_nothing() -> None:
    ignored = Finding(
        code="salt_ignored",
        severity="warning",
        message="salt was ignored",
        evidence={"field": "cache_salt"},
    )
    unproven = UNPROVEN(cold()).foot(findings=[ignored])
    codes = unproven.head(salt_way="cache_salt").codes()
    assert {"salt_ignored", "not_isolated"} <= codes.keys()
    moved = unproven.head(salt_way="prompt_head").codes()
    assert "salt_ignored" in moved and "not_isolated" not in moved


def test_a_hit_round_need_not_be_isolated() -> None:
    assert (
        found(hit(salt=None).change(lambda one: True, cached_tokens=None), "not_isolated") is None
    )


def test_kvloads_own_findings_pass_through() -> None:
    unstable = Finding(code="warmup_unstable", severity="warning", message="never settled")
    assert cold().foot(findings=[unstable]).stats().findings == [unstable]


@pytest.mark.parametrize(
    ("state", "fires"), [("unknown", True), ("quiet", False), ("skipped", False)]
)
def test_an_unknown_barrier(state: str, fires: bool) -> None:
    barrier = Barrier(state=state, waited_s=30.0, reason="no metrics")  # type: ignore[arg-type]
    unknown = found(cold().foot(barrier=barrier), "barrier_unknown")
    assert (unknown is not None) == fires
    if unknown is not None:
        assert "waited 30 s" in unknown.message


@pytest.mark.parametrize(
    ("calibrated", "fires"),
    [("none", True), ("probe", True), ("tokenize", False), ("token_ids", False)],
)
def test_uncalibrated_plans_say_so(calibrated: str, fires: bool) -> None:
    assert (found(cold().head(calibrated=calibrated), "uncalibrated") is not None) == fires


def test_a_simulation_says_so() -> None:
    assert cold().head(simulated=True).codes() == {"simulated": "info"}


def test_cached_tokens_that_are_not_reported() -> None:
    none = hit().change(lambda one: True, cached_tokens=None)
    assert none.codes() == {"cached_tokens_not_reported": "warning"}
    assert none.stats().hit_ratio is None
    some = found(hit().change(first("leader"), cached_tokens=None), "cached_tokens_not_reported")
    assert some is not None
    assert "1 of 12" in some.message
    zero = hit().change(first("sentinel"), cached_tokens=None)
    assert found(zero, "cached_tokens_not_reported") is None


def test_what_is_missing_from_a_round() -> None:
    whole = cold()
    assert whole.stats().complete
    for spoilt, words in (
        (Made(whole.run, whole.requests), "has no end"),
        (whole.foot(complete=False, reason="SIGINT"), "SIGINT"),
        (Made(whole.run, whole.requests[1:], end=whole.end), "12 came"),
        (whole.foot(ok=12), "13 came"),
        (whole.map(failed), "nothing succeeded"),
    ):
        stats = spoilt.stats()
        assert not stats.complete
        gap = found(spoilt, "incomplete")
        assert gap is not None
        assert gap.severity == "invalid"
        assert words in gap.message


def test_a_missing_shard_is_told() -> None:
    parts = shards(cold(), 3)
    lines = b"".join(part.lines() for part in parts[:2]).splitlines(True)
    (stats,) = summarise_lines(lines)
    assert not stats.complete
    assert "shard 2/3" in stats.findings[0].message
