"""Salts and nonces: new names for the same shape."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvpipe.process import ToolError
from kvpipe.records import Block, Planned, SaltWay
from kvprompt.hashes import plan_sha256, shape_sha256
from kvprompt.salt import NONCE_LETTERS, letters, new_salt, salted, with_nonce

CHAT = Planned(
    index=0,
    stratum="leader",
    group="g",
    messages=[{"role": "user", "content": "What is it?"}, {"role": "assistant", "content": "It."}],
    max_tokens=4,
    asked_tokens=9,
    blocks=[Block("a", 4), Block("b", 5)],
    body={"kv_transfer_params": {"other": 1}, "seed": 3},
)
TEXT = msgspec.structs.replace(CHAT, messages=None, prompt="What is it?")
IDS = msgspec.structs.replace(CHAT, messages=None, prompt=list(range(500, 540)))
PLACEHOLDER = letters("longer than any seed below", 20)


def sentinel(**content: object) -> Planned:
    return msgspec.structs.replace(
        CHAT, stratum="sentinel", group=None, **{"messages": None, "prompt": None} | content
    )


SENTINELS = [
    sentinel(
        messages=[{"role": "user", "content": f"{PLACEHOLDER}. Read this."}], nonce=PLACEHOLDER
    ),
    sentinel(prompt=f"{PLACEHOLDER}. Read this.", nonce=PLACEHOLDER),
    sentinel(prompt=list(range(700, 760)), nonce=" ".join(map(str, range(700, 712)))),
]


@pytest.mark.parametrize("planned", [CHAT, TEXT, IDS])
@pytest.mark.parametrize("way", ["none", "cache_salt", "lmcache_tag", "prompt_head"])
def test_salts_keep_the_shape_and_part_namespaces(planned: Planned, way: SaltWay) -> None:
    one, same, other = (salted(planned, salt, way, "completions") for salt in ("a", "a", "b"))
    assert one == same
    assert (one == other) is (way == "none")
    assert shape_sha256([one]) == shape_sha256([planned])
    assert one.blocks == planned.blocks


def test_each_way_puts_the_salt_where_its_engine_looks() -> None:
    assert salted(CHAT, "s", "cache_salt", "chat").body["cache_salt"] == "s"
    params = salted(CHAT, "s", "lmcache_tag", "chat").body["kv_transfer_params"]
    assert params == {"other": 1, "lmcache.tag.kvload": "s"}
    head = salted(CHAT, "s", "prompt_head", "chat").messages
    assert head is not None and head[0]["content"].endswith(")\nWhat is it?")
    assert head[1:] == CHAT.messages[1:]  # type: ignore[index]
    ids = salted(IDS, "s", "prompt_head", "completions").prompt
    assert isinstance(ids, list) and ids[-40:] == IDS.prompt and len(ids) == 56


def test_a_salt_never_changes_the_plan_itself() -> None:
    before = msgspec.json.encode(CHAT)
    salted(CHAT, "s", "lmcache_tag", "chat")
    salted(CHAT, "s", "prompt_head", "chat")
    assert msgspec.json.encode(CHAT) == before


def test_parts_of_a_message_get_the_salt_as_a_part() -> None:
    parts = [{"type": "text", "text": "look"}]
    planned = msgspec.structs.replace(CHAT, messages=[{"role": "user", "content": parts}])
    got = salted(planned, "s", "prompt_head", "chat").messages
    assert got is not None and got[0]["content"][1:] == parts and len(parts) == 1


def test_token_ids_cannot_go_to_chat() -> None:
    with pytest.raises(ToolError, match="--api completions"):
        salted(IDS, "s", "cache_salt", "chat")


@pytest.mark.parametrize("planned", [CHAT, TEXT, IDS])
@pytest.mark.parametrize("way", ["cache_salt", "lmcache_tag"])
def test_the_plan_hash_is_before_salts(planned: Planned, way: SaltWay) -> None:
    assert plan_sha256([salted(planned, "s", way, "completions")]) == plan_sha256([planned])


@pytest.mark.parametrize("planned", SENTINELS, ids=["chat", "text", "ids"])
@given(seed=st.text(max_size=8))
def test_a_nonce_is_new_and_as_long(planned: Planned, seed: str) -> None:
    fresh = with_nonce(planned, seed)
    again = with_nonce(fresh, seed + "x")
    assert fresh == with_nonce(planned, seed)
    assert len({planned.nonce, fresh.nonce, again.nonce}) == 3
    assert shape_sha256([fresh]) == shape_sha256([planned])
    assert plan_sha256([fresh]) == plan_sha256([planned])
    assert [block.tokens for block in fresh.blocks] == [block.tokens for block in planned.blocks]
    assert fresh.blocks[0] == planned.blocks[0] and fresh.blocks[1] != planned.blocks[1]
    if isinstance(planned.prompt, list):
        assert isinstance(fresh.prompt, list) and len(fresh.prompt) == len(planned.prompt)
        assert set(fresh.prompt) <= set(planned.prompt)
        assert fresh.prompt[12:] == planned.prompt[12:]
    else:
        assert fresh.nonce is not None and planned.nonce is not None
        text = fresh.prompt or (fresh.messages or [{}])[0]["content"]
        assert text == f"{fresh.nonce}. Read this."
        assert len(fresh.nonce) == len(planned.nonce)


def test_only_sentinels_have_nonces() -> None:
    assert with_nonce(CHAT, "s") is CHAT


def test_letters_are_single_and_parted() -> None:
    words = letters("x", 30).split(" ")
    assert len(words) == 30 and set("".join(words)) <= set(NONCE_LETTERS)


def test_salts_do_not_repeat() -> None:
    assert len({new_salt() for _ in range(100)}) == 100
