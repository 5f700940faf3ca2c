"""Brings the real stack up: a Mooncake master and vLLM nodes on CPU with a tiny model.

    python stack/nodes.py up [--nodes 2] [--connector NAME] [--dir DIR]
    python stack/nodes.py run [--nodes 2] [--dir DIR] -- COMMAND ARGUMENTS...
    python stack/nodes.py check [--connector ...]

`up` stays in the foreground. When every node answers it prints one line of JSON,
{"nodes": [URL...], "master": URL, "model": "tiny", "pids": [...], "dir": ...}, and stops
everything on SIGINT or SIGTERM, when its standard input (if a pipe) is closed, or when its
parent is gone. Instead of "master" it says with lmcache-mp "lmcache": URL, the HTTP side of the
one `lmcache server`; with nixl "proxy": URL, and the two nodes are prefiller and decoder. `run`
starts COMMAND with KV_NODE_A, KV_NODE_B, ... (node URLs), KV_MOONCAKE (the store's admin URL;
KV_LMCACHE with lmcache-mp, KV_PROXY with nixl) and KV_MODEL in its environment, and ends as
COMMAND ended. `check` says whether stack/install.sh has been run.

Nothing outlives it, not even after `kill -9`. Progress goes to stderr. Logs lie in DIR; a
folder that nobody named is removed at the end unless something went wrong.
Exit status: 0 it ran, 1 a process of the stack died, 2 it could not start (for `check`: is
not installed), `run`: the command's; death by the signal for SIGINT and SIGTERM.
Needs only the standard library, and stack/install.sh run once.
"""

import argparse
import contextlib
import json
import os
import select
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import places
from arrangement import (
    SERVED_NAME,
    Arrangement,
    Connector,
    Folders,
    Sizes,
    arrange,
    mooncake_config_path,
    summary,
    with_node_environment,
)
from ports import Claims
from processes import Group, StackError, wait_ready

POLL_S = 0.2


class Stop(Exception):
    """Somebody wants this process to end; `signum` is 0 when it was no signal."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


class Watch:
    """The reasons to stop: a signal, a parent that is gone, the end of standard input."""

    def __init__(self, *, watch_stdin: bool) -> None:
        self._parent = os.getppid()
        self.signals: list[int] = []  # as they came
        self._stdin = 0 if watch_stdin and is_pipe(0) else None
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(signum, self._note)

    def _note(self, signum: int, _frame: object) -> None:
        self.signals.append(signum)

    def check(self) -> None:
        """Raises Stop when there is a reason to."""
        if self.signals:
            raise Stop(self.signals[0])
        # Asked for, not announced by PR_SET_PDEATHSIG: that comes when the *thread* ends which
        # started us, and a test runner's threads end early.
        if os.getppid() != self._parent or self._stdin_ended():
            raise Stop(0)

    def _stdin_ended(self) -> bool:
        if self._stdin is None:
            return False
        ready, _, _ = select.select([self._stdin], [], [], 0)
        return bool(ready) and not os.read(self._stdin, 4096)


def is_pipe(descriptor: int) -> bool:
    """A pipe or a socket, whose end means something; /dev/null and a terminal are neither."""
    try:
        mode = os.fstat(descriptor).st_mode
    except OSError:
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)


def say(message: str) -> None:
    with contextlib.suppress(OSError):
        print(f"nodes.py: {message}", file=sys.stderr, flush=True)


def make_model(group: Group, watch: Watch) -> None:
    """Idempotent; in the group, so that it too ends with us."""
    python = places.environment() / "bin" / "python"
    script = Path(__file__).with_name("model.py")
    popen = group.popen([str(python), str(script), str(places.model())], stdin=subprocess.DEVNULL)
    while popen.poll() is None:
        watch.check()
        time.sleep(0.02)
    if popen.returncode:
        raise StackError(f"the model could not be made: model.py exited with {popen.returncode}")


def bring_up(options: argparse.Namespace, plan: Arrangement, group: Group, watch: Watch) -> None:
    """Start everything; return when every process answers."""
    folder = plan.folder
    make_model(group, watch)
    mooncake_config_path(folder).write_text(json.dumps(plan.mooncake_config), encoding="utf-8")
    store = {
        "master": "a Mooncake master", "lmcache": "an LMCache server", "proxy": "a proxy",
    }[plan.store_name]  # fmt: skip
    say(f"starting {store} and {len(plan.nodes)} vLLM nodes; logs in {folder}")
    wait_ready([group.start(plan.store, folder)], options.timeout, say, watch.check)
    nodes = [group.start(node, folder) for node in plan.nodes]
    wait_ready(nodes, options.timeout, say, watch.check)


def report_deaths(group: Group) -> None:
    """Tell once of each process that died while the stack was up."""
    for child in group.children:
        death = None if child.reported else child.death()
        if death is not None:
            child.reported = True
            say(death)


def any_died(group: Group) -> bool:
    return any(child.reported for child in group.children)


def stay_up(plan: Arrangement, group: Group, watch: Watch) -> int:
    """`up`: until there is a reason to stop, or nothing is left. A dead node is told, not fatal."""
    print(json.dumps(summary(plan, [c.popen.pid for c in group.children])), flush=True)
    while any(child.popen.poll() is None for child in group.children):
        try:
            watch.check()
        except Stop as stop:
            if stop.signum:
                raise
            return int(any_died(group))
        report_deaths(group)
        time.sleep(POLL_S)
    report_deaths(group)
    return 1


def run_command(command: Sequence[str], plan: Arrangement, group: Group, watch: Watch) -> int:
    """`run`: the command's return code as subprocess gives it (negative: died of that signal)."""
    named = {f"KV_NODE_{chr(ord('A') + index)}": url for index, url in enumerate(plan.node_urls)}
    names = {"master": "KV_MOONCAKE", "lmcache": "KV_LMCACHE", "proxy": "KV_PROXY"}
    store = names[plan.store_name]
    environment = os.environ | named | {store: plan.store_url, "KV_MODEL": SERVED_NAME}
    try:
        popen = group.popen(
            list(command),
            signal.SIGTERM,
            env=environment,
            # Its process group is not the terminal's, so that reading there would stop it.
            stdin=subprocess.DEVNULL if os.isatty(0) else None,
        )
    except OSError as error:
        raise StackError(f"{command[0]}: {(error.strerror or str(error)).lower()}") from error
    passed_on = 0
    while popen.poll() is None:
        for signum in watch.signals[passed_on:]:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(popen.pid, signum)
            passed_on += 1
        if not passed_on:
            watch.check()  # the parent may be gone
        report_deaths(group)
        time.sleep(POLL_S)
    watch.check()
    return int(popen.returncode)


def die_of(signum: int) -> None:
    """End by the signal itself, so that a shell loop around us stops too."""
    with contextlib.suppress(OSError):  # SIGKILL takes no handler
        signal.signal(signum, signal.SIG_DFL)
    os.kill(os.getpid(), signum)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a session ended: the status (negative: of that signal), and whether logs matter."""

    status: int
    in_order: bool


def session(options: argparse.Namespace, folders: Folders) -> Outcome:
    """Up, the work, down."""
    watch = Watch(watch_stdin=options.verb == "up")
    claims = Claims()  # this process holds the ports as long as it lives
    sizes = Sizes(
        kv_cache_gib=options.kv_cache,
        kv_cache_blocks=options.kv_blocks,
        segment_mib=options.segment,
    )
    group = Group()
    try:
        plan = arrange(
            nodes=options.nodes,
            folders=folders,
            sizes=sizes,
            take_port=claims.take,
            connector=options.connector,
            lmcache_l2=options.lmcache_l2,
        )
        plan = with_node_environment(plan, dict(options.node_env))
        bring_up(options, plan, group, watch)
        if options.verb == "up":
            status = stay_up(plan, group, watch)
        else:
            status = run_command(options.command, plan, group, watch)
        return Outcome(status=status, in_order=not any_died(group))
    except Stop as stop:
        return Outcome(status=-stop.signum, in_order=not any_died(group))
    except (StackError, OSError) as error:
        say(str(error))
        return Outcome(status=2, in_order=False)
    finally:
        group.stop()
        say("everything stopped")


def parse(argv: Sequence[str]) -> argparse.Namespace:
    summary_line, _, rest = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        prog="nodes.py",
        description=summary_line,
        epilog=rest,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="up|run|check")
    for verb, sentence in (("up", "until it is told to stop"), ("run", "as long as COMMAND runs")):
        sub = verbs.add_parser(verb, help=sentence, allow_abbrev=False)
        sub.add_argument("--nodes", type=int, default=2, help="vLLM nodes (default 2)")
        sub.add_argument(
            "--node-env", type=assignment, action="append", default=[], metavar="NAME=VALUE",
            help="variable for every node; the caller's own VLLM_* are not passed on",
        )  # fmt: skip
        sub.add_argument(
            "--lmcache-l2", action="store_true",
            help="a second level for LMCache: files in lmcache-l2 of the folder for logs",
        )  # fmt: skip
        sub.add_argument("--dir", type=Path, help="folder for logs, kept afterwards")
        sub.add_argument(
            "--kv-cache", type=int, default=1, metavar="GIB", help="KV cache of a node (default 1)"
        )
        sub.add_argument(
            "--kv-blocks", type=int, metavar="N",
            help="use no more blocks of it, of 128 tokens; the longest prompt takes 128",
        )  # fmt: skip
        sub.add_argument(
            "--segment", type=int, default=256, metavar="MIB",
            help="what a node lends to the store, or adds to LMCache's L1 (default 256)",
        )  # fmt: skip
        sub.add_argument(
            "--timeout", type=float, default=300.0, metavar="S", help="for the start (default 300)"
        )
    verbs.add_parser("check", help="is it installed?", allow_abbrev=False)
    for sub in verbs.choices.values():
        sub.add_argument(
            "--connector", choices=get_args(Connector), default="mooncake",
            help="what nodes share blocks through: the store (mooncake), a folder (example: "
            "ExampleConnector), one LMCache server (lmcache-mp), or prefiller and decoder (nixl)",
        )  # fmt: skip
    own, command = split_command(argv)
    options = parser.parse_args(own)
    options.command = command
    if (options.verb == "run") != bool(command):
        parser.error("`run`, and only `run`, ends with -- COMMAND ARGUMENTS...")
    if options.verb != "check" and not 1 <= options.nodes <= 26:
        parser.error(f"--nodes {options.nodes}: between 1 and 26")
    return options


def assignment(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, value


def split_command(argv: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
    """Our words and, after the first `--`, the command's."""
    if "--" not in argv:
        return argv, ()
    place = list(argv).index("--")
    return argv[:place], argv[place + 1 :]


def main(argv: Sequence[str]) -> int:
    options = parse(argv)
    missing = places.why_not_installed(
        with_lmcache=options.connector == "lmcache-mp", with_nixl=options.connector == "nixl"
    )
    if missing:
        say(missing)
        return 2
    if options.verb == "check":
        return 0
    own_folder = Path(tempfile.mkdtemp(prefix="kv-real-"))
    logs = options.dir.resolve() if options.dir else own_folder
    logs.mkdir(parents=True, exist_ok=True)
    outcome = session(options, Folders(logs=logs, sockets=own_folder))
    if outcome.in_order or logs != own_folder:
        shutil.rmtree(own_folder, ignore_errors=True)
    return outcome.status


if __name__ == "__main__":
    code = main(sys.argv[1:])
    if code < 0:
        die_of(-code)
    sys.exit(code)
