"""A server behind TLS that can break it: below what it encrypts, and in the handshake.

The streams of asyncio cannot write beneath their own encryption; plain sockets and threads can. An
answer is made of tests.fakeserver's steps, and of `Raw`.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import socketserver
import ssl
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest
from tests.fakeserver import Close, Hang, Pause, Received, Reset, Step, Wait


@dataclass(frozen=True, slots=True)
class Raw:
    """Bytes past the encryption: the connection's next record is none."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Unwrap:
    """End TLS in good order (close_notify), then the connection."""


Answer = Callable[[Received], Sequence[Step | Raw | Unwrap]]


class TlsServer:
    """`with TlsServer(answer, context) as server: ... server.url`.

    `greetings` are taken by the next connections instead of a handshake: bytes that are sent, or
    None for a server that never says a word.
    """

    def __init__(self, answer: Answer, context: ssl.SSLContext | None) -> None:
        self.answer = answer
        self.context = context
        self.greetings: list[bytes | None] = []
        self.stopped = threading.Event()
        owner = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                with contextlib.suppress(OSError, EOFError):
                    owner.serve(self.request)

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads = True
            block_on_close = False
            request_queue_size = 64

        self.server = Server(("127.0.0.1", 0), Handler)
        self.url = f"https://127.0.0.1:{self.server.server_address[1]}"

    def __enter__(self) -> TlsServer:
        threading.Thread(target=self.server.serve_forever, args=(0.02,)).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stopped.set()
        self.server.shutdown()
        self.server.server_close()

    def serve(self, plain: socket.socket) -> None:
        if self.context is None or self.greetings:
            greeting = self.greetings.pop(0) if self.greetings else None
            plain.recv(4096)
            if greeting is None:
                self.stopped.wait(60)
            else:
                plain.sendall(greeting)
            return
        with self.context.wrap_socket(plain, server_side=True) as stream:
            while self.exchange(stream):
                pass

    def exchange(self, stream: ssl.SSLSocket) -> bool:
        """One request and its answer; whether the connection lasts."""
        return all(self.does(step, stream) for step in self.answer(received(stream)))

    def does(self, step: Step | Raw | Unwrap, stream: ssl.SSLSocket) -> bool:
        match step:
            case bytes():
                stream.sendall(step)
            case Pause(seconds):
                time.sleep(seconds)
            case Wait(event):
                event.wait(60)
            case Raw(data):
                socket.socket.send(stream, data)
            case Unwrap():
                stream.unwrap()
                return False
            case Hang():
                while stream.recv(65536):
                    pass
                return False
            case Reset():
                stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                return False
            case Close():
                return False
        return True


def received(stream: ssl.SSLSocket) -> Received:
    data = b""
    while b"\r\n\r\n" not in data:
        data += more(stream)
    head, _, body = data.partition(b"\r\n\r\n")
    line, *rest = head.decode("latin-1").split("\r\n")
    headers = {
        name.lower(): value.strip() for name, _, value in (one.partition(":") for one in rest)
    }
    while len(body) < int(headers.get("content-length", "0")):
        body += more(stream)
    return Received(line, headers, body, 0)


def more(stream: ssl.SSLSocket) -> bytes:
    data = stream.recv(65536)
    if not data:
        raise EOFError
    return data


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """`file` may be named as one's own authority by SSL_CERT_FILE."""

    file: Path
    key: Path

    def context(self) -> ssl.SSLContext:
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        made.load_cert_chain(self.file, self.key)
        return made


def certificate(folder: Path, address: str = "127.0.0.1", *, expired: bool = False) -> Certificate:
    """Signed by itself, for an address; skips the test where there is no openssl."""
    if shutil.which("openssl") is None:
        pytest.skip("needs the openssl command")
    made = Certificate(file=folder / "certificate.pem", key=folder / "key.pem")
    kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    named = ["-subj", f"/CN={address}", "-addext", f"subjectAltName=IP:{address}"]
    openssl("req", "-x509", *kind, *named, "-keyout", made.key, "-out", made.file)
    if expired:
        late = ["-in", made.file, "-signkey", made.key, "-days", "-1"]
        openssl("x509", *late, "-out", folder / "late.pem")
        (folder / "late.pem").rename(made.file)
    return made


def openssl(*arguments: Any) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True, timeout=60)
