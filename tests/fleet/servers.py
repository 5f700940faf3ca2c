"""Hosts of a fleet on one machine: an sshd each, with its own port, keys and environment."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from stack.ports import is_free

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
PORTS = range(41000, 41400)
"""Below those that the kernel gives to others, so that a port is free until its sshd has it."""


@dataclass(slots=True)
class Hosts:
    """Running sshds, and how ssh speaks to them."""

    folder: Path
    ports: list[int] = field(default_factory=list)
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def ssh(self) -> str:
        """What stands before a host's name."""
        return f"ssh -F {self.folder}/client"

    @property
    def names(self) -> list[str]:
        return [f"127.0.0.1:{port}" for port in self.ports]

    def processes_of(self, number: int) -> set[int]:
        """Process ids of an sshd's sessions and of all that they run."""
        found = {self.processes[number].pid}
        while more := {child for parent in found for child in _children(parent)} - found:
            found |= more
        return found - {self.processes[number].pid}

    def kill(self, number: int) -> None:
        """The host dies, with all that it runs."""
        self.processes[number].send_signal(signal.SIGSTOP)  # it accepts nobody meanwhile
        for pid in self.processes_of(number):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.processes[number].kill()


def user_name() -> str:
    """Whom sshd is to let in."""
    return pwd.getpwuid(os.getuid()).pw_name


def _children(pid: int) -> set[int]:
    found: set[int] = set()
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found |= {int(word) for word in path.read_text().split()}
    return found


@contextlib.contextmanager
def sshds(folder: Path, *environments: Mapping[str, str]) -> Iterator[Hosts]:
    """An sshd for each environment: what its sessions have beside their own."""
    assert SSHD is not None
    if os.geteuid() == 0:  # a separated process lives in it
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    _keys(folder, len(environments))
    hosts = Hosts(folder)
    try:
        for number, environment in enumerate(environments):
            _start(hosts, number, environment)
        _enter(hosts)
        yield hosts
    finally:
        for number, process in enumerate(hosts.processes):
            for pid in hosts.processes_of(number):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.kill()
            process.wait()


def _keys(folder: Path, count: int) -> None:
    for name in ["user", *(f"host{number}" for number in range(count))]:
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True
        )
    shutil.copy(folder / "user.pub", folder / "authorized")
    (folder / "client").write_text(
        f"IdentityFile {folder}/user\nIdentitiesOnly yes\nUserKnownHostsFile {folder}/known\n"
        "StrictHostKeyChecking accept-new\nLogLevel ERROR\n"
    )


def _start(hosts: Hosts, number: int, environment: Mapping[str, str]) -> None:
    folder = hosts.folder
    words = " ".join(f'"{name}={value}"' for name, value in environment.items())
    for port in PORTS:
        if port in hosts.ports or not is_free(port):
            continue
        config = folder / f"sshd{number}"
        config.write_text(
            f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host{number}\nPidFile none\n"
            f"AuthorizedKeysFile {folder}/authorized\nStrictModes no\nUsePAM no\n"
            "PasswordAuthentication no\nKbdInteractiveAuthentication no\n"
            f"AllowUsers {user_name()}\nPermitRootLogin prohibit-password\n"
            + (f"SetEnv {words}\n" if words else "")
        )
        with (folder / f"sshd{number}.log").open("wb") as log:
            process = subprocess.Popen([str(SSHD), "-D", "-e", "-f", config], stderr=log)
        if _listens(process, port):
            hosts.ports.append(port)
            hosts.processes.append(process)
            return
    raise AssertionError((folder / f"sshd{number}.log").read_text())


def _enter(hosts: Hosts) -> None:
    """Skip where the system lets its own user in by no key: an account that is locked."""
    words = [*hosts.ssh.split(), "-p", str(hosts.ports[0]), "127.0.0.1", "true"]
    entered = subprocess.run(words, capture_output=True, timeout=60, check=False)
    log = (hosts.folder / "sshd0.log").read_text()
    if entered.returncode and "locked" in log:
        pytest.skip(f"sshd lets {user_name()} in by no key: the account is locked")
    assert entered.returncode == 0, log


def _listens(process: subprocess.Popen[bytes], port: int) -> bool:
    for _ in range(200):
        if process.poll() is not None:
            return False
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return True
        time.sleep(0.05)
    return False
