"""Conversation and prompt files as plans; and as traces that hold nothing of their text."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from tests.kvplan.conftest import Proxy
from tests.kvplan.test_plans import check_chains, common, kvplan, made, plans_of, tokens_of
from tests.simulated import Sim

from kvpipe.process import ToolError, UsageError
from kvpipe.records import Planned
from kvplan.trace import TraceLine, read_trace
from kvprompt.text import document


def said(seed: str, words: int = 60) -> str:
    return document(random.Random(seed), words)


def sharegpt(turns: int, seed: str) -> dict[str, Any]:
    talk = []
    for turn in range(turns):
        talk.append({"from": "human", "value": said(f"{seed}-{turn}")})
        talk.append({"from": "gpt", "value": said(f"{seed}-{turn}-answer", 30)})
    return {"id": seed, "conversations": talk}


def written(path: Path, values: Sequence[Any], *, as_list: bool = False) -> Path:
    text = json.dumps(values) if as_list else "".join(json.dumps(one) + "\n" for one in values)
    path.write_text(text, encoding="utf-8")
    return path


def own(requests: Sequence[Planned]) -> list[Planned]:
    return [request for request in requests if request.stratum != "sentinel"]


# --- conversations -------------------------------------------------------------------------------


@pytest.mark.parametrize("as_list", [True, False])
def test_sharegpt_conversations_go_turn_by_turn(as_list: bool, sim: Sim, tmp_path: Path) -> None:
    talks = [sharegpt(3, "a"), sharegpt(1, "b"), sharegpt(2, "c")]
    path = written(tmp_path / "talks.json", talks, as_list=as_list)
    head, requests = made(f"--conversations {path} --url {sim.url} --output-tokens 9")
    assert (head.scenario, head.source, head.calibrated) == ("conversations", str(path), "tokenize")
    assert (head.requests, head.sentinels, head.contexts) == (6, 3, 3)
    assert head.got_tokens == sum(request.prompt_tokens or 0 for request in requests)
    check_chains(requests)
    for at, talk in enumerate(talks):
        turns = [request for request in requests if request.group == f"conversation-{at}"]
        assert [request.turn for request in turns] == list(range(1, len(turns) + 1))
        for turn, request in enumerate(turns):
            told = [one["value"] for one in talk["conversations"][: 2 * turn + 1]]
            assert [one["content"] for one in request.messages or []] == told
            assert request.max_tokens == 9
            assert request.after == (turns[turn - 1].index if turn else None)
            assert request.stratum == (
                "follower" if turn else "leader" if len(turns) > 1 else "unique"
            )


def test_messages_keep_their_system_prompt_and_speakers_take_turns(tmp_path: Path) -> None:
    talk = {
        "messages": [
            {"role": "system", "content": "Be short."},
            {"role": "assistant", "content": "to what was cut off"},
            {"role": "user", "content": [{"type": "text", "text": "one"}]},
            {"role": "user", "content": "two"},
            {"role": "assistant", "content": "an answer"},
            {"role": "user", "content": "three"},
        ]
    }
    path = written(tmp_path / "t.jsonl", [talk, {"messages": [{"role": "system", "content": "x"}]}])
    head, requests = made(f"--conversations {path} --sentinels 0")
    assert [[one["content"] for one in request.messages or []] for request in requests] == [
        ["Be short.", "one\n\ntwo"],
        ["Be short.", "one\n\ntwo", "an answer", "three"],
    ]
    assert "1 conversations without a user's turn were left out" in (head.note or "")
    assert "estimated at 4 bytes a token: no --url" in (head.note or "")
    _, texts = made(f"--conversations {path} --sentinels 0 --api completions")
    assert texts[0].prompt == "System: Be short.\n\nUser: one\n\ntwo"


def test_a_limit_is_of_conversations(tmp_path: Path) -> None:
    path = written(tmp_path / "t.jsonl", [sharegpt(2, f"{at}") for at in range(5)])
    assert made(f"--conversations {path} --limit 2")[0].requests == 4


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            '{"conversations": [{"from": "robot", "value": "x"}]}',
            ":1: conversations[0]: said by 'robot'",
        ),
        ('[{"messages": [{"content": "x"}]}]', "[0]: messages[0]: said by nobody"),
        ('{"messages": [{"role": "user", "content": 5}]}', ":1: messages[0]: content that is not"),
        ('{"messages": []}', "no conversation in which a user says anything"),
        ('{"id": 5}', ":1: one of conversations and messages is expected"),
        ("", "no conversation"),
        ('{"messages": 7}', ":1: expected `array | null`, got `int` - at `$.messages`"),
    ],
)
def test_what_is_no_conversation_is_named(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text(text)
    with pytest.raises(ToolError) as caught:
        kvplan(f"--conversations {path}")
    assert str(caught.value).startswith(str(path)) and words in str(caught.value)


# --- prompts -------------------------------------------------------------------------------------


def test_plain_lines_are_prompts(sim: Sim, tmp_path: Path) -> None:
    shared = " ".join(said("context", 200).split())
    lines = [f"{shared} {' '.join(said(str(at), 10).split())}" for at in range(4)]
    path = tmp_path / "prompts.txt"
    path.write_text("\n".join([*lines, "", "something else"]) + "\n")
    head, requests = made(f"--prompts {path} --url {sim.url} --sentinels 1")
    assert (head.scenario, head.requests, head.sentinels) == ("prompts", 5, 1)
    check_chains(requests)
    strata = [request.stratum for request in own(requests)]
    assert strata == ["leader", *["follower"] * 3, "unique"]
    assert {request.group for request in own(requests)[:4]} == {"shared-0"}
    assert own(requests)[0].messages == [{"role": "user", "content": lines[0]}]
    _, texts = made(f"--prompts {path} --api completions --url {sim.url}")
    assert own(texts)[0].prompt == lines[0]


def test_a_log_keeps_its_times_and_lengths(tmp_path: Path) -> None:
    rows = [
        {"timestamp": "2026-01-31T12:00:00Z", "prompt": "one", "output_length": 7, "user": "x"},
        {"timestamp": "2026-01-31T12:00:02.5+00:00", "text": "two", "max_tokens": 900},
        {"timestamp": "2026-01-31T13:00:03+01:00", "messages": [{"role": "user", "content": "3"}]},
    ]
    _, requests = made(
        f"--prompts {written(tmp_path / 'log.jsonl', rows)} --sentinels 1 --output-tokens 100"
    )
    assert [request.at_s for request in own(requests)] == [0.0, 2.5, 3.0]
    assert [request.max_tokens for request in own(requests)] == [7, 100, 100]
    stamps = [request.at_s or 0.0 for request in requests]
    assert stamps == sorted(stamps)
    numbers = written(tmp_path / "n.jsonl", [{"timestamp": at, "text": "x"} for at in (500, 1500)])
    _, requests = made(f"--prompts {numbers} --time-unit ms --sentinels 0")
    assert [request.at_s for request in requests] == [0.0, 1.0]


def test_token_ids_are_exact_without_a_server(tmp_path: Path) -> None:
    rows = [{"prompt": [5, 6, 7, *range(40)]}, {"prompt": [5, 6, 9]}]
    path = written(tmp_path / "ids.jsonl", rows)
    head, requests = made(f"--prompts {path} --api completions --sentinels 1")
    assert (head.calibrated, head.note) == ("token_ids", None)
    check_chains(requests)
    with pytest.raises(ToolError, match="token ids need --api completions"):
        kvplan(f"--prompts {path}")


def test_without_tokenize_lengths_are_estimates(proxy: Proxy, tmp_path: Path) -> None:
    path = written(tmp_path / "p.jsonl", [{"text": said("x")}])
    head, _ = made(f"--prompts {path} --url {proxy.url}")
    assert (head.calibrated, head.got_tokens) == ("probe", None)
    with pytest.raises(UsageError, match="--hash-only needs /tokenize"):
        kvplan(f"--prompts {path} --hash-only --url {proxy.url}")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"prompt": "x", "text": "y"}', ":1: one of prompt, text and messages is expected"),
        ('{"text": "x"}\n{"text": ""}', ":2: the prompt is empty"),
        ('{"text": "x"}\nplain', ":2: JSON is malformed"),
        ('{"text": "x", "timestamp": "noon"}', ":1: timestamp: 'noon' is neither a number"),
        ('{"prompt": [1, -2]}', ":1: expected `int` >= 0 - at `$.prompt[1]`"),
        ('{"prompt": [1]}\n{"prompt": "x"}', "token ids and texts in one file"),
        ("\n", "empty; lines of prompts are expected"),
    ],
)
def test_what_is_no_prompt_is_named(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text(text)
    with pytest.raises(ToolError) as caught:
        kvplan(f"--prompts {path} --api completions")
    assert str(caught.value).startswith(str(path)) and words in str(caught.value)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--repeats 2", "--repeats is for --scenario and --trace, not for --prompts"),
        ("--scale 2", "--scale is for --trace, not for --prompts"),
        ("--trace-block-tokens 16", "read by --trace, made by --hash-only"),
    ],
)
def test_flags_of_other_sources_are_refused(flags: str, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        kvplan(f"--prompts nowhere {flags}")
    assert words in str(caught.value)


# --- without the text ----------------------------------------------------------------------------


def log(path: Path) -> Path:
    """Requests over a tree of prefixes, with times; some are the same twice."""
    rng = random.Random(5)
    parts = [said(f"part-{at}", 25) for at in range(6)]
    rows = []
    for at in range(24):
        text = " ".join(parts[rng.randrange(3)] for _ in range(rng.randrange(1, 4)))
        if at % 5:
            text += " " + said(f"own-{at}", 9)
        rows.append({"timestamp": 1700000000 + at * 0.25, "text": text, "output_length": at + 1})
    return written(path, rows)


def test_a_replay_of_the_hashes_shares_what_the_log_shared(sim: Sim, tmp_path: Path) -> None:
    """Round trip: from texts by the server's tokenizer to numbers, and from those to token ids."""
    path = log(tmp_path / "log.jsonl")
    out, err = kvplan(f"--prompts {path} --hash-only --url {sim.url}")
    trace = tmp_path / "trace.jsonl"
    trace.write_text(out)
    _, original = made(f"--prompts {path} --url {sim.url} --sentinels 0")
    head, again = made(f"--trace {trace} --api completions --sentinels 0")
    assert [r.prompt_tokens for r in again] == [r.prompt_tokens for r in original]
    assert [r.at_s for r in again] == [r.at_s for r in original] == [at / 4 for at in range(24)]
    assert [r.max_tokens for r in again] == list(range(1, 25))
    before, after = [tokens_of(r) for r in original], [tokens_of(r) for r in again]
    for one in range(24):
        for other in range(24):
            shared = common(before[one], before[other])
            whole = shared // 16 * 16
            if before[one] == before[other]:
                whole = shared
            assert common(after[one], after[other]) == whole
    assert (head.requests, head.calibrated) == (24, "token_ids")
    assert "no text can be tried on them" in err


def test_nothing_of_the_text_is_in_a_trace(tmp_path: Path) -> None:
    """Ids are places of first sight: other words of the same lengths leave the same bytes."""
    path = log(tmp_path / "log.jsonl")
    hidden, err = kvplan(f"--prompts {path} --hash-only --trace-block-tokens 8")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    other_words = str.maketrans("etaoinsh", "hsnioate")
    written(path, [row | {"text": row["text"].translate(other_words)} for row in rows])
    other, _ = kvplan(f"--prompts {path} --hash-only --trace-block-tokens 8")
    assert hidden == other
    ids = [one for line in hidden.splitlines() for one in json.loads(line)["hash_ids"]]
    seen: list[int] = list(dict.fromkeys(ids))
    assert seen == list(range(len(seen)))
    assert "estimated at 4 bytes a token" in err
    lines: list[TraceLine] = list(read_trace(BytesIO(hidden.encode()), "t"))
    assert len(lines) == 24 and lines[0].at_s == 0.0


def test_mooncakes_block_size_leaves_mooncakes_keys_alone(tmp_path: Path) -> None:
    path = written(tmp_path / "p.jsonl", [{"text": said("x", 3000)}, {"text": "y"}])
    out, err = kvplan(f"--prompts {path} --hash-only --trace-block-tokens 512")
    keys = {tuple(json.loads(line)) for line in out.splitlines()}
    assert keys == {("timestamp", "input_length", "output_length", "hash_ids")}
    assert "2 requests tell no time and stand at 0" in err


def test_conversations_can_be_hidden_too(tmp_path: Path) -> None:
    path = written(tmp_path / "t.jsonl", [sharegpt(3, "a")])
    out, _ = kvplan(f"--conversations {path} --hash-only -q")
    first, second, third = (json.loads(line)["hash_ids"] for line in out.splitlines())
    assert second[: len(first) - 2] == first[:-2]
    assert third[: len(second) - 2] == second[:-2]


def test_a_log_out_of_order_is_refused_with_a_way_out(tmp_path: Path) -> None:
    rows = [{"timestamp": at, "text": "x"} for at in (2, 1)]
    with pytest.raises(ToolError, match=r":2: timestamp: earlier than the line before: sort"):
        kvplan(f"--prompts {written(tmp_path / 'l.jsonl', rows)} --hash-only")


@pytest.mark.parametrize("source", ["conversations", "prompts"])
def test_packed_files_are_read_and_broken_ones_told(source: str, tmp_path: Path) -> None:
    rows = [{"messages": [{"role": "user", "content": said(f"{at}")}]} for at in range(300)]
    packed = gzip.compress(b"".join(json.dumps(row).encode() + b"\n" for row in rows))
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(packed)
    assert made(f"--{source} {path}")[0].requests == 300
    path.write_bytes(packed[:-500])
    for flags in ("", "--hash-only"):
        with pytest.raises(ToolError, match="broken gzip: Compressed file ended"):
            kvplan(f"--{source} {path} {flags}")


def test_the_same_file_and_seed_give_the_same_bytes(tmp_path: Path) -> None:
    path = written(tmp_path / "t.jsonl", [sharegpt(3, "a"), sharegpt(2, "b")])
    assert kvplan(f"--conversations {path}") == kvplan(f"--conversations {path}")
    plans = [plans_of(kvplan(f"--conversations {path} --seed {seed}")[0]) for seed in (1, 2)]
    assert plans[0] != plans[1]
