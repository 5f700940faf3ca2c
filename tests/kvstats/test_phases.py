"""Phases of a disaggregated endpoint: measured, estimated in so many words, or absent; and who
sends token 1."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from msgspec import structs
from tests.kvstats.streams import MS, Made, cold, node

from kvpipe.records import ServerMetrics

REQUESTS = len(cold().requests)


def half(
    made: Made, role: Literal["prefill", "decode"], extra: int = 0, **counters: Any
) -> ServerMetrics:
    """One of the two servers; ``extra``: prompt tokens that it counted beyond the others'."""
    prompt = sum(one.prompt_tokens or 0 for one in made.requests)
    plain = node(made, prompt_tokens=prompt + extra, **counters)
    return structs.replace(plain, role=role, url=f"http://{role}", endpoint_url=None)


def phases(made: Made, *servers: ServerMetrics) -> dict[str, Any]:
    found = made.seen_by(*servers).stats().phases
    assert found is not None
    return found


def sums(name: str, mean_s: float) -> dict[str, Any]:
    return {f"{name}_sum_s": mean_s * REQUESTS, f"{name}_count": float(REQUESTS)}


def gapped(made: Made, first_ms: float) -> Made:
    """The first gap of every answer in ms; the later ones are those of the factory."""
    return made.map(
        lambda one: structs.replace(
            one,
            second_token_ns=(one.first_token_ns or 0) + int(first_ms * MS),
            last_token_ns=(one.first_token_ns or 0) + int((first_ms + 40) * MS),
            output_tokens=8,
        )
    )


MEASURED = sums("prefill", 0.5)


# --- the flow ------------------------------------------------------------------------------------


def test_equal_prompts_on_both_sides_mean_that_token_1_is_the_decoders() -> None:
    made = cold()
    flow = phases(made, half(made, "prefill", **MEASURED), half(made, "decode"))["flow"]
    assert (flow["name"], flow["how"]) == ("vllm", "tokens")


def test_one_token_more_for_each_request_means_that_it_is_the_prefillers() -> None:
    made = cold()
    more = half(made, "decode", extra=REQUESTS)
    flow = phases(made, half(made, "prefill", **MEASURED), more)["flow"]
    assert (flow["name"], flow["how"]) == ("lmcache", "tokens")
    assert "one more for each request" in flow["evidence"]


def test_tokens_that_fit_neither_leave_it_to_the_gaps() -> None:
    """Such as where requests failed between the two, or one of them was not asked."""
    made = cold()
    odd = half(made, "decode", extra=REQUESTS - 1)
    assert phases(made, half(made, "prefill", **MEASURED), odd)["flow"] is None
    early = gapped(made, 50)
    slow = half(made, "decode", **sums("ttft", 0.050), **sums("decode", 0.1))
    assert phases(early, slow)["flow"] == {
        "name": "lmcache",
        "how": "timing",
        "evidence": "first gap 50.0 ms, the decoder's own TTFT 50.0 ms",
    }
    usual = gapped(made, 7)
    assert phases(usual, slow)["flow"]["name"] == "vllm"


def test_a_first_gap_like_the_others_shows_nothing() -> None:
    """A transfer as short as a step looks alike in both flows."""
    made = gapped(cold(), 7)
    quick = half(made, "decode", **sums("ttft", 0.007), **sums("decode", 0.1))
    assert phases(made, quick)["flow"] is None


def test_the_flag_counts_where_nothing_was_seen_and_yields_to_what_was() -> None:
    asked = cold().head(config={"pd_flow": "lmcache"})
    alone = half(asked, "decode", **sums("decode", 0.1))
    assert phases(asked, alone)["flow"]["how"] == "asked"
    both = (half(asked, "prefill", **MEASURED), half(asked, "decode"))
    assert phases(asked, *both)["flow"]["name"] == "vllm"


def test_one_engine_has_no_flow() -> None:
    made = cold()
    found = phases(made, node(made, **MEASURED))
    assert found.keys() == {"disaggregated", "prefill_s", "transfer_s", "decode_s"}


# --- estimates -----------------------------------------------------------------------------------


def test_behind_lmcaches_proxy_the_first_gap_gives_the_transfer() -> None:
    made = gapped(cold(), 90)
    servers = (
        half(made, "prefill", **MEASURED),
        half(made, "decode", extra=REQUESTS, **sums("ttft", 0.02), **sums("decode", 0.1)),
    )
    transfer = phases(made, *servers)["transfer_s"]
    assert transfer["how"] == "estimate" and "first gap" in transfer["from"]
    assert transfer["mean"] == pytest.approx(0.07)


def test_behind_vllms_the_decoders_queue_does() -> None:
    made = cold()
    servers = (half(made, "prefill", **MEASURED), half(made, "decode", **sums("queue", 0.03)))
    transfer = phases(made, *servers)["transfer_s"]
    assert (transfer["how"], transfer["mean"]) == ("estimate", pytest.approx(0.03))


def test_what_was_measured_is_not_estimated() -> None:
    made = gapped(cold(), 90)
    decode = half(made, "decode", **sums("transfer", 0.01), **sums("queue", 0.03))
    found = phases(made, half(made, "prefill", **MEASURED, **sums("queue", 0.2)), decode)
    assert found["transfer_s"]["how"] == "measured"
    assert found["transfer_s"]["mean"] == pytest.approx(0.01)
    assert found["queue_s"]["mean"] == pytest.approx(0.2)


def test_without_a_flow_nothing_is_estimated() -> None:
    made = cold()
    found = phases(made, half(made, "decode", **sums("decode", 0.1), **sums("queue", 0.03)))
    assert (found["flow"], found["transfer_s"], found["prefill_s"]) == (None, None, None)


def test_a_decoder_alone_gives_the_prefill_as_the_rest_of_ttft() -> None:
    made = cold().head(config={"pd_flow": "vllm"})
    decode = half(made, "decode", **sums("ttft", 0.01), **sums("decode", 0.1))
    found = phases(made, decode)
    ttfts = [(one.first_token_ns or 0) - (one.sent_ns or 0) for one in made.requests]
    assert found["prefill_s"]["how"] == "estimate"
    assert found["prefill_s"]["mean"] == pytest.approx(sum(ttfts) / REQUESTS / 1e9 - 0.01)


# --- per request ---------------------------------------------------------------------------------


def test_answers_that_tell_give_the_decode_request_by_request() -> None:
    made = cold().map(
        lambda one: structs.replace(
            one, server_timings={"generation_time_ms": 100.0 + one.index, "mean_itl_ms": None}
        )
    )
    alone = phases(made, half(made, "decode"))["decode_s"]
    assert (alone["how"], alone["counter"]) == ("measured", "generation_time_ms of the answers")
    counted = phases(made, half(made, "decode", **sums("decode", 0.2)))["decode_s"]
    assert counted["mean"] == pytest.approx(0.2)
    assert counted["per_request"]["n"] == REQUESTS
    indexes = [one.index for one in made.requests]
    assert counted["per_request"]["mean"] == pytest.approx(0.1 + sum(indexes) / REQUESTS / 1e3)
