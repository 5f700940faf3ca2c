"""The command line of kvplan: what it refuses, in one line, and what it says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from tests.simulated import Sim

from kvplan.scenarios import SCENARIOS

Shell = Callable[..., Any]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--scenario nope", "no such scenario; there are: " + ", ".join(SCENARIOS)),
        ("--scenario cold_start --context-tokens abc", "--context-tokens 'abc': neither N nor"),
        ("--scenario cold_start --context-tokens=-5", "--context-tokens '-5'"),
        ("--scenario cold_start --context-tokens 9-5", "the lower end comes first: 5-9"),
        ("--scenario cold_start --context-tokens 31", "at least 32"),
        ("--scenario cold_start --requests 0", "--requests '0': a whole number of 1 or more"),
        ("--scenario cold_start --requests ٣", "--requests"),
        ("--scenario cold_start --extra-body [1]", "a JSON object is expected"),
        ("--scenario cold_start --extra-body {", "not JSON"),
        ("--scenario cold_start --header x --url http://127.0.0.1:9", "write 'Name: value'"),
        ("--scenario cold_start --model m", "need --url, which is not given"),
        ("--scenario cold_start --url http://127.0.0.1:9", "connection refused"),
        ("--scenario cold_start --url nowhere", "not an http URL"),
        ("--scenario code_generation --contexts 99", "only 24 of 30 requests"),
        ("--scenario cold_start --url http://127.0.0.1:9 --api-key-file no.txt", "no such file"),
    ],
)
def test_what_cannot_be_is_one_line_and_status_2(flags: str, words: str, sh: Shell) -> None:
    done = sh(f"kvplan {flags}")
    assert (done.status, done.out) == (2, "")
    (line,) = done.err.splitlines()
    assert line.startswith("kvplan: ")
    assert words in line


def test_a_prompt_that_the_model_does_not_take_is_refused(sim: Sim, sh: Shell) -> None:
    flags = f"--scenario cold_start --url {sim.url} --output-tokens 100"
    done = sh(f"kvplan {flags} --context-tokens 19900 --requests 2")
    assert (done.status, done.out) == (2, "")
    assert "sim takes 20000: lower --context-tokens or --output-tokens" in done.err
    assert sh(f"kvplan {flags} --context-tokens 19836 --requests 1 --sentinels 0").status == 0


def test_a_wrong_model_names_those_served(sim: Sim, sh: Shell) -> None:
    done = sh(f"kvplan --scenario cold_start --url {sim.url} --model other")
    assert (done.status, done.out) == (2, "")
    assert "served: sim" in done.err


def test_one_line_tells_asked_and_got(sim: Sim, sh: Shell) -> None:
    flags = f"--scenario cold_start --context-tokens 400 --requests 5 --url {sim.url}"
    done = sh(f"kvplan {flags}")
    assert done.err == (
        "kvplan: cold_start: 5 requests, 5 of them cold, and 3 sentinels; "
        "asked for 3712 prompt tokens, got 3712 (tokenize)\n"
    )
    assert sh(f"kvplan {flags} --quiet").err == ""


def test_flags_reach_the_requests(sh: Shell) -> None:
    done = sh(
        "kvplan --scenario cold_start --context-tokens 100 --requests 2 --sentinels 0 "
        """--output-tokens 7 --extra-body '{"top_k": 1}' --block-tokens 32"""
    )
    assert done.out.count('"max_tokens":7') == done.out.count('"body":{"top_k":1}') == 2
    assert '"block_tokens":32' in done.out
    assert '"sentinels":0' in done.out


def test_a_key_and_headers_are_sent_and_not_recorded(sh: Shell) -> None:
    from tests.simulated import kvsim

    with kvsim("--api-key", "k3y") as engine:
        flags = f"--scenario cold_start --context-tokens 100 --requests 2 --url {engine.url}"
        refused = sh(f"kvplan {flags}")
        assert (refused.status, refused.out) == (2, "")
        assert "needs a key" in refused.err
        for way in ("OPENAI_API_KEY=k3y kvplan", "echo k3y > f; kvplan --api-key-file f"):
            done = sh(f"{way} {flags}")
            assert done.status == 0
            assert "k3y" not in done.out + done.err
        assert sh(f"kvplan {flags} --header 'Authorization: Bearer k3y'").status == 0
