"""The machine that sends."""

from __future__ import annotations

import os
import platform
import socket
from functools import cache

from kvpipe.records import Host


@cache
def this_host() -> Host:
    """Name, system, Python and the processors that this process may use."""
    return Host(
        name=socket.gethostname(),
        system=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        cpus=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1,
    )
