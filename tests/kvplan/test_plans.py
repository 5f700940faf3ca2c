"""Plans through the executable: lengths, chains, uniqueness, hashes; held against the tokens."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from collections.abc import Callable
from io import BytesIO
from typing import Any
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.kvplan.conftest import Proxy
from tests.simulated import Sim

from kvpipe.process import ToolError
from kvpipe.records import Plan, Planned
from kvplan.cli import run
from kvplan.scenarios import SCENARIOS
from kvprompt.tree import PrefixTree
from kvprompt.workload import read_plan
from kvsim.tokens import encode, render_chat

Shell = Callable[..., Any]
RawPlan = tuple[Plan, list[Planned]]


def plans_of(out: str) -> list[RawPlan]:
    return read_plan(BytesIO(out.encode()), "plan")


def kvplan(flags: str) -> tuple[str, str]:
    """What kvplan writes to stdout and stderr, in this process: starting one costs seconds."""
    out, err = io.TextIOWrapper(io.BytesIO(), encoding="utf-8"), io.StringIO()
    with mock.patch.object(sys, "stdout", out), contextlib.redirect_stderr(err):
        assert run(flags.split()) == 0
        out.flush()
        assert isinstance(out.buffer, io.BytesIO)
        return out.buffer.getvalue().decode(), err.getvalue()


def made(flags: str) -> RawPlan:
    (plan,) = plans_of(kvplan(flags)[0])
    return plan


def tokens_of(request: Planned) -> list[int]:
    if request.messages is not None:
        return render_chat(request.messages)
    return encode(request.prompt) if isinstance(request.prompt, str) else request.prompt or []


def common(one: list[int], other: list[int]) -> int:
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(one), len(other)))


def check_chains(requests: list[Planned]) -> None:
    """Chains, new_tokens and the tree against brute force over the tokens themselves."""
    lists = [tokens_of(request) for request in requests]
    tree = PrefixTree()
    for at, (request, ids) in enumerate(zip(requests, lists, strict=True)):
        assert request.prompt_tokens == len(ids) == sum(block.tokens for block in request.blocks)
        given_ = max((common(ids, earlier) for earlier in lists[:at]), default=0)
        assert request.new_tokens == len(ids) - given_ == tree.add(request.blocks)
    assert sum(request.new_tokens or 0 for request in requests) == tree.size
    for one, ids in zip(requests, lists, strict=True):
        for other, theirs in zip(requests, lists, strict=True):
            assert shared(one, other) == common(ids, theirs)


def shared(one: Planned, other: Planned) -> int:
    tokens = 0
    for mine, theirs in zip(one.blocks, other.blocks, strict=False):
        if mine.id != theirs.id:
            break
        tokens += mine.tokens
    return tokens


def check_unique(requests: list[Planned], floor: int, block: int = 16) -> None:
    """Prompts of different contexts share no block of their own text."""
    owners: dict[tuple[int, ...], str] = {}
    for request in requests:
        owner = request.group or f"request {request.index}"
        head = tuple(tokens_of(request)[: floor + block])
        assert owners.setdefault(head, owner) == owner


@pytest.mark.parametrize("api", ["chat", "completions"])
@pytest.mark.parametrize("name", SCENARIOS)
def test_with_a_tokenizer_everything_is_exact(name: str, api: str, sim: Sim) -> None:
    head, requests = made(
        f"--scenario {name} --context-tokens 900-1500 --requests 16 --api {api} --url {sim.url}"
    )
    assert (head.calibrated, head.model, head.note) == ("tokenize", "sim", None)
    assert head.floor_tokens == (4 if api == "chat" else 0)
    assert [request.prompt_tokens for request in requests] == [
        request.asked_tokens for request in requests
    ]
    assert head.asked_tokens == head.got_tokens == sum(r.prompt_tokens or 0 for r in requests)
    assert all(isinstance(r.prompt, str) == (api == "completions") for r in requests)
    check_chains(requests)
    check_unique(requests, head.floor_tokens or 0)


def test_followers_share_the_context_as_long_as_asked(sim: Sim) -> None:
    _, requests = made(
        f"--scenario code_generation --context-tokens 3000 --contexts 2 --url {sim.url}"
    )
    leaders = {r.group: r for r in requests if r.stratum == "leader"}
    followers = [r for r in requests if r.stratum == "follower"]
    assert (len(leaders), len(followers)) == (2, 22)
    for follower in followers:
        assert 2950 <= shared(follower, leaders[follower.group]) <= 3060
        assert follower.new_tokens is not None
        assert 30 <= follower.new_tokens <= 150


def test_turns_carry_the_history(sim: Sim) -> None:
    head, requests = made(
        "--scenario multi_turn_conversation --requests 28 --contexts 4 --context-tokens 2800 "
        f"--url {sim.url}",
    )
    assert (head.requests, head.contexts, head.cold_requests) == (28, 4, 4)
    turns = [r for r in requests if r.turn is not None]
    assert sum(r.stratum == "follower" for r in turns) / len(turns) == pytest.approx(6 / 7)
    for request in turns:
        assert request.messages is not None and request.turn is not None
        assert len(request.messages) == 2 * request.turn - 1
        roles = [message["role"] for message in request.messages]
        assert roles == (["user", "assistant"] * request.turn)[:-1]
        assert request.asked_tokens == request.prompt_tokens == 400 * request.turn
        if request.after is not None:
            before = requests[request.after].messages
            assert request.messages[: len(before or [])] == before


def test_sentinels_begin_with_their_nonce(sim: Sim) -> None:
    _, requests = made(f"--scenario cold_start --context-tokens 3000 --url {sim.url}")
    sentinels = [r for r in requests if r.stratum == "sentinel"]
    assert len(sentinels) == 3
    for sentinel in sentinels:
        assert sentinel.messages is not None and sentinel.nonce is not None
        assert sentinel.messages[0]["content"].startswith(sentinel.nonce)
        assert sentinel.prompt_tokens == 1024
    assert all(r.nonce is None for r in requests if r.stratum != "sentinel")


def test_a_wide_context_is_still_exact(sim: Sim) -> None:
    head, _ = made(
        "--scenario long_context_high_reuse --context-tokens 16000-19800 --requests 8 "
        f"--url {sim.url}",
    )
    assert head.asked_tokens == head.got_tokens


def test_repeats_are_one_shape_with_new_text(sim: Sim) -> None:
    flags = f"--scenario code_generation --context-tokens 600-900 --requests 12 --url {sim.url}"
    out, err = kvplan(f"{flags} --repeats 3")
    plans = plans_of(out)
    heads = [head for head, _ in plans]
    assert [head.repeat for head in heads] == [1, 2, 3]
    assert len({head.shape_sha256 for head in heads}) == 1
    assert len({head.plan_sha256 for head in heads}) == 3
    assert len({json.dumps([r.stratum for r in requests]) for _, requests in plans}) == 1
    owners: dict[tuple[int, ...], tuple[int, str | None]] = {}
    for head, requests in plans:
        for request in requests:
            start = tuple(tokens_of(request)[:20])
            owner = (head.repeat, request.group or str(request.index))
            assert owners.setdefault(start, owner) == owner
    assert kvplan(f"{flags} --repeat 2")[0] in out
    assert len(err.splitlines()) == 3


@pytest.mark.parametrize("more", ["", "--api completions", "--url {url}", "--order shuffled"])
def test_the_same_flags_give_the_same_bytes(more: str, sim: Sim, sh: Shell) -> None:
    flags = f"--scenario code_generation --context-tokens 500 --requests 9 {more}".format(
        url=sim.url
    )
    first, _ = kvplan(flags)
    assert first
    assert first == sh(f"kvplan {flags}").out
    assert made(f"{flags} --seed 8")[0].plan_sha256 != plans_of(first)[0][0].plan_sha256


def test_scenarios_of_one_seed_share_no_text() -> None:
    """Else one scenario's rounds would warm the next one's."""
    seen: set[str] = set()
    for name in SCENARIOS:
        for lengths in ("700", "900"):
            _, requests = made(f"--scenario {name} --context-tokens {lengths} --requests 8")
            heads = {str((r.messages or [{}])[0]["content"])[:40] for r in requests}
            assert not heads & seen
            seen |= heads


# --- without a tokenizer -------------------------------------------------------------------------


def test_token_ids_are_exact_without_a_server() -> None:
    head, requests = made("--scenario code_generation --api completions --requests 20")
    assert (head.calibrated, head.floor_tokens, head.note) == ("token_ids", 0, None)
    assert head.asked_tokens == head.got_tokens
    assert all(isinstance(request.prompt, list) for request in requests)
    ids = {token for request in requests for token in tokens_of(request)}
    assert ids <= set(range(1000, 30_000))
    check_chains(requests)
    check_unique(requests, 0)


@settings(max_examples=25)
@given(
    st.sampled_from(sorted(SCENARIOS)),
    st.integers(1, 25),
    st.sampled_from(["leaders-first", "shuffled"]),
    st.integers(0, 99),
)
def test_chains_of_any_plan_are_its_tokens(name: str, requests: int, order: str, seed: int) -> None:
    head, planned = made(
        f"--scenario {name} --requests {requests} --order {order} --seed {seed} "
        "--context-tokens 450-500 --api completions"
    )
    check_chains(planned)
    check_unique(planned, 0)
    own = [request for request in planned if request.stratum != "sentinel"]
    assert head.requests == len(own) == requests
    assert head.cold_requests == sum(request.stratum != "follower" for request in own)


def test_without_a_server_lengths_are_said_to_be_estimates() -> None:
    out, err = kvplan("--scenario long_context_high_reuse --context-tokens 2000")
    ((head, requests),) = plans_of(out)
    assert (head.calibrated, head.got_tokens) == ("none", None)
    assert head.note is not None and "estimated" in head.note and "estimated" in err
    for request in requests:
        counted = len(tokens_of(request))
        assert request.asked_tokens is not None
        # 4 bytes a token is far from this tokenizer, and near enough to tell lengths apart.
        assert 0.8 * request.asked_tokens < counted < 2 * request.asked_tokens
    tree = PrefixTree()
    assert [request.new_tokens for request in requests] == [
        tree.add(request.blocks) for request in requests
    ]


@pytest.mark.parametrize("name", ["long_context_high_reuse", "multi_turn_conversation"])
def test_a_probe_finds_the_ratio_and_shares_no_prompt(name: str, proxy: Proxy) -> None:
    head, requests = made(
        f"--scenario {name} --context-tokens 2800 --requests 14 --url {proxy.url}/v1/"
    )
    assert (head.calibrated, head.model, head.got_tokens) == ("probe", "sim", None)
    assert head.note is not None and "probes" in head.note
    for request in requests:
        counted = len(tokens_of(request))
        assert request.prompt_tokens == pytest.approx(counted, rel=0.1)
    assert [body["max_tokens"] for body in proxy.bodies] == [1, 1]
    probes = [render_chat(body["messages"]) for body in proxy.bodies]
    for request in requests:
        ids = tokens_of(request)
        assert max(common(probe, ids) for probe in probes) < 16
    assert common(*probes) < 16


def test_completions_without_a_tokenizer_are_token_ids(proxy: Proxy) -> None:
    flags = f"--scenario cold_start --api completions --requests 4 --url {proxy.url}"
    head, requests = made(flags)
    assert (head.calibrated, head.model) == ("token_ids", "sim")
    assert all(isinstance(request.prompt, list) for request in requests)
    (probe,) = proxy.bodies
    assert len(probe["prompt"]) == 16
    assert max(common(probe["prompt"], tokens_of(request)) for request in requests) == 0


def test_ids_that_the_model_does_not_have_are_refused_beforehand(proxy: Proxy) -> None:
    flags = "--scenario cold_start --api completions --token-ids 1000-9000000"
    with pytest.raises(ToolError, match="--token-ids LO-HI"):
        kvplan(f"{flags} --url {proxy.url}")


def test_usage_that_is_missing_leaves_an_estimate(proxy: Proxy) -> None:
    proxy.hides_usage = True
    head, _ = made(f"--scenario cold_start --context-tokens 400 --url {proxy.url}")
    assert head.calibrated == "none"
    assert head.note is not None and "reports no usage" in head.note
