"""A TCP link that can be broken: what lies between a node and the master in a drill.

Without privileges nobody can pull a cable on loopback; a relay in the way can do both things that a
broken link does: connections reset and refused (a router that knows), or bytes that go nowhere
(a cable that was pulled).
"""

import contextlib
import selectors
import socket
import struct
import threading
from typing import Literal

CHUNK = 1 << 16
TICK_S = 0.05
RESET = struct.pack("ii", 1, 0)  # SO_LINGER of 0 s: close() sends a reset

Mode = Literal["open", "cut", "silent"]


class Relay:
    """Forwards 127.0.0.1:`port` to 127.0.0.1:`target` while open.

    `mode` may be set at any time. `cut`: connections are reset and new ones refused. `silent`:
    nothing is taken, answered or closed; once open again, what was under way goes on.
    """

    def __init__(self, port: int, target: int) -> None:
        self.port = port
        self.mode: Mode = "open"
        self.connections = 0  # ever accepted
        self._target = target
        self._listener: socket.socket | None = None
        self._peers: dict[socket.socket, socket.socket] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Relay":
        self._listen()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        with selectors.DefaultSelector() as selector:
            while not self._stop.is_set():
                self._tick(selector)
        self._close_all()

    def _tick(self, selector: selectors.BaseSelector) -> None:
        if self.mode == "cut":
            self._close_all()
        elif self._listener is None:
            self._listen()
        if self.mode != "open":
            self._stop.wait(TICK_S)
            return
        self._watch(selector)
        for key, _ in selector.select(TICK_S):
            if self.mode != "open":
                return
            if key.fileobj is self._listener:
                self._accept()
            elif key.fileobj in self._peers:
                self._forward(key.fileobj)

    def _watch(self, selector: selectors.BaseSelector) -> None:
        """Exactly the sockets that are open now."""
        wanted = {*self._peers, *([self._listener] if self._listener else [])}
        for key in list(selector.get_map().values()):
            if key.fileobj not in wanted:
                selector.unregister(key.fileobj)
        for one in wanted:
            if one not in {key.fileobj for key in selector.get_map().values()}:
                selector.register(one, selectors.EVENT_READ)

    def _listen(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", self.port), backlog=64)

    def _accept(self) -> None:
        assert self._listener is not None
        near, _ = self._listener.accept()
        try:
            far = socket.create_connection(("127.0.0.1", self._target), timeout=5)
        except OSError:  # nobody there: what the node would have met itself
            _reset(near)
            return
        self.connections += 1
        self._peers |= {near: far, far: near}

    def _forward(self, one: socket.socket) -> None:
        other = self._peers[one]
        try:
            data = one.recv(CHUNK)
            if data:
                other.sendall(data)
        except OSError:
            data = b""
        if not data:
            for end in (one, other):
                self._peers.pop(end, None)
                end.close()

    def _close_all(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        for one in self._peers:
            _reset(one)
        self._peers = {}


def _reset(one: socket.socket) -> None:
    with contextlib.suppress(OSError):
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    one.close()
