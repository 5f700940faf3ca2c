"""The process's own limits: one stream is one open file."""

from __future__ import annotations

import contextlib

from kvpipe.process import ToolError

BESIDES = 64  # files that are no stream: pipes, libraries, counters, connections being replaced


def raise_open_files() -> None:
    """Lift the soft limit on open files to the hard one; where it cannot be, it stays."""
    try:
        import resource
    except ImportError:  # not a Unix
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def check_open_files(streams: int, workers: int) -> None:
    """ToolError if so many streams over so many processes are more than may be open at once."""
    try:
        import resource
    except ImportError:
        return
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    needed = -(-streams // workers) + BESIDES
    if allowed != resource.RLIM_INFINITY and needed > allowed:
        raise ToolError(
            f"{streams} streams need about {needed} open files per process, and {allowed} are"
            f" allowed: ulimit -n {needed}, or more --workers, or fewer streams"
        )
