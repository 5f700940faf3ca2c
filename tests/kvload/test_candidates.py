"""`--keep-output` asks for log probabilities where the server gives them, and goes on without."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from tests.family import environment
from tests.simulated import FAST, kvsim

from kvengine.server import Server
from kvload.candidates import CANDIDATES, fields_of, why_none

SHAPE = (
    *("--scenario", "long_context_high_reuse", "--requests", "4", "--contexts", "1"),
    *("--context-tokens", "200", "--output-tokens", "6", "--pause", "0", "--warmup", "0"),
)


def load(url: str, *flags: str) -> tuple[list[dict[str, Any]], str]:
    """Records and what was said on stderr."""
    done = subprocess.run(
        ["kvload", "--url", url, *SHAPE, *flags],
        capture_output=True,
        env=environment(),
        timeout=120,
        check=True,
        text=True,
    )
    return [json.loads(line) for line in done.stdout.splitlines()], done.stderr


def requests(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [one for one in records if one["record"] == "request"]


@pytest.mark.parametrize("api", ["chat", "completions"])
def test_kept_answers_have_their_candidates(api: str) -> None:
    with kvsim(*FAST) as sim:
        records, said = load(sim.url, "--keep-output", "--api", api, "--rounds", "1")
    assert f"with the {CANDIDATES} likeliest tokens" in said
    for one in requests(records):
        assert one["output_text"] and len(one["logprobs"]) == one["output_tokens"]
    tops = requests(records)[0]["logprobs"][0]["top_logprobs"]
    assert len(tops if api == "chat" else tops[0]) == CANDIDATES
    codes = {one["code"] for record in records for one in record.get("findings") or ()}
    assert "foreign_traffic" not in codes


def test_nothing_is_asked_for_without_keep_output() -> None:
    with kvsim(*FAST) as sim:
        records, said = load(sim.url, "--rounds", "1")
    assert "kept" not in said
    assert {one["logprobs"] for one in requests(records)} == {None}


def test_the_question_is_nobodys_traffic(tmp_path: Path) -> None:
    """It is counted before the first round begins."""
    with kvsim(*FAST) as sim:
        records, _ = load(sim.url, "--keep-output", "--rounds", "1")
    path = tmp_path / "run.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in records))
    done = subprocess.run(
        ["kvstats", path], capture_output=True, env=environment(), check=True, text=True
    )
    stats = json.loads(done.stdout)
    assert stats["cold_proof"] == "proven"
    assert "foreign_traffic" not in {one["code"] for one in stats["findings"]}


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ({"status": 400, "text": '{"error":{"message":"logprobs is not supported"}}'}, "not supp"),
        ({"text": '{"choices":[{"logprobs":null}]}'}, "carry none"),
        ({"text": '{"choices":[]}'}, "carry none"),
        ({"text": "hello"}, "carry none"),
        ({"text": '{"choices":[{"logprobs":{"content":[]}}]}'}, None),
    ],
)
async def test_a_server_without_them_is_told_by_one_short_request(
    answer: dict[str, Any], reason: str | None
) -> None:
    asked: list[dict[str, Any]] = []

    async def complete(request: web.Request) -> web.Response:
        asked.append(await request.json())
        return web.Response(**answer)

    app = web.Application()
    app.router.add_post("/v1/chat/completions", complete)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        port = runner.addresses[0][1]
        async with Server(f"http://127.0.0.1:{port}") as server:
            found = await why_none(server, "m", "chat")
    finally:
        await runner.cleanup()
    assert (found is None) == (reason is None) and (reason or "") in (found or "")
    assert len(asked) == 1 and asked[0]["max_tokens"] == 1
    assert asked[0] | fields_of("chat", CANDIDATES) == asked[0]
