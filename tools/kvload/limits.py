"""The process's own limits: one stream is one open file."""

from __future__ import annotations

import contextlib


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
