"""The simulator's door: any body is a request, or an error object in the words of vLLM."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st
from tests.fuzz.fuzzing import fuzzed
from tests.fuzz.mutation import broken_object

from kvsim.intake import read_ask, read_body
from kvsim.options import NodeOptions
from kvsim.refusals import Refused

BODIES: list[Any] = [
    {
        "model": "sim", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 3,
        "temperature": 0, "top_p": 1, "n": 1, "stream": True, "seed": 1, "min_tokens": 1,
        "stream_options": {"include_usage": True}, "ignore_eos": True, "cache_salt": "s",
        "logprobs": True, "top_logprobs": 2, "return_token_ids": True,
    },
    {
        "model": "sim", "prompt": "Hello", "max_tokens": 3, "logprobs": 2, "echo": False,
        "stream": False, "kv_transfer_params": {"do_remote_decode": True},
    },
    {"model": "sim", "prompt": [[1, 2, 3], [4]], "max_tokens": 3},
    {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}]},
]  # fmt: skip


@fuzzed(st.tuples(broken_object(BODIES), st.booleans()), examples=250)
def test_any_body(case: tuple[bytes, bool]) -> None:
    """kvsim: bodies of requests, as its node reads them"""
    raw, chat = case
    try:
        ask = read_ask(read_body(raw, "application/json"), chat, NodeOptions(), None)
    except Refused as refused:
        assert 400 <= refused.status < 500
        said = json.loads(refused.body())["error"]
        assert said["code"] == refused.status
    else:
        assert ask.prompt_tokens > 0 and ask.max_tokens > 0 and ask.n > 0
