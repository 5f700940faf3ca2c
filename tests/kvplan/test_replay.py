"""Traces as plans: prompts share what the ids say, to the token, whatever they are made of."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from io import BytesIO
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.family import ROOT, environment
from tests.kvplan.conftest import Proxy
from tests.kvplan.test_plans import check_chains, common, kvplan, made, tokens_of
from tests.simulated import Sim

from kvpipe.jsonl import encode
from kvpipe.process import ToolError, UsageError
from kvpipe.records import Planned
from kvplan.lineage import lineage_of
from kvplan.measure import Measure
from kvplan.replay import Manner, Score, replayed
from kvplan.scenarios import Lengths
from kvplan.trace import TraceLine, read_trace
from kvplan.wording import Ids, Words
from kvprompt.hashes import plan_sha256, shape_sha256
from kvprompt.workload import read_plan

Shell = Callable[..., Any]
TRACE = ROOT / "tests" / "data" / "traces" / "conversation_trace.jsonl.gz"
BLOCK = 8


@st.composite
def traces(draw: st.DrawFn) -> list[TraceLine]:
    """Requests over few ids, so that prefixes branch, repeat, and end inside each other's blocks.

    As in Qwen's form an id may stand behind several beginnings.
    """
    lines = []
    for line in range(1, draw(st.integers(2, 9))):
        ids = draw(st.lists(st.integers(0, 3), min_size=1, max_size=4))
        tokens = (len(ids) - 1) * BLOCK + draw(st.integers(1, BLOCK))
        one = TraceLine(
            at_s=float(line), input_tokens=tokens, output_tokens=3, hash_ids=tuple(ids), line=line
        )
        lines.append(one)
    return lines


def replay(lines: Sequence[TraceLine], measure: Measure, wording: Any) -> list[Planned]:
    lineage = lineage_of(lambda: lines, lines, measure)
    manner = Manner(
        seed=1,
        sentinels=2,
        block_tokens=4,
        calibrated="token_ids",
        floor_tokens=0,
        model=None,
        body={},
    )
    score = Score(
        due=lambda: [(line, line.at_s) for line in lines],
        lineage=lineage,
        measure=measure,
        source="t",
    )
    seen: list[Planned] = []
    with replayed(score, manner, wording, 1, seen.append) as plan:
        text = plan.lines.read()
        ((head, requests),) = read_plan(BytesIO(encode(plan.head) + text), "plan")
    assert requests == seen
    assert head.plan_sha256 == plan_sha256(requests) == plan.head.plan_sha256
    assert head.shape_sha256 == shape_sha256(requests) == plan.head.shape_sha256
    assert plan.tokens == sum(request.prompt_tokens or 0 for request in requests)
    return requests


def own(requests: Sequence[Planned]) -> list[Planned]:
    return [request for request in requests if request.stratum != "sentinel"]


def told_in_common(one: TraceLine, other: TraceLine) -> int:
    """Tokens of the whole blocks that two requests share by their ids."""
    pairs = zip(one.hash_ids, other.hash_ids, strict=False)
    return BLOCK * sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def check_sharing(lines: Sequence[TraceLine], prompts: Sequence[list[int]]) -> None:
    for one, its in zip(lines, prompts, strict=True):
        for other, theirs in zip(lines, prompts, strict=True):
            assert common(its, theirs) == min(told_in_common(one, other), len(its), len(theirs))


@settings(max_examples=40)
@given(traces())
def test_prompts_of_ids_share_what_the_trace_says_to_the_token(lines: list[TraceLine]) -> None:
    """Of five ids only, so that siblings clash all the time."""
    requests = replay(
        lines, Measure(trace_block=BLOCK, block=BLOCK), Ids(ids=Lengths(low=10, high=14))
    )
    mine = own(requests)
    check_chains(mine)
    check_sharing(lines, [tokens_of(request) for request in mine])
    assert [request.prompt_tokens for request in mine] == [line.input_tokens for line in lines]


HEAD, FOOT = 3, 2


def spoken(request: Planned) -> list[int]:
    """The tokens of a text of one-letter words, behind a template's head and before its foot."""
    assert request.messages is not None
    words = request.messages[0]["content"].split(" ")
    return [-1, -2, *map(ord, "".join(word[0] for word in words)), -3, -4]


@settings(max_examples=40)
@given(traces())
def test_texts_lie_between_a_templates_head_and_foot(lines: list[TraceLine]) -> None:
    """Whole blocks are shared whole: only a foot in a full last block shortens what is shared."""
    measure = Measure(trace_block=BLOCK, block=BLOCK, head=HEAD, foot=FOOT)
    words = Words(words=tuple("abcde"), lead="L", sentinel_front=2)
    mine = own(replay(lines, measure, words))
    prompts = [spoken(request) for request in mine]
    for line, request, tokens in zip(lines, mine, prompts, strict=True):
        assert len(tokens) == request.prompt_tokens == measure.length(line)
        least = (
            (len(line.hash_ids) - 1) * BLOCK + 1 + FOOT + (HEAD if len(line.hash_ids) < 2 else 0)
        )
        assert len(tokens) == max(line.input_tokens, least)
    for at, (request, tokens) in enumerate(zip(mine, prompts, strict=True)):
        most = max((common(tokens, earlier) for earlier in prompts[:at]), default=0)
        assert request.new_tokens == len(tokens) - most
        for other, theirs in zip(lines, prompts, strict=True):
            said = told_in_common(lines[at], other)
            ends = min(len(tokens), len(theirs)) - FOOT
            if lines[at].hash_ids != other.hash_ids:
                assert common(tokens, theirs) == max(HEAD, min(said, ends))


def test_a_head_of_more_than_a_block_stands_before_the_blocks() -> None:
    measure = Measure(trace_block=512, block=4, head=6, foot=2)
    assert (measure.added, measure.front) == (8, 8)
    line = TraceLine(at_s=0, input_tokens=1024, output_tokens=1, hash_ids=(1, 2), line=1)
    assert (measure.asked(line), measure.length(line)) == (8, 16)


def test_scaled_blocks_are_full_only_where_they_were() -> None:
    measure = Measure(trace_block=512, block=16)
    lengths = dict.fromkeys((512, 511, 513, 1, 700), 0)
    for tokens in lengths:
        ids = tuple(range(-(-tokens // 512)))
        line = TraceLine(at_s=0, input_tokens=tokens, output_tokens=64, hash_ids=ids, line=1)
        lengths[tokens] = measure.length(line)
        assert measure.output(line) == 2
    assert lengths == {512: 16, 511: 15, 513: 17, 1: 1, 700: 16 + 5}


FLAGS = f"--trace {TRACE} --scale 1/32 --api completions"


def test_the_real_trace_in_blocks_of_sixteen() -> None:
    head, requests = made(f"{FLAGS} --limit 300 --sentinels 0")
    trace = list(read_trace(subprocess.check_output(["zcat", TRACE]).splitlines(), "t"))[:300]
    assert (head.requests, head.sentinels, head.calibrated) == (300, 0, "token_ids")
    assert head.note is not None and "blocks of 512 tokens became 16" in head.note
    assert head.asked_tokens == head.got_tokens
    for request, line in zip(requests, trace, strict=True):
        assert request.at_s == pytest.approx(line.at_s)
        assert -(-(request.prompt_tokens or 0) // 16) == len(line.hash_ids)
        assert request.max_tokens == max(1, round(line.output_tokens / 32))
    new = [request.new_tokens or 0 for request in requests]
    seen: set[int] = set()
    for line, tokens in zip(trace, new, strict=True):
        fresh = [one for one in line.hash_ids if one not in seen]
        assert -(-tokens // 16) == len(fresh)
        seen.update(line.hash_ids)


def test_siblings_by_the_thousand_begin_with_tokens_of_their_own() -> None:
    """7,373 blocks follow the trace's first one; of so many draws from 29,000 a thousand clash."""
    _, requests = made(f"{FLAGS} --sentinels 0 --limit 2000")
    firsts = [
        tuple(request.prompt[:17]) for request in requests if isinstance(request.prompt, list)
    ]
    second = {request.blocks[1].id for request in requests if len(request.blocks) > 1}
    assert len(set(firsts)) >= len(second) > 1000


def test_more_siblings_than_tokens_are_told_apart_behind_the_first() -> None:
    head, requests = made(f"{FLAGS} --limit 300 --token-ids 1000-1049 --sentinels 0")
    assert "blocks differ from a sibling only behind their first token" in (head.note or "")
    told = {request.blocks[1].id for request in requests}
    assert len({tuple(tokens_of(request)[16:22]) for request in requests}) == len(told) > 200
    with pytest.raises(ToolError, match="more than 50 blocks of 4 tokens follow the same"):
        kvplan(f"--trace {TRACE} --scale 1/128 --limit 300 --token-ids 1000-1049 --api completions")


def test_parts_of_a_trace_share_across_plans() -> None:
    """The tokens of a block do not depend on which part of the trace is planned."""
    _, early = made(f"{FLAGS} --window 0-30 --sentinels 0")
    _, late = made(f"{FLAGS} --window 30-60 --sentinels 0")
    assert isinstance(early[0].prompt, list) and isinstance(late[0].prompt, list)
    assert early[0].prompt[:16] == late[0].prompt[:16]
    assert early[0].blocks[0] == late[0].blocks[0]


def test_windows_limits_and_speed() -> None:
    head, requests = made(f"{FLAGS} --window 60-120 --speedup 4 --sentinels 0 --output-tokens 3")
    stamps = [request.at_s or 0.0 for request in requests]
    assert stamps == sorted(stamps)
    assert (stamps[0], stamps[-1]) == (0.0, pytest.approx(57 / 4, abs=0.01))
    assert max(request.max_tokens for request in requests) == 3
    assert head.note is not None
    for words in ("seconds 60 to 120", "4 times as fast", "outputs were cut to 3"):
        assert words in head.note
    assert made(f"{FLAGS} --window 60-120 --limit 5 --sentinels 0")[0].requests == 5


def test_spread_takes_the_steps_out_and_keeps_order_and_span() -> None:
    _, steps = made(f"{FLAGS} --limit 300 --sentinels 0")
    head, spread = made(f"{FLAGS} --limit 300 --sentinels 0 --spread")
    other = made(f"{FLAGS} --limit 300 --sentinels 0 --spread --seed 1")[1]
    before = [request.at_s or 0.0 for request in steps]
    after = [request.at_s or 0.0 for request in spread]
    assert len(set(before)) < 60 < 295 < len(set(after))
    assert after == sorted(after) != [request.at_s for request in other]
    assert after[0] == 0.0
    assert all(abs(late - at) < 3.01 for at, late in zip(before, after, strict=True))
    assert [r.prompt for r in steps] == [r.prompt for r in spread]
    assert head.note is not None and "spread by seed 0 over 3 s behind each of" in head.note


def test_sentinels_stand_between_the_requests_and_are_due_between_them() -> None:
    head, requests = made(f"{FLAGS} --limit 100")
    places = [r.index for r in requests if r.stratum == "sentinel"]
    assert (head.requests, head.sentinels, len(places)) == (100, 5, 5)
    assert places[0] > 0 and places[-1] < 104
    stamps = [request.at_s or 0.0 for request in requests]
    assert stamps == sorted(stamps)
    for at in places:
        sentinel = requests[at]
        assert isinstance(sentinel.prompt, list) and sentinel.nonce is not None
        assert sentinel.nonce.split() == [str(one) for one in sentinel.prompt[:20]]


def test_repeats_are_of_one_shape_and_new_tokens() -> None:
    plans = read_plan(BytesIO(kvplan(f"{FLAGS} --limit 20 --repeats 2")[0].encode()), "plan")
    (one, first), (two, second) = plans
    assert one.shape_sha256 == two.shape_sha256
    assert one.plan_sha256 != two.plan_sha256
    assert first[0].prompt != second[0].prompt


def qwen(tmp_path: Path) -> Path:
    """Two chats, each row with the whole context of its turn, and an id that comes twice in one."""
    rows = [
        {"chat_id": 1, "parent_chat_id": -1, "timestamp": 0.0, "turn": 1, "hash_ids": [1, 7, 7]},
        {"chat_id": 2, "parent_chat_id": -1, "timestamp": 0.5, "turn": 1, "hash_ids": [2, 7]},
        {"chat_id": 3, "parent_chat_id": 1, "timestamp": 9.25, "turn": 2, "hash_ids": [1, 7, 7, 9]},
    ]
    path = tmp_path / "qwen.jsonl"
    told = {"input_length": 0, "output_length": 4, "type": "text"}
    path.write_text(
        "".join(
            json.dumps(row | told | {"input_length": 16 * len(row["hash_ids"])}) + "\n"  # type: ignore[arg-type]
            for row in rows
        )
    )
    return path


def test_qwens_chats_and_blocks(tmp_path: Path) -> None:
    head, requests = made(f"--trace {qwen(tmp_path)} --api completions --sentinels 0")
    assert [request.at_s for request in requests] == [0.0, 0.5, 9.25]
    assert not any(request.turn or request.after for request in requests), "nothing waits"
    assert [request.stratum for request in requests] == ["leader", "unique", "follower"]
    assert [request.new_tokens for request in requests] == [48, 32, 16]
    assert (head.contexts, head.cold_requests) == (1, 2)
    one, two = (tokens_of(requests[at]) for at in (0, 1))
    assert one[16:32] == one[32:48] == two[16:32], "equal ids are equal tokens"
    check_chains(requests)


def test_chat_is_exact_in_the_servers_own_tokens(sim: Sim) -> None:
    head, requests = made(f"--trace {TRACE} --scale 1/8 --limit 40 --url {sim.url}")
    assert (head.calibrated, head.model, head.floor_tokens) == ("tokenize", "sim", 4)
    assert "drift" not in (head.note or "")
    for request in requests:
        assert request.prompt_tokens == len(tokens_of(request))
    assert head.got_tokens == sum(request.prompt_tokens or 0 for request in requests)
    mine = own(requests)
    check_chains(mine)
    same = [request for request in mine if request.prompt_tokens == request.asked_tokens]
    assert len(same) > 0.8 * len(mine), "a template's foot seldom needs more than the last block"
    long = [tokens_of(request) for request in mine if (request.prompt_tokens or 0) > 128]
    assert len({tuple(tokens[:64]) for tokens in long}) == 1
    assert len({tokens[64] for tokens in long}) == len(long), "siblings differ at once"


def test_a_tokenizer_that_merges_words_is_drift(sim: Sim, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server whose counts of whole prompts are not what its counts of words promised."""
    from kvplan import lexicon

    asked = lexicon.tokens_of

    async def merging(server: Any, model: str, prompt: Any) -> list[int] | None:
        tokens = await asked(server, model, prompt)
        whole = isinstance(prompt, list) and " the " not in str(prompt[0])
        return tokens[:-3] if tokens and whole else tokens

    monkeypatch.setattr(lexicon, "tokens_of", merging)
    out, err = kvplan(f"--trace {TRACE} --scale 1/16 --limit 20 --sentinels 0 --url {sim.url}")
    ((head, _),) = read_plan(BytesIO(out.encode()), "plan")
    assert (head.calibrated, head.got_tokens) == ("probe", None)
    words = "drift: 20 of 20 prompts differ from the server's own count, by up to 3 tokens"
    assert words in (head.note or "") and words in err


def test_without_a_server_chat_is_estimated_and_says_so() -> None:
    head, requests = made(f"--trace {TRACE} --scale 1/16 --limit 20")
    assert (head.calibrated, head.got_tokens) == ("none", None)
    assert "lengths are estimated, a token for each word: no --url" in (head.note or "")
    assert all(request.messages for request in requests)


def test_without_tokenize_too(proxy: Proxy) -> None:
    head, _ = made(f"--trace {TRACE} --scale 1/16 --limit 5 --url {proxy.url}")
    assert head.calibrated == "none"
    assert "no /tokenize here" in (head.note or "")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--scale 0.3", "a block of 512 tokens would be one of 153.6"),
        ("--scale 0", "--scale '0': a number above 0"),
        ("--window 9-3", "it ends before it begins"),
        ("--window x", "not A-B in seconds"),
        ("--speedup -1", "a number above 0"),
        ("--contexts 3", "--contexts is for --scenario, not for --trace"),
        ("--requests 3", "--requests is for --scenario, not for --trace"),
        ("--window 9000-9001", "no request stands in the --window"),
        ("--trace-block-tokens 16", ":1: hash_ids: 14 ids, where an input_length of 6758 is 423"),
    ],
)
def test_what_cannot_be_is_told(flags: str, words: str) -> None:
    with pytest.raises((ToolError, UsageError)) as caught:
        kvplan(f"--trace {TRACE} --api completions {flags}")
    assert words in str(caught.value)


def test_flags_of_a_trace_mean_nothing_to_a_scenario() -> None:
    with pytest.raises(UsageError, match="--speedup is for --trace, not for --scenario"):
        kvplan("--scenario cold_start --speedup 2")


def test_prompts_that_the_model_cannot_take_are_refused(sim: Sim) -> None:
    with pytest.raises(ToolError, match="sim takes 20000: a smaller --scale"):
        kvplan(f"--trace {TRACE} --limit 100 --api completions --url {sim.url}")


def test_a_pipe_is_read_as_a_file_is(sh: Shell) -> None:
    flags = "--scale 1/32 --limit 20 --api completions -q"
    done = sh(f"zcat {TRACE} | head -300 | kvplan --trace - {flags} | sed 1d | sha256sum")
    direct = sh(f"kvplan --trace {TRACE} {flags} | sed 1d | sha256sum")
    assert done.out == direct.out != ""


def test_a_named_pipe_is_read_once(sh: Shell) -> None:
    flags = "--scale 1/32 --limit 20 --window 6- --api completions -q"
    done = sh(f"kvplan --trace <(zcat {TRACE} | head -300) {flags} | sed 1d | sha256sum")
    direct = sh(f"kvplan --trace {TRACE} {flags} | tee all | sed 1d | sha256sum; head -1 all")
    assert direct.out.startswith(done.out) and done.out
    assert "seconds 6 to its end of the trace" in direct.out


@pytest.mark.parametrize("name", ["cut.gz", "-"])
def test_an_archive_that_breaks_off_is_one_line(name: str, sh: Shell) -> None:
    done = sh(f"head -c 5000 {TRACE} > cut.gz; kvplan --trace {name} < cut.gz")
    (line,) = done.err.splitlines()
    assert done.status == 2 and "broken gzip: Compressed file ended" in line


def test_two_hundred_thousand_lines_need_little_memory(tmp_path: Path) -> None:
    """Half of the blocks of a chat come again; prompts of 40 MB go by under a limit of memory."""
    path = tmp_path / "long.jsonl"
    with path.open("w") as out:
        for at in range(200_000):
            ids = [0, at // 2 + 1, 500_000 + at]
            out.write(
                f'{{"timestamp":{at},"input_length":1300,"output_length":1,"hash_ids":{ids}}}\n'
            )
    child = (
        "import resource,runpy,sys;"
        "import kvplan.tracing;"
        "base=int(open('/proc/self/statm').read().split()[0])*resource.getpagesize();"
        "resource.setrlimit(resource.RLIMIT_AS,(base+140_000_000,)*2);"
        "from kvplan.cli import main; main(sys.argv[1:])"
    )
    flags = f"--trace {path} --scale 1/64 --api completions --sentinels 0"
    done = subprocess.run(
        [sys.executable, "-c", child, *flags.split()],
        capture_output=True,
        env=environment(),
        check=False,
    )
    assert done.returncode == 0, done.stderr[-500:]
    assert b"200000 requests, 100000 of them cold" in done.stderr
    assert done.stdout.count(b"\n") == 200_001
