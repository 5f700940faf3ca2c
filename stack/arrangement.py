"""What the real stack consists of: the commands, environments and ports of its processes.

One Mooncake master, and vLLM nodes that share their KV blocks through it
(MooncakeStoreConnector), or through a folder (ExampleConnector, vLLM's example, which knows no
salts and no reset), or not at all (none). Or, without a master,
nodes around one `lmcache server` (LMCacheMPConnector).
Or a prefiller and a decoder (NixlConnector) behind kvsim's proxy, with nothing simulated behind it.
Values only: nothing is started, claimed or written here.
"""

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import places

HOST = "127.0.0.1"
SERVED_NAME = "tiny"
MAX_CONTEXT_TOKENS = 16_384
Connector = Literal["mooncake", "example", "none", "lmcache-mp", "nixl"]
# Explicit, because Mooncake's default differs between versions (5 s, then 10 s), and the
# tests on leases stand on it.
LEASE_MS = 5_000

# First choices; a taken one gives way to the next free port.
NODE_PORT = 8101
MASTER_RPC_PORT = 50061
MASTER_HTTP_PORT = 9013
LOOKUP_PORT = 7100
LMCACHE_PORT = 5555
LMCACHE_HTTP_PORT = 8280  # not LMCache's 8080, which everybody takes
PROXY_PORT = 9100
SIDE_CHANNEL_PORT = 5600


@dataclass(frozen=True, kw_only=True)
class Process:
    """One process to start, and where it says that it is ready."""

    name: str
    command: tuple[str, ...]
    environment: dict[str, str]
    health_url: str


@dataclass(frozen=True, kw_only=True)
class Arrangement:
    """Everything to start, with what a client needs to know of it."""

    folder: Path
    store: Process
    """Started first: the Mooncake master, the LMCache server, or the proxy before a pair."""
    nodes: tuple[Process, ...]
    store_name: Literal["master", "lmcache", "proxy"]
    store_url: str
    node_urls: tuple[str, ...]
    mooncake_config: dict[str, object]


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Memory of one node: its own KV cache, and what it lends to the store."""

    kv_cache_gib: int = 1
    kv_cache_blocks: int | None = None
    """Blocks of that cache that are used; None: all."""
    segment_mib: int = 256


@dataclass(frozen=True, kw_only=True)
class Folders:
    """Logs and settings on one side; on the other Unix sockets, whose paths have 107 bytes."""

    logs: Path
    sockets: Path


def arrange(
    *,
    nodes: int,
    folders: Folders,
    sizes: Sizes,
    take_port: Callable[[int], int],
    connector: Connector = "mooncake",
    lmcache_l2: bool = False,
) -> Arrangement:
    """Lay out `nodes` vLLM nodes around one store; `take_port(first)` claims a free port."""
    if connector == "nixl":
        return disaggregated(folders=folders, sizes=sizes, take_port=take_port)
    if connector == "lmcache-mp":
        l2 = folders.logs / "lmcache-l2" if lmcache_l2 else None
        return around_lmcache(nodes, l2, folders=folders, sizes=sizes, take_port=take_port)
    rpc_port, http_port = take_port(MASTER_RPC_PORT), take_port(MASTER_HTTP_PORT)
    node_ports = [take_port(NODE_PORT) for _ in range(nodes)]
    lookup_ports = [take_port(LOOKUP_PORT) for _ in range(nodes)]
    cores = sorted(os.sched_getaffinity(0))
    return Arrangement(
        folder=folders.logs,
        store=master(rpc_port, http_port),
        nodes=tuple(
            node(
                index,
                port,
                sharing_flags(connector, lookup, folders),
                cores[index % len(cores)],
                folders,
                sizes,
            )
            for index, (port, lookup) in enumerate(zip(node_ports, lookup_ports, strict=True))
        ),
        store_name="master",
        store_url=f"http://{HOST}:{http_port}",
        node_urls=tuple(f"http://{HOST}:{port}" for port in node_ports),
        mooncake_config={
            "metadata_server": "P2PHANDSHAKE",
            "master_server_address": f"{HOST}:{rpc_port}",
            "protocol": "tcp",
            "device_name": "",
            "global_segment_size": f"{sizes.segment_mib}MB",
            "local_buffer_size": "64MB",
        },
    )


def around_lmcache(
    nodes: int, l2: Path | None, *, folders: Folders, sizes: Sizes, take_port: Callable[[int], int]
) -> Arrangement:
    """Nodes around one LMCache server; nothing of Mooncake runs."""
    port, http_port = take_port(LMCACHE_PORT), take_port(LMCACHE_HTTP_PORT)
    node_ports = [take_port(NODE_PORT) for _ in range(nodes)]
    cores = sorted(os.sched_getaffinity(0))
    flags = lmcache_flags(port)
    started = tuple(
        node(index, at, flags, cores[index % len(cores)], folders, sizes)
        for index, at in enumerate(node_ports)
    )
    python = str(places.lmcache_environment() / "bin" / "python")
    return Arrangement(
        folder=folders.logs,
        store=lmcache_server(port, http_port, nodes * sizes.segment_mib, l2),
        nodes=tuple(
            replace(
                one,
                command=(python, *one.command[1:]),
                environment=one.environment | LMCACHE_ENVIRONMENT,
            )
            for one in started
        ),
        store_name="lmcache",
        store_url=f"http://{HOST}:{http_port}",
        node_urls=tuple(f"http://{HOST}:{at}" for at in node_ports),
        mooncake_config={},
    )


def disaggregated(
    *, folders: Folders, sizes: Sizes, take_port: Callable[[int], int]
) -> Arrangement:
    """A prefiller (the first node) and a decoder behind a proxy; nothing is stored anywhere."""
    proxy_port = take_port(PROXY_PORT)
    ports = [take_port(NODE_PORT) for _ in range(2)]
    side_ports = [take_port(SIDE_CHANNEL_PORT) for _ in range(2)]
    cores = sorted(os.sched_getaffinity(0))
    connector = {"kv_connector": "NixlConnector", "kv_role": "kv_both", "kv_buffer_device": "cpu"}
    flags = ("--enable-per-request-metrics", "--kv-transfer-config", json.dumps(connector))
    python = str(places.nixl_environment() / "bin" / "python")
    nodes = []
    for index, (port, side) in enumerate(zip(ports, side_ports, strict=True)):
        one = node(index, port, flags, cores[index % len(cores)], folders, sizes)
        environment = one.environment | nixl_environment(side)
        nodes.append(replace(one, command=(python, *one.command[1:]), environment=environment))
    urls = tuple(f"http://{HOST}:{port}" for port in ports)
    return Arrangement(
        folder=folders.logs,
        store=proxy(proxy_port, *urls),
        nodes=tuple(nodes),
        store_name="proxy",
        store_url=f"http://{HOST}:{proxy_port}",
        node_urls=urls,
        mooncake_config={},
    )


def nixl_environment(side_port: int) -> dict[str, str]:
    """Where a node tells others its blocks, and which ways UCX may take: this machine only."""
    return {
        "VLLM_NIXL_SIDE_CHANNEL_HOST": HOST,
        "VLLM_NIXL_SIDE_CHANNEL_PORT": str(side_port),
        "UCX_TLS": "tcp,self,sysv,posix,cma",
        "UCX_NET_DEVICES": "lo",
    }


def proxy(port: int, prefiller: str, decoder: str) -> Process:
    """kvsim's, of this project's own Python: the flow of vLLM's toy proxy, and no simulation."""
    return Process(
        name="proxy",
        command=(
            *(sys.executable, "-m", "kvsim", "--role", "proxy", "--host", HOST),
            *("--port", str(port), "--prefiller", prefiller, "--decoder", decoder),
        ),
        environment={},
        health_url=f"http://{HOST}:{port}/healthcheck",
    )


def with_node_environment(plan: Arrangement, more: Mapping[str, str]) -> Arrangement:
    """The same, with variables for every node that beat the stack's own."""
    nodes = tuple(replace(one, environment=one.environment | dict(more)) for one in plan.nodes)
    return replace(plan, nodes=nodes)


def mooncake_config_path(folder: Path) -> Path:
    return folder / "mooncake.json"


def node_name(index: int) -> str:
    return f"node-{chr(ord('a') + index)}"


def master(rpc_port: int, http_port: int) -> Process:
    return Process(
        name="mooncake",
        command=(
            str(places.environment() / "bin" / "mooncake_master"),
            f"--rpc_address={HOST}",
            f"--rpc_port={rpc_port}",
            f"--metrics_host={HOST}",
            f"--metrics_port={http_port}",
            f"--default_kv_lease_ttl={LEASE_MS}",
            "--logtostderr",
        ),
        environment={},
        health_url=f"http://{HOST}:{http_port}/health",
    )


def sharing_flags(connector: Connector, lookup_port: int, folders: Folders) -> tuple[str, ...]:
    """Of a node beside a master; with `none` it shares nothing, though the master is there."""
    if connector == "none":
        return ()
    return mooncake_flags(lookup_port) if connector == "mooncake" else example_flags(folders)


def mooncake_flags(lookup_port: int) -> tuple[str, ...]:
    """Of a node that shares its blocks through the master's store."""
    connector = {
        "kv_connector": "MooncakeStoreConnector",
        "kv_role": "kv_both",
        "kv_connector_extra_config": {"lookup_rpc_port": lookup_port},
    }
    return ("--kv-transfer-config", json.dumps(connector))


def example_flags(folders: Folders) -> tuple[str, ...]:
    """Of a node that shares whole prompts through a folder."""
    connector = {
        "kv_connector": "ExampleConnector",
        "kv_role": "kv_both",
        "kv_connector_extra_config": {"shared_storage_path": str(folders.logs / "example-store")},
    }
    # It loads a prompt in one step: one that is cut into chunks kills the engine.
    chunk = ("--max-num-batched-tokens", str(MAX_CONTEXT_TOKENS))
    return ("--kv-transfer-config", json.dumps(connector), *chunk)


LMCACHE_ENVIRONMENT = {
    "LMCACHE_TRACK_USAGE": "false",  # else it tells its makers
    "LMCACHE_DISABLE_BANNER": "1",
}


def lmcache_server(port: int, http_port: int, l1_mib: int, l2: Path | None) -> Process:
    """One server with L1, and a folder as L2 if one is named. Its HTTP side has its metrics."""
    behind = ("--l2-adapter", json.dumps({"type": "fs", "base_path": str(l2)})) if l2 else ()
    return Process(
        name="lmcache",
        command=(
            *(str(places.lmcache_environment() / "bin" / "lmcache"), "server"),
            *("--host", HOST, "--port", str(port)),
            *("--http-host", HOST, "--http-port", str(http_port)),
            # Without it vLLM hangs at its start: what the server would drive needs a GPU.
            *("--supported-transfer-mode", "engine_driven"),
            *("--l1-size-gb", str(l1_mib / 1024), "--no-l1-use-lazy", "--eviction-policy", "LRU"),
            *behind,
        ),
        environment=LMCACHE_ENVIRONMENT,
        health_url=f"http://{HOST}:{http_port}/healthcheck",
    )


def lmcache_flags(port: int) -> tuple[str, ...]:
    """Of a node that shares its blocks through an LMCache server."""
    connector = {
        "kv_connector": "LMCacheMPConnector",
        "kv_role": "kv_both",
        "kv_connector_extra_config": {
            "lmcache.mp.host": f"tcp://{HOST}",
            "lmcache.mp.port": port,
        },
    }
    return ("--kv-transfer-config", json.dumps(connector))


def node(
    index: int,
    port: int,
    connector_flags: tuple[str, ...],
    core: int,
    folders: Folders,
    sizes: Sizes,
) -> Process:
    """One vLLM node on one core."""
    return Process(
        name=node_name(index),
        # The module, not `vllm serve`: this build has no package metadata for the latter.
        command=(
            str(places.environment() / "bin" / "python"),
            *("-m", "vllm.entrypoints.openai.api_server"),
            *("--model", str(places.model())),
            *("--served-model-name", SERVED_NAME),
            *("--host", HOST, "--port", str(port)),
            *("--max-model-len", str(MAX_CONTEXT_TOKENS), "--max-num-seqs", "8"),
            *("--enforce-eager", "--dtype", "bfloat16"),
            *("--enable-prefix-caching", "--enable-prompt-tokens-details"),
            *few_blocks(sizes),
            *connector_flags,
        ),
        environment=node_environment(core, folders, sizes),
        health_url=f"http://{HOST}:{port}/health",
    )


def few_blocks(sizes: Sizes) -> tuple[str, ...]:
    """A cache smaller than the least that memory can be given in: whole GiB."""
    if sizes.kv_cache_blocks is None:
        return ()
    return ("--num-gpu-blocks-override", str(sizes.kv_cache_blocks))


def node_environment(core: int, folders: Folders, sizes: Sizes) -> dict[str, str]:
    return {
        "VLLM_CPU_KVCACHE_SPACE": str(sizes.kv_cache_gib),
        "VLLM_CPU_OMP_THREADS_BIND": str(core),
        "VLLM_SERVER_DEV_MODE": "1",  # mounts /reset_prefix_cache
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_HOST_IP": HOST,  # what a node tells the store; else the machine's address
        "VLLM_RPC_BASE_PATH": str(folders.sockets),  # else in /tmp, where stacks meet
        "VLLM_CACHE_ROOT": str(places.cache() / "vllm"),
        "VLLM_CONFIG_ROOT": str(places.cache() / "vllm-config"),
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "PYTHONHASHSEED": "0",  # block hashes agree between processes
        "MOONCAKE_CONFIG_PATH": str(mooncake_config_path(folders.logs)),
    }


def summary(arrangement: Arrangement, pids: Sequence[int]) -> dict[str, object]:
    """The one line that a caller reads when everything is up."""
    return {
        "nodes": list(arrangement.node_urls),
        arrangement.store_name: arrangement.store_url,
        "model": SERVED_NAME,
        "pids": list(pids),
        "dir": str(arrangement.folder),
    }
