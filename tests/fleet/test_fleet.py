"""`make fleet` on machines of its own: an sshd each, on one machine, and one engine for all.

Asserts on counts and words. A machine so busy that a shard misses the beginning tries again with
more room, as a person would.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.family import ROOT, environment
from tests.faults import row_named
from tests.fleet.servers import SSHD, Hosts, sshds, user_name
from tests.kvmatrix.matrices import MAKE, clean_environment
from tests.simulated import FAST, Sim, kvsim

KEY = "s3cr3t-fl33t-k3y"
BIN = Path(environment()["PATH"].split(os.pathsep)[0])
THERE = {"PATH": f"{BIN}:/usr/bin:/bin"}
PLAN = "--contexts 8 --requests 32 --context-tokens 300 --output-tokens 4"
FAKETIME = next(iter(Path("/usr/lib").glob("*/faketime/libfaketime.so.1")), None)
HOSTILE = (
    "$(touch pwned1) `touch pwned2`; touch pwned3 & 'it''s' \"$HOME\" \\ * $(shell touch pwned4)"
)
Record = dict[str, Any]

missing = [
    tool
    for tool, found in {"sshd": SSHD, "parallel": shutil.which("parallel")}.items()
    if not found
]
pytestmark = pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """A fleet that has ended."""

    status: int
    out: str
    err: str
    folder: Path

    def records(self, *kinds: str) -> list[Record]:
        """Of every shard of every round."""
        lines = [
            line
            for path in sorted(self.folder.glob("repeat-*/round-*/shard-*.jsonl"))
            for line in path.read_text().splitlines()
        ]
        return [one for line in lines if (one := json.loads(line))["record"] in kinds]

    @property
    def stats(self) -> list[Record]:
        return [json.loads(line) for line in (self.folder / "stats.jsonl").read_text().splitlines()]


def begin(folder: Path, room_s: int, **named: str) -> subprocess.Popen[str]:
    """`make fleet NAME=VALUE...`, so many seconds before each round."""
    words = [f"{name}={value}" for name, value in named.items() if name.isupper()]
    return subprocess.Popen(
        [*MAKE.split(), "fleet", f"LEAD={room_s}", f"OUT={folder}", *words],
        cwd=ROOT,
        env=clean_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def ended(process: subprocess.Popen[str], folder: Path, timeout_s: float = 200) -> Ran:
    try:
        out, err = process.communicate(timeout=timeout_s)
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    return Ran(status=process.returncode, out=out, err=err, folder=folder)


def rooms_s() -> tuple[int, ...]:
    """How much room to give, one after the other; a machine that is busy needs more at once."""
    idle = os.getloadavg()[0] < (os.cpu_count() or 1)
    return (5, 20, 60) if idle else (15, 60)


def fleet(folder: Path, **named: str) -> Ran:
    for room_s in rooms_s():
        ran = ended(begin(folder / f"out{room_s}", room_s, **named), folder / f"out{room_s}")
        if "leaves room" not in ran.err:
            return ran
    raise AssertionError(ran.err)


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    """Four machines, that are not to be killed."""
    with sshds(tmp_path_factory.mktemp("hosts"), THERE, THERE, THERE, THERE) as running:
        yield running


@pytest.fixture
def sim() -> Iterator[Sim]:
    with kvsim(*FAST, "--api-key", KEY) as running:
        yield running


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "the key"
    path.write_text(f"{KEY}\n")
    return path


class Listing:
    """Everything that stood in the list of processes while it was watched, but for one process."""

    def __init__(self, apart: int) -> None:
        self.lines: set[str] = set()
        self._apart = str(apart)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Listing:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.2):
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                if path.parent.name != self._apart:
                    try:
                        self.lines.add(path.read_bytes().replace(b"\0", b" ").decode())
                    except (OSError, UnicodeDecodeError):
                        continue


def test_a_fleet_of_four_is_one_experiment(
    hosts: Hosts, sim: Sim, key: Path, tmp_path: Path
) -> None:
    own = hosts.names
    ports = hosts.ports
    named = ",".join(
        [own[0], f"1/{own[1]}", f"{user_name()}@{own[2]}",
         f"ssh -F {hosts.folder}/client -p {ports[3]} 127.0.0.1"]
    )  # fmt: skip
    with Listing(sim.process.pid) as listing:
        ran = fleet(
            tmp_path, HOSTS=named, SSH=hosts.ssh, URL=sim.url, KEY_FILE=str(key), PLAN=PLAN,
            CLEAR=f"--vllm {sim.url}",
            LOAD=f"--rate 40 --arrival constant --warmup 1 --name {shlex.quote(HOSTILE)}",
        )  # fmt: skip
    assert ran.status == 0, ran.err
    planned = [json.loads(line) for line in (ran.folder / "plan.jsonl").read_text().splitlines()]
    whole = Counter((one["index"], one["group"], one["stratum"]) for one in planned[1:])
    assert len(whole) == len(planned) - 1 >= 35
    (cold, hit) = ran.stats
    for stats, number in ((cold, 1), (hit, 2)):
        assert [run["shard"] for run in stats["run"]] == ["0/4", "1/4", "2/4", "3/4"]
        assert stats["complete"] and stats["total_requests"] == 32
        runs = {run["run_id"]: run for run in stats["run"]}
        sent = Counter(
            (one["index"], one["group"], one["stratum"])
            for one in ran.records("request")
            if one["run_id"] in runs
        )
        assert sent == whole, f"round {number}"
    assert cold["cold_proof"] == "proven" and hit["hit_ratio"] > 0.8 > cold["hit_ratio"]
    assert "32 requests over 8 contexts" in ran.out and "constant, 40/s, 4 shards" in ran.out
    assert {run["isolation"]["verified"] for run in ran.records("run")} == {True}
    assert {run["name"] for run in ran.records("run")} == {HOSTILE}
    assert not [*ROOT.glob("pwned*"), *Path.home().glob("pwned*"), *ran.folder.rglob("pwned*")]
    assert (ran.folder / "report.html").stat().st_size > 10_000
    by_port = Counter(json.loads(path.read_text().splitlines()[0])["shard"] for path in
                      ran.folder.glob("repeat-1/round-1/shard-*.jsonl"))  # fmt: skip
    assert set(by_port.values()) == {1}
    seen = [line for line in listing.lines if "--shard" in line]
    assert any("sshd" in line for line in listing.lines) and len(seen) >= 8
    assert not [line for line in listing.lines if KEY in line]
    kept = b"".join(path.read_bytes() for path in ran.folder.rglob("*") if path.is_file())
    assert KEY.encode() not in kept


def test_a_host_that_dies_in_the_round_is_named_and_the_rest_reported(
    sim: Sim, key: Path, tmp_path: Path
) -> None:
    row = row_named("fleet-host-dies")
    for room_s in rooms_s():
        folder = tmp_path / f"out{room_s}"
        with sshds(tmp_path / f"ssh{room_s}", THERE, THERE) as two:
            process = begin(
                folder, room_s, HOSTS=",".join(two.names), SSH=two.ssh, URL=sim.url,
                KEY_FILE=str(key), PLAN=PLAN, LOAD="--rate 10 --arrival constant --warmup 0",
            )  # fmt: skip
            part = folder / "repeat-1/round-1/shard-1.jsonl"
            while process.poll() is None:
                if part.exists() and part.read_bytes().count(b"\n") > 3:
                    two.kill(1)
                    break
                time.sleep(0.05)
            ran = ended(process, folder)
        if "leaves room" not in ran.err:
            break
    assert f"fleet] Error {row.returned}" in ran.err, ran.err
    assert f"shard 1/2 on {two.names[1]}: {row.said}" in ran.err, ran.err
    assert "round 1 of long_context_high_reuse: shard 1/2" in ran.err or "has no end" in ran.err
    cold, hit = ran.stats
    assert not cold["complete"] and not hit["complete"]
    kept = [one for one in ran.records("request") if one["status"] == "ok"]
    assert len({one["index"] for one in kept}) > 17  # the whole of one, and of the other a part
    assert hit["run"]["shard"] == "0/2"  # its contexts were never stored
    assert "long_context_high_reuse" in ran.out


def test_what_a_host_lacks_is_said_before_anything_is_sent(sim: Sim, tmp_path: Path) -> None:
    there = [THERE, {"PATH": "/usr/bin:/bin"}]
    if FAKETIME is not None:
        there.append(THERE | {"LD_PRELOAD": str(FAKETIME), "FAKETIME": "+3600"})
    with sshds(tmp_path / "ssh", *there) as some:
        gone = "127.0.0.1:1"
        ran = ended(
            begin(
                tmp_path / "out", 5, HOSTS=",".join([*some.names, gone]), SSH=some.ssh,
                URL=sim.url, PLAN=PLAN,
            ),
            tmp_path / "out",
        )  # fmt: skip
        assert ran.status == 2 and ran.out == ""
        said = [line for line in ran.err.splitlines() if line.startswith("fleet: ")]
        names = some.names
    assert not [line for line in said if names[0] in line]
    assert f"fleet: {names[1]}: kvload cannot be run there: say KVLOAD=PATH" in said[0]
    assert f"fleet: {gone}: ssh lost it: ssh: connect to host" in said[-2]
    assert said[-1] == "fleet: nothing was sent"
    assert len(said) == len(there) + 1
    if FAKETIME is not None:
        assert f"{names[2]}: its clock is 3600 s ahead" in said[1] or "3599" in said[1]
    assert not list((tmp_path / "out").glob("repeat-*"))


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ({}, "which machines? say make fleet HOSTS=a,user@b:2222,2/c URL="),
        ({"HOSTS": "a"}, "which machines?"),
        ({"HOSTS": "a;touch", "URL": "http://h"}, "no host"),
        ({"HOSTS": "$(shell touch pwned)", "URL": "http://h"}, "it is 'ssh OPTIONS HOST'"),
        ({"HOSTS": "touch pwned", "URL": "http://h"}, "it is 'ssh OPTIONS HOST'"),
        ({"HOSTS": "-oProxyCommand=touch", "URL": "http://h"}, "no host"),
        ({"HOSTS": "ssh -oProxyCommand=touch", "URL": "http://h"}, "no host"),
        ({"HOSTS": ":", "URL": "http://h", "LOAD": "--shard 0/2"}, "--shard is the fleet's to say"),
        ({"HOSTS": ":", "URL": "http://h", "LOAD": "--salt=x"}, "--salt is the fleet's to say"),
        ({"HOSTS": ":", "URL": "http://h", "LOAD": "--api-key-file k"}, "say KEY_FILE=FILE"),
        ({"HOSTS": ":", "URL": "http://h", "LOAD": "--name 'x"}, "LOAD: no closing quotation"),
        ({"HOSTS": ":", "URL": "http://h", "KEY_FILE": "/nowhere"}, "no key can be read"),
    ],
)
def test_what_cannot_be_a_fleet_is_one_line(
    named: dict[str, str], said: str, tmp_path: Path
) -> None:
    ran = ended(begin(tmp_path / "out", 5, **named), tmp_path / "out")
    (line,) = [line for line in ran.err.splitlines() if not line.startswith("make: ")]
    assert line.startswith("fleet: ") and said in line
    assert ran.status == 2 and ran.out == "" and not (tmp_path / "out").exists()
    assert not [*ROOT.glob("pwned*")]


def test_a_fleet_that_is_ended_leaves_nothing_running(tmp_path: Path) -> None:
    with kvsim(*FAST) as sim:
        words = ["--hosts", "2/:", "--url", sim.url, "--plan", PLAN, "--lead", "120"]
        with subprocess.Popen(
            [ROOT / "fleet" / "run.sh", *words, "-o", tmp_path / "out"],
            env=environment(), stderr=subprocess.PIPE, text=True, start_new_session=True,
        ) as process:  # fmt: skip
            assert process.stderr is not None
            while "begin at" not in process.stderr.readline():
                assert process.poll() is None
            while len(_of_session(process.pid)) < 5:
                time.sleep(0.05)
            process.send_signal(signal.SIGTERM)
            assert "interrupted" in process.stderr.read()
            assert process.wait(60) == 143
            for _ in range(200):
                if not _of_session(process.pid):
                    break
                time.sleep(0.05)
            assert not _of_session(process.pid)


def _of_session(session: int) -> list[str]:
    """Command lines of a session's living processes."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, rest = path.read_text().rpartition(")")
        except OSError:
            continue
        state, _, _, own = rest.split()[:4]
        if int(own) == session and state != "Z":
            found.append(name)
    return found
