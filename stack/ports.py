"""Free loopback ports, claimed so that two stacks on one machine do not meet.

vLLM binds its port half a minute after it was chosen, so that asking the kernel is not
enough: a claim is also a locked file, which the kernel releases when its holder dies.
"""

import fcntl
import os
import socket
import tempfile
from pathlib import Path

TRIED = 200  # beyond that something else is wrong


def is_free(port: int) -> bool:
    """Nobody listens there now, on loopback or on every address."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


class Claims:
    """The ports of one stack, held until this process ends."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.gettempdir()) / f"kv-real-ports-{os.getuid()}"
        self._folder.mkdir(mode=0o700, exist_ok=True)
        self._held: dict[int, int] = {}

    def take(self, first: int) -> int:
        """The first port from `first` on that is free and that no other stack has claimed."""
        for port in range(first, first + TRIED):
            if port not in self._held and self._lock(port):
                return port
        raise OSError(f"no free port from {first} to {first + TRIED - 1}")

    def _lock(self, port: int) -> bool:
        descriptor = os.open(self._folder / str(port), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            return False
        if not is_free(port):
            os.close(descriptor)
            return False
        self._held[port] = descriptor
        return True
