"""The machine that will send the load."""

from __future__ import annotations

from collections.abc import Iterator

from kvdoctor.evidence import Evidence
from kvdoctor.rules.rule import Rule, Seen

OPEN_FILES = 4096
PORTS = 10_000
SLOW_CLOCKS = ("hpet", "acpi_pm", "jiffies", "refined-jiffies", "pit")
THROTTLED_RATIO = 0.05


def open_files_low(evidence: Evidence) -> Iterator[Seen]:
    """Each stream is an open file."""
    allowed = evidence.client.open_files
    if allowed is not None and allowed < OPEN_FILES:
        yield Seen(
            where=None,
            seen=f"a process may have {allowed} files open",
            change="raise the hard limit: ulimit -Hn 65536 as root before the load, LimitNOFILE= of"
            " a service, docker --ulimit nofile=65536",
            evidence={"open_files": allowed},
        )


def ports_few(evidence: Evidence) -> Iterator[Seen]:
    """Each new connection takes a port for a minute."""
    ports = evidence.client.ports
    if ports is not None and ports < PORTS:
        yield Seen(
            where=None,
            seen=f"{ports} ephemeral ports",
            change='sysctl -w net.ipv4.ip_local_port_range="1024 65535"',
            evidence={"ports": ports},
        )


def clock_slow(evidence: Evidence) -> Iterator[Seen]:
    """A clock that is asked over a bus."""
    if evidence.client.clock in SLOW_CLOCKS:
        yield Seen(
            where=None,
            seen=f"the kernel's clock source is {evidence.client.clock}",
            change="send from a machine whose clock source is tsc (or kvm-clock, arch_sys_counter)",
            evidence={"clock": evidence.client.clock},
        )


def client_throttled(evidence: Evidence) -> Iterator[Seen]:
    """A container's quota."""
    ratio = evidence.client.throttled_ratio
    if ratio is not None and ratio > THROTTLED_RATIO:
        yield Seen(
            where=None,
            seen=f"this container was held back by its processor quota for {ratio:.0%} of the time",
            change="raise its limit (docker: --cpus, Kubernetes: limits.cpu), or send from outside",
            evidence={"throttled_ratio": ratio},
        )


def one_cpu(evidence: Evidence) -> Iterator[Seen]:
    """One processor for everything."""
    if evidence.client.cpus == 1:
        yield Seen(
            where=None,
            seen="this process may use one processor",
            change="taskset or --cpuset-cpus with two at least: one for kvload, one for the rest",
            evidence={"cpus": 1},
        )


RULES = (
    Rule(
        code="open_files_low",
        severity="warning",
        asks="the hard limit on open files",
        means="Loads of thousands of streams cannot be sent from here.",
        judge=open_files_low,
    ),
    Rule(
        code="ports_few",
        severity="warning",
        asks="the range of ephemeral ports",
        means="Many short connections run out of ports, which looks like a slow server.",
        judge=ports_few,
    ),
    Rule(
        code="clock_slow",
        severity="warning",
        asks="the kernel's clock source",
        means="Each time stamp costs microseconds, and at high rates the client is what is"
        " measured.",
        judge=clock_slow,
    ),
    Rule(
        code="client_throttled",
        severity="warning",
        asks="`cpu.stat` of this container",
        means="The client stands still now and then: its pauses are in TTFT and gaps.",
        judge=client_throttled,
    ),
    Rule(
        code="one_cpu",
        severity="info",
        asks="processors that this process may use",
        means="At high rates whatever else runs here delays the client.",
        judge=one_cpu,
    ),
)
