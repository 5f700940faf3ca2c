"""The stack's processes while they live: started in groups of their own, watched, stopped whole."""

import ctypes
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path

from arrangement import Process

TAIL_LINES = 25
# The line that ends a traceback, with or without the prefix that vLLM's logger gives it.
ERROR_LINE = re.compile(r"(?:^|(?<=\] ))[\w.]+(?:Error|Exception): .*")
SYSTEM_PATH = "/usr/bin:/bin:/usr/sbin:/sbin"  # vLLM asks lscpu what cores there are
PR_SET_PDEATHSIG = 1  # linux/prctl.h

_libc = ctypes.CDLL(None, use_errno=True)  # loaded before any fork


class StackError(Exception):
    """The stack could not be brought up: one message for a person."""


def die_with_parent(signum: int = signal.SIGKILL) -> None:
    """In a child, before exec: the kernel sends it `signum` when its parent dies.

    Covers the moment before the guard knows of the child. Only the child itself is reached, not
    what it starts: that is what the guard is for.
    """
    _libc.prctl(PR_SET_PDEATHSIG, int(signum), 0, 0, 0)


class Child:
    """One running process of the stack."""

    def __init__(self, process: Process, popen: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self.popen = popen
        self.log = log
        self.reported = False  # its death has been told

    def is_ready(self) -> bool:
        """Its health URL answers 200 now."""
        try:
            with urllib.request.urlopen(self.process.health_url, timeout=5) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def death(self) -> str | None:
        """How it died and the end of its log, or None while it lives."""
        status = self.popen.poll()
        if status is None:
            return None
        how = f"died of {signal.Signals(-status).name}" if status < 0 else f"exited with {status}"
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        tail = "\n".join(f"    {line}" for line in lines[-TAIL_LINES:])
        why = first_error(lines) or "no error in its log"
        return f"{self.process.name} {how}: {why}; the end of {self.log}:\n{tail}"


def first_error(lines: list[str]) -> str | None:
    """The first exception in a log: what vLLM's last lines call the "root cause above"."""
    for line in lines:
        found = ERROR_LINE.search(line)
        if found:
            return found[0]
    return None


class Group:
    """All processes that this one started, and the guard that ends them."""

    def __init__(self) -> None:
        self.children: list[Child] = []
        self._own: list[subprocess.Popen[bytes]] = []
        self._guard = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("guard.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,  # out of reach of Ctrl-C and of `kill -9 -GROUP`
        )

    def popen(
        self, command: list[str], death_signal: int = signal.SIGKILL, **options: object
    ) -> subprocess.Popen[bytes]:
        """Start a command in a process group of its own, under guard."""
        popen = subprocess.Popen(  # type: ignore[call-overload]
            command,
            process_group=0,
            preexec_fn=lambda: die_with_parent(death_signal),
            **options,
        )
        self._own.append(popen)
        assert self._guard.stdin is not None
        self._guard.stdin.write(f"{popen.pid}\n".encode("ascii"))
        self._guard.stdin.flush()
        return popen

    def start(self, process: Process, folder: Path) -> Child:
        log = folder / f"{process.name}.log"
        with log.open("wb") as sink:
            popen = self.popen(
                list(process.command),
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                env=child_environment(os.environ, process.environment),
                cwd=folder,
            )
        child = Child(process, popen, log)
        self.children.append(child)
        return child

    def stop(self) -> None:
        """End everything and return when nothing of it lives."""
        assert self._guard.stdin is not None
        self._guard.stdin.close()
        while self._guard.poll() is None:
            for popen in self._own:
                popen.poll()  # reaps it
            time.sleep(0.05)
        for popen in self._own:
            popen.wait()


def child_environment(ambient: Mapping[str, str], own: Mapping[str, str]) -> dict[str, str]:
    """The caller's environment without what would bend the stack: proxies, and engine settings."""
    bending = ("VLLM_", "MOONCAKE_", "MC_", "LMCACHE_", "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    kept = {
        name: value
        for name, value in ambient.items()
        if not name.startswith(bending) and not name.lower().endswith("_proxy")
    }
    kept["PATH"] = f"{kept.get('PATH', '')}:{SYSTEM_PATH}".lstrip(":")
    return kept | dict(own)


def wait_ready(
    children: list[Child],
    timeout_s: float,
    say: Callable[[str], None],
    check_stop: Callable[[], None],
) -> None:
    """Return when every child answers; StackError when one dies or the time is over.

    `check_stop` is called often and may raise to give up.
    """
    began = time.monotonic()
    waiting = list(children)
    next_word_s = 10.0
    while waiting:
        check_stop()
        for child in list(waiting):
            death = child.death()
            if death is not None:
                raise StackError(f"during start, {death}")
            if child.is_ready():
                waiting.remove(child)
                say(f"{child.process.name} is ready after {time.monotonic() - began:.0f} s")
        elapsed = time.monotonic() - began
        if waiting and elapsed > timeout_s:
            names = ", ".join(child.process.name for child in waiting)
            logs = ", ".join(str(child.log) for child in waiting)
            raise StackError(f"{names} not ready after {timeout_s:.0f} s; see {logs}")
        if waiting and elapsed > next_word_s:
            names = ", ".join(child.process.name for child in waiting)
            say(f"waiting for {names} ({elapsed:.0f} s)")
            next_word_s += 10.0
        time.sleep(0.2)
