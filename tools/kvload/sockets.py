"""Sockets that know when: the kernel's receive stamp of each read, and when a request left.

A stamp taken when the event loop gets round to a read is late by as much as the loop is behind;
the kernel's own stamp (SO_TIMESTAMPNS, Linux, plain TCP) is not. `StampedSocket` is a
`socket.socket` whose `recv` and `send` leave their stamps behind as attributes, so that asyncio's
stock transport, which calls them, needs no hook. Whoever reads a stamp of 0 was not told: the
kernel gave none (another system, TLS), or the loop does not call these methods (uvloop).

A read that spans several segments carries the last one's stamp (net/ipv4/tcp.c).
"""

from __future__ import annotations

import errno
import socket
import struct
import sys
import time
from collections.abc import Iterable
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

# The number is that of asm-generic/socket.h. Where it means something else no stamp of this level
# and type arrives, and the reader falls back to its own.
SO_TIMESTAMPNS: int = getattr(socket, "SO_TIMESTAMPNS", 35)
_SOL_SOCKET = int(socket.SOL_SOCKET)
_TIMESPEC = struct.Struct("@ll")
_STAMP_BYTES = _TIMESPEC.size
_unpack = _TIMESPEC.unpack
_ANCILLARY = socket.CMSG_SPACE(_STAMP_BYTES) if hasattr(socket, "CMSG_SPACE") else 0
# asyncio asks for 256 KiB a read. Above malloc's mmap threshold (128 KiB) each kept read would
# cost a page of its own and three system calls.
_READ_BYTES = 64 * 1024
_JUMP_NS = 5_000  # two samples of the offset that differ by more were not taken together

_perf_ns = time.perf_counter_ns
_wall_ns = time.time_ns


def wall_offset_ns() -> int:
    """`time.perf_counter_ns` less `time.time_ns`, from the tightest of five brackets."""
    best = offset = 0
    for _ in range(5):
        before = _perf_ns()
        wall = _wall_ns()
        after = _perf_ns()
        if not best or after - before < best:
            best = after - before
            offset = (before + after) // 2 - wall
    return offset


@cache
def kernel_stamps_come(patience_s: float = 1.0) -> bool:
    """Whether the kernel stamps what is received here; waits until it has begun to.

    It begins a moment after the first socket has asked and ends with the last one
    (net_enable_timestamp defers both), so that the first answers of a run would lack stamps. One
    pair of sockets is kept for as long as the process lives, and with it the stamping.
    """
    try:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            ours = StampedSocket(socket.AF_INET)
            ours.settimeout(patience_s)
            ours.connect(listening.getsockname())
            theirs, _ = listening.accept()
        _kept.extend((ours, theirs))
        deadline = time.monotonic() + patience_s
        while ours.stamped and time.monotonic() < deadline:
            theirs.send(b"x")
            ours.recv(1)
            if ours.kernel_ns:
                return True
            time.sleep(0.001)
    except OSError:
        return False  # no loopback: stamps are the reader's own
    return False


_kept: list[socket.socket] = []


class StampedSocket(socket.socket):
    """A stream socket that notes when it read and wrote, on the clock of `perf_counter_ns`.

    `user_ns`: when the last `recv` returned; 0 until then. `kernel_ns`: when the kernel received
    the last segment of that read; 0 where it did not say. `first_send_ns` and `last_send_ns`:
    when the first byte since `mark()` was handed over and when the last one had been taken;
    0 before. `sent_bytes`: how many were taken since. `blocked`: the last send left a remainder.
    `unstamped`: the kernel did not stamp some read since then.
    """

    __slots__ = (
        "_offset_ns",
        "blocked",
        "first_send_ns",
        "kernel_ns",
        "last_send_ns",
        "sent_bytes",
        "stamped",
        "unstamped",
        "user_ns",
    )

    def __init__(self, family: int, *, kernel_stamps: bool = True) -> None:
        super().__init__(family, socket.SOCK_STREAM)
        self.setblocking(False)
        self.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.kernel_ns = 0
        self.stamped = kernel_stamps and self._ask_for_stamps()
        self._offset_ns = wall_offset_ns()
        self.mark()

    def _ask_for_stamps(self) -> bool:
        """Whether the kernel accepted to stamp; whether it does shows with the first read."""
        if sys.platform != "linux" or not _ANCILLARY:
            return False
        try:
            self.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        except OSError:
            return False
        return True

    def mark(self) -> None:
        """A new request begins: forget what was sent and read so far."""
        self.user_ns = 0
        self.unstamped = not self.stamped
        self.first_send_ns = 0
        self.last_send_ns = 0
        self.sent_bytes = 0
        self.blocked = False

    def recv(self, bufsize: int, flags: int = 0, /) -> bytes:
        # Called for every chunk of every stream: what could be a function of its own is not.
        size = _READ_BYTES if bufsize > _READ_BYTES else bufsize
        try:
            if not self.stamped:
                data = super().recv(size, flags)
                self.user_ns = _perf_ns()
                return data
            data, ancillary, _, _ = self.recvmsg(size, _ANCILLARY, flags)
        except MemoryError:  # asyncio would print a traceback; an OSError ends the request alone
            raise OSError(errno.ENOMEM, "no memory for what was received") from None
        user = _perf_ns()
        offset = user - _wall_ns()
        former = offset
        if not -_JUMP_NS < offset - self._offset_ns < _JUMP_NS:
            # The thread was taken off the processor between the two clocks, or the wall clock
            # was set or has drifted since the last read: look again, more carefully.
            former, offset = self._offset_ns, wall_offset_ns()
        self._offset_ns = offset
        self.user_ns = user
        for level, kind, stamp in ancillary:
            if kind == SO_TIMESTAMPNS and level == _SOL_SOCKET and len(stamp) == _STAMP_BYTES:
                seconds, nanoseconds = _unpack(stamp)
                kernel = seconds * 1_000_000_000 + nanoseconds + offset
                if former != offset:  # it may have come before the clock was set
                    earlier = kernel - offset + former
                    kernel = earlier if kernel < earlier <= user or kernel > user else kernel
                if kernel < self.first_send_ns:
                    break  # no answer comes before its request: this is another clock's
                self.kernel_ns = kernel if kernel < user else user
                return data
        self.kernel_ns = 0
        if data:  # the end of the stream has no stamp, and lacks none
            self.unstamped = True
        return data

    def send(self, data: ReadableBuffer, flags: int = 0, /) -> int:
        began = _perf_ns()
        try:
            taken = super().send(data, flags)
        except (BlockingIOError, InterruptedError):
            self.blocked = True
            raise
        self._note_send(began, taken, memoryview(data).nbytes)
        return taken

    def sendmsg(
        self,
        buffers: Iterable[ReadableBuffer],
        ancdata: Iterable[tuple[int, int, ReadableBuffer]] = (),
        flags: int = 0,
        address: Any = None,
        /,
    ) -> int:
        """What asyncio uses from Python 3.12 on for what a first `send` did not take."""
        pieces = list(buffers)
        began = _perf_ns()
        try:
            taken = super().sendmsg(pieces, ancdata, flags, address)
        except (BlockingIOError, InterruptedError):
            self.blocked = True
            raise
        self._note_send(began, taken, sum(memoryview(piece).nbytes for piece in pieces))
        return taken

    def _note_send(self, began: int, taken: int, offered: int) -> None:
        if taken:
            self.last_send_ns = _perf_ns()
            self.first_send_ns = self.first_send_ns or began
            self.sent_bytes += taken
        self.blocked = taken < offered
