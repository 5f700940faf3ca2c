"""How a process of this family begins and ends: one line on stderr, a status that means something.

Exit status, the same for every tool: 0 it ran and the answer is yes; 1 it ran and the answer is no
or partial; 2 it could not run; death by the signal for SIGINT, SIGTERM and SIGPIPE, so that a shell
loop around the tool stops too (a mere `exit 130` lets bash go on to the next iteration).

SIGPIPE stays as Python sets it (ignored): a tool full of sockets would otherwise die of a peer that
hung up. A closed stdout is a BrokenPipeError, met here once, at the top.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import io
import os
import re
import signal
import sys
import textwrap
import traceback
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from kvpipe.records import SCHEMA_VERSION

EXIT_STATUS = """\
exit status:
  0  it ran and the answer is yes
  1  it ran and the answer is no, or partial
  2  it could not run (usage, config, unreachable server, broken input)
  death by the signal for SIGINT, SIGTERM, SIGPIPE
"""

_SECRET_FLAG = re.compile(r"(?i)(-[\w-]*(?:key|token|secret|passw|auth|header)[\w-]*[= ])\S+")
_USER = re.compile(r"(?<=://)[^\s/?#]*@")

LONGEST = 1000
"""Signs of a message that somebody still reads."""


class ToolError(Exception):
    """An expected failure: one line for a person, and exit status 2 unless told otherwise."""

    def __init__(self, message: str, status: int = 2) -> None:
        super().__init__(message)
        self.status = status


class UsageError(ToolError):
    """The command line asks for something that cannot be."""


class Stopped(Exception):
    """A signal asked the tool to stop; what was measured has been written."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum


def version() -> str:
    """Version of the distribution, written once in pyproject.toml."""
    return importlib.metadata.version("kvworth")


def legible(text: str) -> str:
    """`text` on one line of a terminal: signs that steer it, or hide or turn text, are spelt out.

    Messages quote names, paths and what a server answered: all of that is anybody's data.
    """
    if text.isprintable():
        return text
    return "".join(
        sign.encode("unicode_escape").decode()
        if unicodedata.category(sign) in ("Cc", "Cf", "Cs", "Zl", "Zp")
        else sign
        for sign in text
    )


def complain(message: str, prog: str | None = None) -> None:
    """One line for people; a broken stderr is no reason to lose data."""
    name = prog or Path(sys.argv[0]).name
    shown = legible(message)
    if len(shown) > LONGEST:  # it quotes something endless; its end says what to do
        shown = f"{shown[: LONGEST * 2 // 3]} ... {shown[-LONGEST // 4 :]}"
    try:
        print(f"{name}: {shown}", file=sys.stderr, flush=True)
    except (OSError, ValueError):
        _let_go(2)


def _let_go(descriptor: int) -> None:
    """Point a stream that cannot be written elsewhere.

    What it still buffers would else fail once more while the interpreter shuts down, which would
    print `Exception ignored` and turn the exit status into 120.
    """
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)


def die_of(signum: int) -> NoReturn:
    """End this process by the signal itself, so that the parent sees what happened."""
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.flush()
    signal.signal(signum, signal.SIG_DFL)
    os.kill(os.getpid(), signum)
    os._exit(128 + signum)  # only if the signal is blocked


class _Parser(argparse.ArgumentParser):
    """Quotes what was typed as what it is: one line, and no key that was given to a wrong flag."""

    def error(self, message: str) -> NoReturn:
        super().error(legible(_USER.sub("", _SECRET_FLAG.sub(r"\1...", message))))


def new_parser(
    prog: str, description: str, examples: str, usage: str | None = None
) -> argparse.ArgumentParser:
    """The family's command line: 80 columns, exit status and examples in --help, --version."""

    def formatter(prog: str) -> argparse.HelpFormatter:
        return argparse.RawDescriptionHelpFormatter(prog, max_help_position=28, width=80)

    parser = _Parser(
        prog=prog,
        usage=usage and _folded(usage, width=80 - len("usage: ")),
        description=_folded(description),
        epilog=f"{EXIT_STATUS}\nexamples:\n{examples}",
        formatter_class=formatter,
        allow_abbrev=False,
    )
    shown = f"{prog} {version()} (schema {SCHEMA_VERSION})"
    parser.add_argument("--version", action="version", version=shown)
    parser.add_argument("-v", "--verbose", action="store_true", help="show tracebacks")
    return parser


def _folded(text: str, width: int = 80) -> str:
    """Lines that are too wide are folded at spaces; the others stay as they were written."""
    return "\n".join(
        textwrap.fill(line, width, break_long_words=False, break_on_hyphens=False)
        for line in text.splitlines()
    )


def run_tool(
    prog: str,
    main: Callable[[Sequence[str] | None], int],
    argv: Sequence[str] | None = None,
) -> NoReturn:
    """Run `main(argv)` and end the process as the family does; never returns."""
    arguments = sys.argv[1:] if argv is None else argv
    verbose = "-v" in arguments or "--verbose" in arguments
    _write_whole()
    try:
        status = _status_of(main, argv)
        sys.stdout.flush()
    except Stopped as stop:
        _leave(stop.signum)
    except KeyboardInterrupt:
        _leave(signal.SIGINT)
    except BrokenPipeError:
        _let_go(1)  # the reader of our stdout has gone
        die_of(signal.SIGPIPE)
    except ToolError as error:
        status = error.status
        _tell(prog, str(error), verbose)
    except OSError as error:
        status = 2
        _flush()  # it may be stdout itself that cannot be written: a full disk
        _tell(prog, describe_os_error(error), verbose)
    except (MemoryError, RuntimeError, ImportError) as error:
        if not _starved(error):
            raise
        status = 2
        _flush()
        _tell(prog, "out of memory, or no thread to be had: see `ulimit -a`", verbose)
    sys.exit(status)


def _starved(error: MemoryError | RuntimeError | ImportError) -> bool:
    """Whether the machine refused memory, or a thread, for which Python has no type of its own."""
    refused = ("can't start new thread", "failed to map segment", "cannot allocate memory")
    return isinstance(error, MemoryError) or any(one in str(error).lower() for one in refused)


def _write_whole() -> None:
    """Give stdout the buffer that PYTHONUNBUFFERED, which images set, takes from it.

    Without one Python writes once and drops what a disk that fills, or a pipe in a signal, did not
    take: half a line, and status 0.
    """
    raw = getattr(sys.stdout, "buffer", None)
    own = sys.stdout is sys.__stdout__  # another is its owner's
    if own and isinstance(raw, io.RawIOBase):
        text = sys.stdout
        sys.stdout = io.TextIOWrapper(
            io.BufferedWriter(raw), text.encoding, text.errors, line_buffering=True
        )


def _status_of(main: Callable[[Sequence[str] | None], int], argv: Sequence[str] | None) -> int:
    """What main returns, or what argparse leaves with after --help or a usage error."""
    try:
        return main(argv)
    except SystemExit as leaving:
        if isinstance(leaving.code, str):
            raise
        return leaving.code or 0


def _leave(signum: int) -> NoReturn:
    """Write what there is, then die of the signal."""
    _flush()
    die_of(signum)


def _flush() -> None:
    """Write what stdout still holds, or let it go if that cannot be."""
    try:
        sys.stdout.flush()
    except OSError:
        _let_go(1)


def _tell(prog: str, message: str, verbose: bool) -> None:
    """One line; with -v the way there before it."""
    if verbose:
        for line in traceback.format_exc().splitlines():
            print(legible(line), file=sys.stderr)
    complain(message, prog)


def lower_first(text: str) -> str:
    """The text without its capital, as messages begin here; acronyms keep theirs."""
    return text if text[1:2].isupper() else text[:1].lower() + text[1:]


def describe_os_error(error: OSError) -> str:
    """`run.jsonl: no such file or directory`, in the family's grammar."""
    what = (error.strerror or str(error) or type(error).__name__).lower()
    return f"{error.filename}: {what}" if error.filename else what
