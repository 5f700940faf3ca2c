"""How the real engines end, and what is left then: a death in mid-request, a store without nodes.

Each arrangement here is a stack of its own, because it is broken on purpose. A node is told to
outlive its engine (VLLM_KEEP_ALIVE_ON_ENGINE_DEATH): by default its server follows within five
seconds, so that what it answers until then could be seen only by chance.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.family import environment
from tests.real.engine import (
    BLOCK_TOKENS,
    PATIENCE_S,
    Node,
    Stack,
    call,
    random_prompt,
    samples,
    stack_up,
    tool,
    until,
    whole_blocks,
)
from tests.real.pipeline import Record, lines, of_kind
from tests.real.test_mooncake_client import free_port, real

from kvengine import mooncake
from kvengine.server import Server

pytestmark = [pytest.mark.real, pytest.mark.usefixtures("installed_stack")]

LENGTH = 1_500
BLOCKS = LENGTH // BLOCK_TOKENS
TOO_LONG = 12_000  # output tokens: minutes of work, which the death cuts short
LOAD = "--scenario cold_start --requests 2 --sentinels 1 --context-tokens 500 --rounds 1 --pause 0"


def status_of(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=PATIENCE_S) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as refusal:
        refusal.close()
        return refusal.code


# --- an engine that dies in mid-request ----------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Death:
    """What was seen of it. `events`: the data of a plain client's stream, as they came."""

    http_status: int
    events: list[str]
    load_status: int
    records: list[Record]
    stats: subprocess.CompletedProcess[str]
    codes: dict[str, int]  # what the node answers afterwards, by path
    next_load: subprocess.CompletedProcess[str]
    clear: subprocess.CompletedProcess[str]


class Stream(threading.Thread):
    """A plain client that reads one streamed completion to its end."""

    def __init__(self, node: Node) -> None:
        super().__init__(daemon=True)
        body = {"model": node.model, "prompt": random_prompt("dies", 300), "stream": True}
        self._request = urllib.request.Request(
            f"{node.url}/v1/completions",
            data=json.dumps(body | {"max_tokens": TOO_LONG, "ignore_eos": True}).encode(),
            headers={"Content-Type": "application/json"},
        )
        self.http_status = 0
        self.events: list[str] = []

    def run(self) -> None:
        with urllib.request.urlopen(self._request, timeout=PATIENCE_S) as answer:
            self.http_status = answer.status
            for line in answer:
                if line.startswith(b"data: "):
                    self.events.append(line.decode().removeprefix("data: ").rstrip())


def engine_of(server: int) -> int:
    """Id of the engine's process: the child of an API server that bears the name."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                name, _, rest = (entry / "stat").read_text().rpartition(")")
            except OSError:
                continue
            if int(rest.split()[1]) == server and "(VLLM::EngineCor" in name:
                return int(entry.name)
    raise AssertionError(f"no engine under process {server}")


def written(node: Node) -> float:
    """Output tokens so far."""
    return sum(samples(f"{node.url}/metrics", "vllm:generation_tokens_total").values())


def die(node: Node, server: int, folder: Path) -> Death:
    path, stream = folder / "death.jsonl", Stream(node)
    load = f"kvload --url {node.url} {LOAD} --warmup 0 --salt none"
    stream.start()
    until(lambda: len(stream.events) > 1, "token in the plain stream")
    with (
        path.open("w") as out,
        subprocess.Popen(
            [*load.split(), "--output-tokens", str(TOO_LONG)], stdout=out, env=environment()
        ) as process,
    ):
        running = f"{node.url}/metrics"
        until(
            lambda: sum(samples(running, "vllm:num_requests_running").values()) == 2, "two requests"
        )
        before = written(node)
        until(lambda: written(node) >= before + 40, "tokens of both")
        os.kill(engine_of(server), signal.SIGKILL)
        until(lambda: status_of(f"{node.url}/health") != 200, "bad health")
        codes = {p: status_of(f"{node.url}{p}") for p in ("/health", "/v1/models", "/metrics")}
        # A dead engine counts its last requests as running for ever, and each tool waits half a
        # minute for their end: all at the same time.
        with ThreadPoolExecutor() as pool:
            next_load = pool.submit(tool, *load.split(), "--output-tokens", "4")
            clear = pool.submit(tool, "kvclear", "--vllm", node.url)
        load_status = process.wait(timeout=PATIENCE_S)
    stream.join(PATIENCE_S)
    return Death(
        http_status=stream.http_status,
        events=stream.events,
        load_status=load_status,
        records=lines(path),
        stats=tool("kvstats", str(path)),
        codes=codes,
        next_load=next_load.result(),
        clear=clear.result(),
    )


@dataclass(frozen=True, kw_only=True)
class Broken:
    """Two nodes and their store, after the engine of the first was killed."""

    stack: Stack
    servers: tuple[int, int]
    keys_before: int
    death: Death


@pytest.fixture(scope="module")
def broken(installed_stack: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broken]:
    folder = tmp_path_factory.mktemp("broken")
    with stack_up(folder, "--node-env", "VLLM_KEEP_ALIVE_ON_ENGINE_DEATH=1") as up:
        stack = Stack(
            node_a=up["nodes"][0], node_b=up["nodes"][1], mooncake=up["master"], model=up["model"]
        )
        _master, *servers = up["pids"]
        for node in (stack.a, stack.b):
            node.complete(random_prompt(node.url, LENGTH))
        stack.store.wait_for_objects(2 * BLOCKS)
        keys = stack.store.keys()
        yield Broken(
            stack=stack,
            servers=(servers[0], servers[1]),
            keys_before=keys,
            death=die(stack.a, servers[0], folder),
        )


def test_a_dying_engine_ends_its_streams_as_if_all_were_well(broken: Broken) -> None:
    death = broken.death
    assert death.http_status == 200
    *tokens, error, last = death.events
    assert len(tokens) > 1 and all(json.loads(token)["choices"] for token in tokens)
    assert "error" in json.loads(error)
    assert last == "[DONE]"


def test_only_health_tells_of_a_dead_engine(broken: Broken) -> None:
    assert broken.death.codes == {"/health": 503, "/v1/models": 200, "/metrics": 200}


def test_kvload_calls_none_of_it_ok(broken: Broken) -> None:
    death = broken.death
    first, *others = of_kind(death.records, "request")
    assert (first["status"], first["http_status"]) == ("stream_error", 200)
    assert "engine" in first["error"].lower()
    assert first["output_tokens"] > 1 and first["finish_reason"] is None
    assert [(one["status"], one["http_status"]) for one in others] == 2 * [("http_error", 500)]
    end = death.records[-1]
    assert (end["record"], end["planned"], end["ok"], end["failed"]) == ("end", 3, 0, 3)
    assert death.load_status == 1


def test_kvstats_makes_no_figure_of_it(broken: Broken) -> None:
    stats = broken.death.stats
    assert stats.returncode == 1
    assert json.loads(stats.stdout)["avg_ttft"] is None


def test_the_next_run_is_refused_in_one_line(broken: Broken) -> None:
    """The node still lists its model, so that only /health tells before anything is sent."""
    after = broken.death.next_load
    assert (after.returncode, after.stdout) == (2, "")
    [line] = after.stderr.splitlines()
    assert "/health answers 503" in line


def test_kvclear_does_not_clear_a_dead_engine(broken: Broken) -> None:
    """Its server lives, so that the clear is tried: each of its steps fails, and it says so."""
    clear = broken.death.clear
    record = json.loads(clear.stdout)
    assert clear.returncode == 1 and record["verified"] is not True
    [reset] = [step for step in record["steps"] if step["what"] == "reset prefix cache"]
    assert reset["ok"] is False and reset["answer"].startswith("500 ")


# --- a store without nodes -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def deserted(broken: Broken) -> Stack:
    """The store of two nodes that both were stopped. The master lives."""
    for server in broken.servers:
        os.kill(server, signal.SIGTERM)
    # The master believes in a client for ten more seconds.
    until(lambda: broken.stack.store.keys() == 0, "store without keys")
    return broken.stack


def test_the_objects_lived_in_the_nodes(broken: Broken, deserted: Stack) -> None:
    assert broken.keys_before >= 2 * BLOCKS
    assert call(f"{deserted.mooncake}/health")
    assert deserted.store.keys() == 0
    assert samples(f"{deserted.mooncake}/metrics", "master_active_clients") == {"": 0.0}


def test_kvengine_sees_an_empty_store(deserted: Stack) -> None:
    async def look() -> tuple[frozenset[str] | None, int | None]:
        async with Server(deserted.mooncake) as server:
            return await mooncake.keys(server), await mooncake.key_count(server)

    assert asyncio.run(look()) == (frozenset(), 0)


def test_kvclear_does_not_take_a_deserted_store_for_a_cleared_one(deserted: Stack) -> None:
    done = tool("kvclear", "--mooncake", deserted.mooncake, "--global")
    record = json.loads(done.stdout)
    assert (done.returncode, record["verified"]) == (1, None)
    [proof] = record["proofs"]
    assert (proof["keys_before"], proof["keys_after"]) == (0, 0)

    with_node = tool("kvclear", "--vllm", deserted.node_b, "--mooncake", deserted.mooncake)
    assert (with_node.returncode, with_node.stdout) == (2, "")
    assert "connection refused" in with_node.stderr


# --- a store client that is killed ---------------------------------------------------------------

CLIENT = """
import sys
from mooncake.store import MooncakeDistributedStore
at, metadata, master = sys.argv[1:]
store = MooncakeDistributedStore()
print("setup", store.setup(at, metadata, 64 << 20, 16 << 20, "tcp", "", master), flush=True)
sys.stdin.readline()
"""


def setup_and_kill(*arguments: str) -> int:
    """What the setup of a store client says, which is killed then."""
    with subprocess.Popen(
        [real("python"), "-c", CLIENT, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            # The library prints beside it.
            said = next(line for line in process.stdout if line.startswith("setup "))
        finally:
            process.kill()
    return int(said.split()[1])


def test_after_a_killed_client_the_next_at_its_address_fails_once() -> None:
    """Only with a metadata server, which keeps what the dead one said of itself."""
    rpc, admin, metadata = free_port(), free_port(), free_port()
    flags = [f"--rpc_port={rpc}", f"--metrics_port={admin}", "--rpc_address=127.0.0.1"]
    flags += ["--metrics_host=127.0.0.1", "--enable_http_metadata_server=true"]
    flags += [f"--http_metadata_server_port={metadata}"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    master = subprocess.Popen([real("mooncake_master"), *flags], **quiet)

    def is_up() -> bool:
        try:
            return status_of(f"http://127.0.0.1:{admin}/health") == 200
        except OSError:
            return False

    try:
        until(is_up, "master")
        at = f"127.0.0.1:{free_port()}"
        words = (at, f"http://127.0.0.1:{metadata}/metadata", f"127.0.0.1:{rpc}")
        assert [setup_and_kill(*words) for _ in range(3)] == [0, -600, 0]
    finally:
        master.terminate()
        master.wait(timeout=PATIENCE_S)


# --- a connector that knows whole prompts only ---------------------------------------------------


def test_example_connector_hits_the_same_prompt_and_no_longer_one(tmp_path: Path) -> None:
    with stack_up(tmp_path, "--nodes", "1", "--connector", "example") as up:
        node = Node(url=up["nodes"][0], model=up["model"])
        prompt, tail = random_prompt("whole", LENGTH), random_prompt("tail", 3 * BLOCK_TOKENS)
        cached = []
        for sent in (prompt, prompt + tail, prompt, prompt + tail):
            cached.append(node.complete(sent).cached_tokens)
            node.reset()  # so that only the folder can give
        longer = whole_blocks(LENGTH + len(tail))
        assert cached == [0, 0, whole_blocks(LENGTH), longer]
