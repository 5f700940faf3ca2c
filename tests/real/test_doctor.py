"""kvdoctor against real vLLM nodes around a real Mooncake store, healthy and not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.real.engine import BLOCK_TOKENS, Stack, stack_up, tool

from kvdoctor.probes.acquaintance import meet
from kvengine.server import Server

OF_THIS_MACHINE = {"client_throttled", "open_files_low", "ports_few", "clock_slow"}


def kvdoctor(*flags: str) -> tuple[int, dict[str, dict[str, Any]]]:
    """Status, and findings by code; where one code has several the last one stays."""
    done = tool("kvdoctor", *flags)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    return done.returncode, {one["code"]: one for one in found}


def bad(found: dict[str, dict[str, Any]]) -> set[str]:
    return {code for code, one in found.items() if one["severity"] != "info"} - OF_THIS_MACHINE


def test_a_healthy_pair_is_left_in_peace(empty_stack: Stack) -> None:
    """Local hits, hits after a reset, hits on the other node, salts: all in order."""
    nodes = ("--url", empty_stack.node_a, "--url", f"{empty_stack.node_b}/v1")
    status, found = kvdoctor(*nodes, "--engine", f"mooncake={empty_stack.mooncake}", "--reset")
    assert bad(found) == set()
    assert status == (1 if found.keys() & OF_THIS_MACHINE else 0)
    assert found["smallest_hit"]["evidence"]["block_tokens"] == BLOCK_TOKENS
    assert not found["examined"]["simulated"]
    assert found["examined"]["evidence"]["prompts"] <= 40


async def test_a_node_tells_how_it_is_configured(real_stack: Stack) -> None:
    """What two nodes are compared by comes from `/server_info` and an info metric."""
    async with Server(real_stack.node_a) as server:
        seen = await meet(server, None, endpoint=True)
    assert seen.trouble is None
    held = seen.config
    assert (held.block_tokens, held.prefix_caching) == (BLOCK_TOKENS, True)
    assert (held.dtype, held.quantization, held.cache_dtype) == ("torch.bfloat16", "none", "auto")
    assert (held.connector, held.connector_role) == ("MooncakeStoreConnector", "kv_both")
    assert (held.tensor_parallel, held.hash_algorithm) == (1, "sha256")
    assert seen.reset_status == 405
    assert seen.reach == "loopback"
    assert "POST /reset_prefix_cache" in seen.open_routes
    assert seen.head is not None and "user" in (seen.head.text or "")


def test_a_node_without_a_connector_and_without_its_routes(
    real_stack: Stack, tmp_path: Path
) -> None:
    alone = ("--nodes", "1", "--connector", "none", "--node-env", "VLLM_SERVER_DEV_MODE=0")
    with stack_up(tmp_path, *alone) as up:
        (plain,) = up["nodes"]
        status, found = kvdoctor(
            *("--url", real_stack.node_a, "--url", plain),
            *("--engine", f"mooncake={real_stack.mooncake}"),
        )
        assert status == 1
        assert bad(found) == {"no_connector", "remote_miss", "reset_missing"}
        assert {found[code]["where"] for code in bad(found)} == {plain}
        assert f"{plain} has no connector" in found["remote_miss"]["seen"]
        assert "VLLM_SERVER_DEV_MODE=1" in found["reset_missing"]["change"]

        # The other way round: what is stored there is stored nowhere else.
        status, found = kvdoctor("--url", plain, "--url", real_stack.node_a)
        assert bad(found) == {"no_connector", "remote_miss", "reset_missing"}
        assert found["remote_miss"]["where"] == real_stack.node_a
        assert f"{plain} has no connector" in found["remote_miss"]["seen"]
