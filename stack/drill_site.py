"""What the cache-loss drill drills: two nodes around one store, and a link that can be broken."""

import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import places
from arrangement import HOST, Arrangement, Folders, Process, Sizes, arrange, mooncake_config_path
from drill_faults import Fault
from drill_link import Relay
from ports import Claims
from processes import Child, Group, StackError, wait_ready

START_S = 300.0
SIM_STORE_PORT, SIM_NODE_PORT, LINK_PORT = 9501, 8501, 50161


def say(message: str) -> None:
    with contextlib.suppress(OSError):
        print(f"drill.py: {message}", file=sys.stderr, flush=True)


class Site:
    """Two nodes around one store, with a link from B to it that can be broken."""

    def __init__(self, group: Group, plan: Arrangement, link: Relay) -> None:
        self.group, self.plan, self.link = group, plan, link
        self.store: Child
        self.nodes: list[Child] = []

    def start(self) -> None:
        self.store = self._start(self.plan.store)
        wait_ready([self.store], START_S, say, lambda: None)
        self.nodes = [self._start(node) for node in self.plan.nodes]
        wait_ready(self.nodes, START_S, say, lambda: None)

    def _start(self, process: Process) -> Child:
        log = self.plan.folder / f"{process.name}.log"
        if log.exists():  # of the one that died
            earlier = len(list(self.plan.folder.glob(f"{process.name}.*.log")))
            log.rename(log.with_suffix(f".{earlier + 1}.log"))
        return self.group.start(process, self.plan.folder)

    def strike(self, fault: Fault) -> None:
        """Do it, and return when it is done."""
        if fault.part == "link":
            self.link.mode = "cut" if fault.action == "cut" else "silent"
            return
        child = self.store if fault.part == "store" else self.nodes[0]
        if fault.action == "kill":
            os.killpg(child.popen.pid, signal.SIGKILL)
            child.popen.wait()
        else:
            os.killpg(child.popen.pid, signal.SIGSTOP)

    def dead(self) -> list[str]:
        """Names of the processes that are no more, or whose engine is not."""
        return [
            one.process.name
            for one in (self.store, *self.nodes)
            if one.popen.poll() is not None or _health(one) == 503
        ]

    def health(self) -> dict[str, int | None]:
        """What the health URLs say; null: no answer."""
        return {one.process.name: _health(one) for one in (self.store, *self.nodes)}

    def repair(self, fault: Fault) -> list[str]:
        """Undo the fault, start again whatever is dead, and wait until everything answers."""
        self.link.mode = "open"
        if fault.action == "stop":
            os.killpg(self.nodes[0].popen.pid, signal.SIGCONT)
        again = self.dead()
        children = [self.store, *self.nodes]
        for number, child in enumerate(children):
            if child.process.name in again:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child.popen.pid, signal.SIGKILL)
                child.popen.wait()
                children[number] = self._start(child.process)
                wait_ready([children[number]], START_S, say, lambda: None)
        self.store, *self.nodes = children
        wait_ready(children, START_S, say, lambda: None)
        return again


def _health(child: Child) -> int | None:
    try:
        with urllib.request.urlopen(child.process.health_url, timeout=5) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except (urllib.error.URLError, OSError):
        return None


def real(folders: Folders, claims: Claims, link_port: int, policy: str) -> Arrangement:
    """vLLM and Mooncake; B knows the master by the link only."""
    sizes = Sizes(segment_mib=512)
    plan = arrange(nodes=2, folders=folders, sizes=sizes, take_port=claims.take)
    folder = folders.logs
    mooncake_config_path(folder).write_text(json.dumps(plan.mooncake_config), encoding="utf-8")
    through = {**plan.mooncake_config, "master_server_address": f"{HOST}:{link_port}"}
    path = folder / "mooncake-b.json"
    path.write_text(json.dumps(through), encoding="utf-8")
    a, b = (replace(one, command=with_policy(one.command, policy)) for one in plan.nodes)
    b = replace(b, environment=b.environment | {"MOONCAKE_CONFIG_PATH": str(path)})
    return replace(plan, nodes=(a, b))


def with_policy(command: Sequence[str], policy: str) -> tuple[str, ...]:
    """A node's command, told what to do with a request whose blocks do not come."""
    words = list(command)
    at = words.index("--kv-transfer-config") + 1
    words[at] = json.dumps(json.loads(words[at]) | {"kv_load_failure_policy": policy})
    return tuple(words)


def simulated(folders: Folders, claims: Claims, link_port: int, policy: str) -> Arrangement:
    """The same of kvsim."""
    store_port = claims.take(SIM_STORE_PORT)
    ports = [claims.take(SIM_NODE_PORT) for _ in range(2)]
    store = f"http://{HOST}:{store_port}"
    behind = (store, f"http://{HOST}:{link_port}")
    return Arrangement(
        folder=folders.logs,
        store=_kvsim("store", store_port, "--role", "store"),
        nodes=tuple(
            _kvsim(
                f"node-{letter}",
                port,
                "--store",
                url,
                "--block-tokens",
                "128",
                "--kv-load-failure-policy",
                policy,
                *SIM_PACE,
            )
            for letter, port, url in zip("ab", ports, behind, strict=True)
        ),
        store_name="master",
        store_url=store,
        node_urls=tuple(f"http://{HOST}:{port}" for port in ports),
        mooncake_config={},
    )


# Hits that take long enough for a fault to come between two of them.
SIM_PACE = (
    *("--prefill-tps", "20000", "--step-ms", "2", "--overhead-ms", "2"),
    *("--load-latency-ms", "200"),
)


def _kvsim(name: str, port: int, *flags: str) -> Process:
    return Process(
        name=name,
        command=(sys.executable, "-m", "kvsim", "--port", str(port), *flags),
        environment={},
        health_url=f"http://{HOST}:{port}/health",
    )


def target_of(plan: Arrangement) -> int:
    """The port behind the link."""
    address = plan.mooncake_config.get("master_server_address", plan.store_url)
    return int(str(address).rpartition(":")[2])


@contextlib.contextmanager
def site_up(folder: Path, policy: str, *, simulate: bool) -> Iterator[Site]:
    """Everything started and answering; all of it is gone afterwards."""
    folder.mkdir(parents=True)
    sockets = Path(tempfile.mkdtemp(prefix="kv-drill-"))
    claims = Claims()
    folders = Folders(logs=folder, sockets=sockets)
    link_port = claims.take(LINK_PORT)
    plan = (simulated if simulate else real)(folders, claims, link_port, policy)
    group = Group()
    try:
        if not simulate:
            make_model(group)
        with Relay(link_port, target_of(plan)) as link:
            site = Site(group, plan, link)
            site.start()
            yield site
    finally:
        group.stop()
        shutil.rmtree(sockets, ignore_errors=True)


def make_model(group: Group) -> None:
    """What nodes.py does too: at once where the model is there already."""
    python = places.environment() / "bin" / "python"
    model = Path(__file__).with_name("model.py")
    if group.popen([str(python), str(model), str(places.model())]).wait():
        raise StackError("the model could not be made")
