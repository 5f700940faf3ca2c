"""Words of a person's text, for fleet/run.sh: nothing in them is expanded or executed.

    hosts.py reach SSH HOSTS    a line per shard: its host's name, a tab, how it is reached
    hosts.py words NAME TEXT    the words of a text of flags, each ended by NUL
    hosts.py quote WORD...      one text that any shell reads as these words

HOSTS are parted by commas and written as for GNU parallel's --sshlogin: `host`, `user@host:port`,
`N/host` for N shards on one host, `ssh -p 2222 -i key host` for ssh with options, and `:` for this
machine without ssh.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath

from kvpipe.process import UsageError, run_tool

PROG = "fleet"
HOST = re.compile(
    r"(?:(?P<user>[\w.][\w.+-]*)@)?(?P<host>[\w.][\w.-]*|\[[0-9A-Fa-f:.]+\])(?::(?P<port>\d{1,5}))?"
)
SHARDS = re.compile(r"(?P<count>[0-9]{1,4})/(?P<rest>.*)", re.DOTALL)
KEPT_ALIVE = (
    "-T",
    "-oBatchMode=yes",
    "-oConnectTimeout=10",
    "-oServerAliveInterval=5",
    "-oServerAliveCountMax=3",
)
"""Nobody answers questions in a fleet, and a host that is gone is found within 15 s."""


def main(argv: Sequence[str] | None = None) -> int:
    """One of the three. No flags of its own: what it is given may look like some."""
    match sys.argv[1:] if argv is None else argv:
        case ["reach", ssh, hosts]:
            for name, command in reached(hosts, ssh):
                sys.stdout.write(f"{name}\t{shlex.join(command)}\n")
        case ["words", name, text]:
            sys.stdout.write("".join(f"{word}\0" for word in words(text, name)))
        case ["quote", *given] if given:
            sys.stdout.write(shlex.join(given))
        case _:
            raise UsageError("hosts.py is fleet/run.sh's own")
    return 0


def reached(text: str, ssh: str = "ssh") -> Iterator[tuple[str, list[str]]]:
    """(name, command) of each shard; the command takes one further word: what to run there."""
    program = words(ssh, "SSH")
    if not program:
        raise UsageError("SSH: a program is wanted, such as 'ssh -F FILE'")
    for entry in text.split(","):
        found = SHARDS.fullmatch(entry.strip())
        count, rest = (int(found["count"]), found["rest"]) if found else (1, entry.strip())
        if count < 1:
            raise UsageError(f"{_shown(entry)}: a host of 0 shards")
        name, command = _one(rest, program)
        for _ in range(count):
            yield name, command


def _one(entry: str, program: list[str]) -> tuple[str, list[str]]:
    if entry == ":":
        return "this machine", ["sh", "-c"]
    if " " in entry:
        given = words(entry, "HOSTS")
        if PurePosixPath(given[0]).name != "ssh" or len(given) < 2:
            raise UsageError(f"{_shown(entry)}: with options it is 'ssh OPTIONS HOST'")
        _matched(given[-1].rpartition("@")[2], entry)
        return shlex.join(given), [given[0], *KEPT_ALIVE, *given[1:-1], "--", given[-1]]
    found = _matched(entry, entry)
    port = ["-p", found["port"]] if found["port"] else []
    host = found["host"].strip("[]")
    target = f"{found['user']}@{host}" if found["user"] else host
    return entry, [*program, *KEPT_ALIVE, *port, "--", target]


def _matched(text: str, entry: str) -> re.Match[str]:
    found = HOST.fullmatch(text)
    if found is None:
        raise UsageError(
            f"{_shown(entry)}: no host: HOSTS=a,user@b:2222,4/c (4 shards there) is how it is said"
        )
    return found


def words(text: str, where: str) -> list[str]:
    """As a shell parts them, quotes taken off and nothing expanded; UsageError for open quotes."""
    try:
        found = shlex.split(text)
    except ValueError as error:
        raise UsageError(f"{where}: {str(error).lower()} in {_shown(text)}") from None
    if any("\0" in word for word in found):
        raise UsageError(f"{where}: a NUL is no part of a word")
    return found


def _shown(text: str) -> str:
    return repr(text[:80])


if __name__ == "__main__":
    run_tool(PROG, main)
