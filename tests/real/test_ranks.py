"""kvclear against one real vLLM server with two data-parallel ranks, and a store through its nodes.

The server is started here, by the flags of the stack and one more.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.real.engine import BLOCK_TOKENS, Stack, kvclear, proofs, random_prompt, whole_blocks

ROOT = Path(__file__).resolve().parents[2]
LENGTH = 1_500
START_S = 300.0

FLAGS = [
    *("--served-model-name", "tiny", "--host", "127.0.0.1", "--max-model-len", "16384"),
    *("--max-num-seqs", "8", "--enforce-eager", "--dtype", "bfloat16", "--enable-prefix-caching"),
    *("--enable-prompt-tokens-details", "--data-parallel-size", "2"),
]
ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_SERVER_DEV_MODE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "PYTHONHASHSEED": "0",
}


@pytest.fixture(scope="module")
def ranks(real_stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of the server. The stack beside it has made the model by then."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    python = ROOT / (os.environ.get("KV_REAL_VENV") or ".venv-real") / "bin" / "python"
    module = "vllm.entrypoints.openai.api_server"
    command = [python, "-m", module, "--model", ROOT / ".cache-real" / "model", *FLAGS]
    log = tmp_path_factory.mktemp("ranks") / "server.log"
    with (
        log.open("w") as out,
        subprocess.Popen(
            [*map(str, command), "--port", str(port)],
            env={**os.environ, **ENVIRONMENT},
            stdout=out,
            stderr=out,
        ) as process,
    ):
        try:
            url = f"http://127.0.0.1:{port}"
            await_health(url, process, log)
            yield url
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()


def await_health(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_S
    while True:
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=5):
                return
        except OSError:
            gone = process.poll() is not None or time.monotonic() > deadline
            if gone:
                pytest.fail(f"the server did not start:\n{log.read_text()[-4000:]}", pytrace=False)
            time.sleep(0.5)


def cached(url: str, rank: int, prompt: list[int]) -> int:
    """Tokens that one rank reports as cached for a prompt."""
    request = urllib.request.Request(
        f"{url}/v1/completions",
        data=json.dumps({"model": "tiny", "prompt": prompt, "max_tokens": 1}).encode(),
        headers={"Content-Type": "application/json", "X-data-parallel-rank": str(rank)},
    )
    with urllib.request.urlopen(request, timeout=120) as answer:
        usage = json.loads(answer.read())["usage"]
    return int(usage["prompt_tokens_details"]["cached_tokens"])


def test_every_rank_has_a_cache_of_its_own_and_each_is_shown_empty(ranks: str) -> None:
    prompt = random_prompt("ranks", LENGTH)
    assert cached(ranks, 1, prompt) == 0
    assert cached(ranks, 0, prompt) == 0, "not the other rank's"
    assert cached(ranks, 1, prompt) == whole_blocks(LENGTH)

    status, record = kvclear("--vllm", ranks)

    assert (status, record["verified"]) == (0, True)
    places = sorted(proof["where"].rpartition(" rank ")[2] for proof in proofs(record, "engine"))
    assert places == ["0", "0", "1", "1"]
    assert all(
        proof["control_tokens"] >= 2 * BLOCK_TOKENS and proof["after_tokens"] == 0
        for proof in proofs(record, "engine")
    )
    assert [cached(ranks, rank, prompt) for rank in (0, 1)] == [0, 0]
    others = [step for step in record["steps"] if step["what"].endswith(("mm cache", "der cache"))]
    assert [(step["answer"], step["ok"]) for step in others] == [("200 (empty)", None)] * 2


def test_a_store_is_emptied_through_its_nodes_where_it_is_not_named(empty_stack: Stack) -> None:
    """MooncakeStoreConnector is one of the few whose `reset_external` acts."""
    prompt = random_prompt("through the nodes", LENGTH)
    empty_stack.a.complete(prompt)
    empty_stack.store.wait_for_objects(LENGTH // BLOCK_TOKENS)

    status, record = kvclear("--vllm", empty_stack.node_a, "--vllm", empty_stack.node_b, "--global")

    external = [step for step in record["steps"] if step["what"] == "reset external cache"]
    assert [step["ok"] for step in external] == [None, None], "never evidence"
    assert all(step["answer"].startswith("MooncakeStoreConnector") for step in external)
    assert (status, record["verified"]) == (0, True)
    assert empty_stack.a.complete(prompt).cached_tokens == 0
