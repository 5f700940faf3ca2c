"""The figures of a public trace, whole; and the flags of `kvplan --analyze`."""

from __future__ import annotations

import gzip
from functools import cache

import pytest
from tests.family import ROOT

from kvpipe.process import UsageError
from kvplan.analysis.accesses import Accesses, Visit, accesses
from kvplan.analysis.curve import sized
from kvplan.analysis.kvsizes import MODELS, capacities, kv_of_bytes, kv_of_model
from kvplan.analysis.summary import Question, analyse
from kvplan.trace import read_trace

TRACE = ROOT / "tests/data/traces/conversation_trace.jsonl.gz"


@cache
def conversation() -> Accesses:
    def visits() -> list[Visit]:
        with gzip.open(TRACE) as stream:
            return [
                Visit(
                    links=[
                        (one, min(512, line.input_tokens - 512 * at))
                        for at, one in enumerate(line.hash_ids)
                    ],
                    output_tokens=line.output_tokens,
                    at_s=line.at_s,
                )
                for line in read_trace(stream, TRACE.name)
            ]

    return accesses(visits())


def question(**more: object) -> Question:
    base = {"scenario": "conversation", "source": "trace", "given_block_tokens": 512}
    return Question(**(base | more))  # type: ignore[arg-type]


def test_the_conversation_trace_has_its_published_figures() -> None:
    """Counted by hand over the same file: 105,710 of 288,500 blocks were in an earlier prompt."""
    found = analyse(conversation(), question(sizes=(512,)))
    assert (found.requests, found.prompt_tokens) == (12_031, 144_793_823)
    assert (found.blocks, found.unique_blocks) == (288_500, 182_790)
    assert found.block_hit_ratio == 105_710 / 288_500
    assert found.token_hit_ratio == 54_098_411 / 144_793_823
    assert round(100 * found.block_hit_ratio, 2) == 36.64
    assert round(100 * found.token_hit_ratio, 2) == 37.36
    assert round(100 * (found.mean_request_hit_ratio or 0), 2) == 40.94
    assert found.working_set_tokens == 144_793_823 - 54_098_411
    assert found.span_s == pytest.approx(3536.999)


def test_what_an_engine_can_reuse_of_it() -> None:
    """Whole blocks, less that of the last token; finer blocks lose less at the ends of prompts."""
    found = analyse(conversation(), question())
    assert [size.block_tokens for size in found.sizes] == [16, 128, 256, 512]
    assert [size.cut for size in found.sizes] == ["finer", "finer", "finer", "given"]
    ideal = [size.ideal.hit_tokens for size in found.sizes]
    assert ideal == [54_097_440, 54_089_728, 54_082_048, 54_063_104]
    for size in found.sizes:
        hits = [point.hit_tokens for point in size.curve]
        assert hits == sorted(hits)
        assert hits[-1] == size.ideal.hit_tokens > hits[-3]
        assert size.unique_blocks < size.blocks
    assert found.reuse_blocks.n == 54_063_104 // 512
    assert found.reuse_s is not None and found.reuse_s.max == 3030.0


def test_a_coarser_cut_of_a_finer_trace_is_exact() -> None:
    """Blocks of 128, made from 512 by name, and put together again: the same counts as given."""
    taken = conversation()
    links = [
        list(zip(nodes.tolist(), taken.node_tokens[nodes].tolist(), strict=True))
        for nodes in (taken.nodes[taken.first[at] : taken.first[at + 1]] for at in range(500))
    ]
    whole = [Visit(links=each, output_tokens=1) for each in links]
    fine = [
        Visit(
            links=[
                (f"{one}.{part}", min(128, tokens - 128 * part))
                for one, tokens in each
                for part in range(-(-tokens // 128))
            ],
            output_tokens=1,
        )
        for each in links
    ]
    for size in (128, 256, 512, 48):
        one, other = sized(accesses(fine), size), sized(accesses(whole), size)
        for capacity in (None, 4000):
            assert one.hits(capacity).tolist() == other.hits(capacity).tolist()


def test_an_evicted_head_costs_more_than_an_evicted_tail() -> None:
    """The same room, the same prompts: what is left of a prompt must be its beginning."""
    tail = sized(conversation(), 512, "tail-first")
    head = sized(conversation(), 512, "head-first")
    assert head.hit_tokens(None) == tail.hit_tokens(None)
    pairs = [(head.hit_tokens(room), tail.hit_tokens(room)) for room in (128, 2_000, 8_000)]
    assert all(at_head < at_tail for at_head, at_tail in pairs)


def test_named_capacities_are_points_of_the_curve() -> None:
    kv = kv_of_model("llama-3.1-70b/fp8")
    found = analyse(
        conversation(), question(kv=kv, capacities=capacities("1TiB,2000000"), sizes=(512,))
    )
    (size,) = found.sizes
    first, second = size.named
    assert (first.name, first.capacity_tokens) == ("1TiB", 2**40 // 163_840 // 512 * 512)
    assert (second.name, second.capacity_tokens) == ("2000000", 2_000_000 // 512 * 512)
    assert first.capacity_bytes == (first.capacity_tokens or 0) * 163_840
    assert size.curve[0].hit_tokens < second.hit_tokens < first.hit_tokens < size.ideal.hit_tokens


def test_kv_sizes_are_what_the_models_have() -> None:
    """Llama 3.1 70B: 80 layers, 8 KV heads of 128, two bytes: 320 KiB a token."""
    assert kv_of_model("llama-3.1-70b/fp16").bytes_per_token == 2 * 80 * 8 * 128 * 2 == 327_680
    assert kv_of_model("llama-3.1-8b").bytes_per_token == 131_072
    assert kv_of_model("deepseek-v3").bytes_per_token == 61 * (512 + 64) * 2
    assert all(kv_of_model(f"{name}/fp8").bytes_per_token > 0 for name in MODELS)
    assert kv_of_bytes(4096).name == "4096 bytes a token"
    with pytest.raises(UsageError, match="no model known by this name: llama"):
        kv_of_model("gpt-2")
    with pytest.raises(UsageError, match="'fp12' is none of fp32, fp16"):
        kv_of_model("qwen3-8b/fp12")


def test_capacities_are_tokens_or_bytes() -> None:
    kv = kv_of_bytes(1 << 20)
    rooms = [one.in_tokens(kv) for one in capacities("64MiB, 1.5GiB,2GB,777")]
    assert rooms == [64, 1536, 1907, 777]
    with pytest.raises(UsageError, match="how many bytes is a token"):
        capacities("64MiB")[0].in_tokens(None)
    for wrong in ("64 apples", "", "1.5", "-3", "0GiB"):
        with pytest.raises(UsageError, match="--capacity"):
            capacities(wrong)
