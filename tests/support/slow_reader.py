"""A client of the event stream that stops reading."""

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from tests.support.bridge import Bridge
from tests.support.waiting import BOUND_S


@contextmanager
def never_reading(one: Bridge, session_id: str) -> Iterator[socket.socket]:
    """Open a stream, read until its first event begins, and then never again."""
    with socket.socket() as sock:
        sock.settimeout(BOUND_S)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect(("127.0.0.1", one.port))
        path = f"/chat/sessions/{session_id}/stream"
        sock.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{one.port}\r\n\r\n".encode())
        seen = b""
        while b"session.ready" not in seen:
            seen += sock.recv(512)
        yield sock


def drain(sock: socket.socket) -> bytes:
    """Read to the end of the connection, under one bound for the whole of it: heartbeats would feed any other."""
    pieces = []
    deadline = time.monotonic() + BOUND_S
    with suppress(ConnectionResetError):
        while piece := sock.recv(1 << 20):
            pieces.append(piece)
            assert time.monotonic() < deadline, f"the connection is still open after {BOUND_S:g} s"
    return b"".join(pieces)
