"""A small HTTP/1.1 client over one kept-alive socket: what a host needs, little that costs time."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from typing import Any

BOUND_SECONDS = 60.0
# A read allocates this much before it is cut down; past 128 KiB that is a system call of its own.
CHUNK = 1 << 16
POLL_SECONDS = 0.001


def request_bytes(method: str, path: str, body: object = None, port: int = 0) -> bytes:
    """Encode a request; a body that is not None is sent as JSON."""
    head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
    if body is None:
        return (head + "\r\n").encode()
    data = json.dumps(body).encode()
    return f"{head}Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data


def connect(port: int) -> socket.socket:
    """Open a connection to loopback with small writes sent at once and every wait bounded."""
    sock = socket.create_connection(("127.0.0.1", port), timeout=BOUND_SECONDS)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


class Connection:
    """One connection; `send` and `receive` apart, so that many requests can be on their way at once."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.sock = connect(port)
        self.data = b""

    def send(self, method: str, path: str, body: object = None) -> None:
        """Write one request."""
        self.sock.sendall(request_bytes(method, path, body, self.port))

    def receive(self) -> tuple[int, bytes, int]:
        """Read one sized answer: status, body, bytes of the whole answer."""
        while b"\r\n\r\n" not in self.data:
            self._read()
        head, _, rest = self.data.partition(b"\r\n\r\n")
        length = content_length(head)
        while len(rest) < length:
            self._read()
            rest = self.data[len(head) + 4 :]
        self.data = rest[length:]
        return int(head[9:12]), rest[:length], len(head) + 4 + length

    def call(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        """Send a request and return the JSON of a successful answer; raise RuntimeError for any other."""
        self.send(method, path, body)
        return self.result()

    def result(self) -> dict[str, Any]:
        """Read an answer and return its JSON; raise RuntimeError unless it says success."""
        status, data, _ = self.receive()
        if status >= 300:
            raise RuntimeError(f"expected success, got {status}: {data[:300]!r}")
        value: dict[str, Any] = json.loads(data)
        return value

    def close(self) -> None:
        """Close the socket."""
        self.sock.close()

    def _read(self) -> None:
        more = self.sock.recv(CHUNK)
        if not more:
            raise RuntimeError("the server closed the connection in the middle of an answer")
        self.data += more


def content_length(head: bytes) -> int:
    """Return the Content-Length of a head; raise RuntimeError where it has none."""
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    raise RuntimeError("expected an answer with Content-Length")


def free_port() -> int:
    """Return a port of loopback that nobody listens on at the moment."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def wait_for_answer(process: subprocess.Popen[bytes], port: int, path: str, bound: float = 20.0) -> None:
    """Return as soon as a GET answers 200; asked again every millisecond while nobody listens yet."""
    deadline = time.monotonic() + bound
    while True:
        try:
            connection = Connection(port)
        except ConnectionRefusedError:
            if process.poll() is not None:
                raise RuntimeError(f"the server ended with {process.returncode}") from None
            if time.monotonic() > deadline:
                raise RuntimeError(f"nothing answered on port {port} within {bound:.0f} s") from None
            time.sleep(POLL_SECONDS)
            continue
        connection.send("GET", path)
        status, _, _ = connection.receive()
        connection.close()
        if status != 200:
            raise RuntimeError(f"expected 200 for {path}, got {status}")
        return
