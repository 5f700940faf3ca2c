"""Stamps are the kernel's where it gives them, and are on the clock of `perf_counter_ns`."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from kvload import sockets
from kvload.sockets import StampedSocket, kernel_stamps_come, wall_offset_ns

HOUR_NS = 3_600_000_000_000


@contextlib.contextmanager
def pair(*, kernel_stamps: bool = True) -> Iterator[tuple[StampedSocket, socket.socket]]:
    """A stamped socket and the peer that it is connected to."""
    with (
        socket.create_server(("127.0.0.1", 0)) as listening,
        StampedSocket(socket.AF_INET, kernel_stamps=kernel_stamps) as ours,
    ):
        ours.setblocking(True)
        ours.settimeout(30)
        ours.connect(listening.getsockname())
        theirs, _ = listening.accept()
        with theirs:
            yield ours, theirs


needs_kernel = pytest.mark.skipif(not kernel_stamps_come(), reason="this kernel does not stamp")


@needs_kernel
def test_once_stamps_come_no_read_lacks_one():
    """In a process of its own, since stamping is the whole machine's and begins late."""
    program = (
        "import socket\n"
        "from kvload.sockets import StampedSocket, kernel_stamps_come\n"
        "assert kernel_stamps_come()\n"
        "for _ in range(20):\n"
        "    server = socket.create_server(('127.0.0.1', 0))\n"
        "    ours = StampedSocket(socket.AF_INET)\n"
        "    ours.settimeout(30)\n"
        "    ours.connect(server.getsockname())\n"
        "    theirs, _ = server.accept()\n"
        "    theirs.send(b'x')\n"
        "    ours.recv(1)\n"
        "    assert not ours.unstamped\n"
        "    for one in (ours, theirs, server):\n"
        "        one.close()\n"
    )
    for _ in range(5):
        subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_the_offset_joins_the_two_clocks():
    before = time.perf_counter_ns()
    now = time.time_ns() + wall_offset_ns()
    after = time.perf_counter_ns()
    assert before - 1_000_000 <= now <= after + 1_000_000


@needs_kernel
def test_a_late_read_keeps_the_time_of_arrival():
    with pair() as (ours, theirs):
        theirs.send(b"warm")
        ours.recv(10)
        before = time.perf_counter_ns()
        theirs.send(b"x")
        after = time.perf_counter_ns()
        time.sleep(0.2)
        assert ours.recv(10) == b"x"
        assert before - 1_000_000 <= ours.kernel_ns <= after + 50_000_000
        assert ours.user_ns - ours.kernel_ns > 100_000_000
        assert not ours.unstamped


@needs_kernel
def test_stamps_never_go_back_nor_beyond_the_read():
    with pair() as (ours, theirs):
        last = 0
        for _ in range(300):
            theirs.send(b"x" * 200)
            ours.recv(1000)
            assert last <= ours.kernel_ns + 20_000  # two samples of the offset differ by less
            assert ours.kernel_ns <= ours.user_ns
            last = ours.kernel_ns


def test_without_kernel_stamps_there_is_the_read_alone():
    with pair(kernel_stamps=False) as (ours, theirs):
        ours.mark()
        theirs.send(b"x")
        before = time.perf_counter_ns()
        assert ours.recv(10) == b"x"
        assert ours.kernel_ns == 0
        assert before <= ours.user_ns <= time.perf_counter_ns()
        assert ours.unstamped


def test_a_kernel_that_refuses_is_not_asked_again(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sockets, "SO_TIMESTAMPNS", 0x7FFF)  # no such option
    with pair() as (ours, theirs):
        assert not ours.stamped
        theirs.send(b"x")
        assert ours.recv(10) == b"x"
        assert ours.kernel_ns == 0


def test_a_kernel_that_accepts_but_does_not_stamp_is_noticed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sockets, "SO_TIMESTAMPNS", socket.SO_KEEPALIVE)
    with pair() as (ours, theirs):
        assert ours.stamped
        theirs.send(b"x")
        assert ours.recv(10) == b"x"
        assert (ours.kernel_ns, ours.unstamped) == (0, True)


def reading(
    monkeypatch: pytest.MonkeyPatch, ours: StampedSocket, kind: int, stamp: bytes
) -> StampedSocket:
    """`ours` after a read with which the kernel gave `stamp`."""
    answer = (b"x", [(socket.SOL_SOCKET, 1, b"x" * 16), (socket.SOL_SOCKET, kind, stamp)], 0, None)
    monkeypatch.setattr(StampedSocket, "recvmsg", lambda *_: answer)
    ours.stamped = True
    ours.mark()
    assert ours.recv(10) == b"x"
    return ours


def timespec(wall_ns: int) -> bytes:
    return struct.pack("@ll", *divmod(wall_ns, 1_000_000_000))


def test_a_stamp_of_the_future_is_that_of_the_read(monkeypatch: pytest.MonkeyPatch):
    with pair() as (ours, _):
        late = timespec(time.time_ns() + HOUR_NS)
        reading(monkeypatch, ours, sockets.SO_TIMESTAMPNS, late)
        assert ours.kernel_ns == ours.user_ns
        assert not ours.unstamped


def test_a_jump_of_the_wall_clock_is_looked_at_again(monkeypatch: pytest.MonkeyPatch):
    with pair() as (ours, _):
        monkeypatch.setattr(sockets, "_wall_ns", lambda: time.time_ns() + HOUR_NS)
        before = time.perf_counter_ns()
        now = timespec(time.time_ns() + HOUR_NS)
        reading(monkeypatch, ours, sockets.SO_TIMESTAMPNS, now)
        assert before - 1_000_000 <= ours.kernel_ns <= ours.user_ns


@pytest.mark.parametrize("step_ns", [HOUR_NS, -HOUR_NS, 500_000_000, -500_000_000])
def test_what_came_before_the_wall_clock_was_set_is_not_moved(
    step_ns: int, monkeypatch: pytest.MonkeyPatch
):
    """It is set between the segment's stamp and the read of it."""
    with pair() as (ours, _):
        came_ns, stamp = time.perf_counter_ns(), timespec(time.time_ns())
        time.sleep(0.01)
        monkeypatch.setattr(sockets, "_wall_ns", lambda: time.time_ns() + step_ns)
        reading(monkeypatch, ours, sockets.SO_TIMESTAMPNS, stamp)
        assert came_ns - 1_000_000 <= ours.kernel_ns <= ours.user_ns - 5_000_000
        assert not ours.unstamped


def test_a_stamp_from_before_the_request_is_none(monkeypatch: pytest.MonkeyPatch):
    """A kernel and a process that have different clocks, as under libfaketime."""
    with pair() as (ours, _):
        monkeypatch.setattr(StampedSocket, "mark", lambda _: None)
        ours.send(b"x")
        reading(monkeypatch, ours, sockets.SO_TIMESTAMPNS, timespec(time.time_ns() - HOUR_NS))
        assert (ours.kernel_ns, ours.unstamped) == (0, True)


def test_a_break_between_the_two_clocks_does_not_move_the_stamp(
    monkeypatch: pytest.MonkeyPatch,
):
    """As if the thread had lost the processor for an hour after the first of them was read."""
    with pair() as (ours, _):
        late = iter([HOUR_NS])
        monkeypatch.setattr(sockets, "_wall_ns", lambda: time.time_ns() + next(late, 0))
        before = time.perf_counter_ns()
        reading(monkeypatch, ours, sockets.SO_TIMESTAMPNS, timespec(time.time_ns()))
        assert before - 1_000_000 <= ours.kernel_ns <= ours.user_ns


@pytest.mark.parametrize(("kind", "stamp"), [(1, b"x" * 16), (sockets.SO_TIMESTAMPNS, b"x")])
def test_other_ancillary_data_is_no_stamp(monkeypatch: pytest.MonkeyPatch, kind: int, stamp: bytes):
    with pair() as (ours, _):
        reading(monkeypatch, ours, kind, stamp)
        assert (ours.kernel_ns, ours.unstamped) == (0, True)


def test_the_end_of_a_stream_is_no_missing_stamp():
    with pair() as (ours, theirs):
        for _ in range(3):
            theirs.send(b"x")
            ours.recv(10)
        ours.mark()
        seen = ours.unstamped
        theirs.close()
        assert ours.recv(10) == b""
        assert ours.unstamped == seen


def test_sending_is_stamped_from_the_first_byte_to_the_last():
    with pair() as (ours, theirs):
        assert (ours.first_send_ns, ours.last_send_ns, ours.sent_bytes) == (0, 0, 0)
        before = time.perf_counter_ns()
        assert ours.send(b"abc") == 3
        first, last = ours.first_send_ns, ours.last_send_ns
        assert before <= first <= last <= time.perf_counter_ns()
        assert ours.sendmsg([b"de", bytearray(b"f")]) == 3
        assert ours.first_send_ns == first and ours.last_send_ns > last
        assert (ours.sent_bytes, ours.blocked) == (6, False)
        assert theirs.recv(6, socket.MSG_WAITALL) == b"abcdef"
        ours.mark()
        assert (ours.first_send_ns, ours.last_send_ns, ours.sent_bytes) == (0, 0, 0)


def test_a_full_buffer_is_told():
    with pair() as (ours, _):
        ours.setblocking(False)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        sent = 0
        with contextlib.suppress(BlockingIOError):
            while True:
                sent += ours.send(b"x" * 1_000_000)
        assert ours.blocked
        assert 0 < ours.sent_bytes == sent


def test_nagle_is_off():
    with pair() as (ours, _):
        assert ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1


async def test_asyncio_reads_and_writes_through_our_methods():
    """What the stamps rest on: the stock transport calls recv() and send() of the socket."""
    loop = asyncio.get_running_loop()
    got: asyncio.Future[bytes] = loop.create_future()

    class Echo(asyncio.Protocol):
        def data_received(self, data: bytes) -> None:
            got.set_result(data)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        sock = StampedSocket(socket.AF_INET)
        await loop.sock_connect(sock, listening.getsockname())
        theirs, _ = listening.accept()
        transport, _ = await loop.create_connection(Echo, sock=sock)
        with theirs:
            transport.write(b"ask")
            assert sock.first_send_ns > 0 and sock.sent_bytes == 3
            assert theirs.recv(10) == b"ask"
            theirs.send(b"answer")
            async with asyncio.timeout(30):
                assert await got == b"answer"
            assert sock.user_ns > 0
        transport.close()
        await asyncio.sleep(0)
