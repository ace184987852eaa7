"""Readers of event streams: one that takes the times of a turn, and a crowd that shares one epoll."""

from __future__ import annotations

import contextlib
import json
import select
import socket
import time
from collections.abc import Sequence
from typing import Any, Self

from .http_client import BOUND_SECONDS, CHUNK, connect, request_bytes
from .turn import Seen

READY = b"event: session.ready\n"
COMPLETED = b"event: session.completed\n"
FAILED = b"event: session.error\n"
DELTA = b"item.agent_message.delta"
LONGEST_MARK = 32
NEVER_READ_BUFFER = 4096


def stream_request(session: str, port: int) -> bytes:
    """Encode the request that opens a session's stream."""
    return request_bytes("GET", f"/chat/sessions/{session}/stream", port=port)


def events_of(data: bytes) -> list[tuple[str, dict[str, Any]]]:
    """Decode the events of a stream's raw bytes: name and data, heartbeats and head left out."""
    events = []
    for block in data.split(b"\n\n"):
        at = block.find(b"event: ")
        if at < 0:
            continue
        name, _, rest = block[at + 7 :].partition(b"\n")
        value = b"".join(line[6:] for line in rest.split(b"\n") if line.startswith(b"data: "))
        events.append((name.decode(), json.loads(value)))
    return events


def delta_text(data: bytes) -> str:
    """Return the text of all agent-message deltas of a stream's bytes, in order."""
    events = (value["event"] for name, value in events_of(data) if name == "session.event")
    return "".join(event["delta"] for event in events if event["type"] == "item.agent_message.delta")


class Stream:
    """One reader of one stream, blocking; the clock is read with the bytes, nothing is parsed meanwhile."""

    def __init__(self, port: int, session: str) -> None:
        self.session = session
        self.sock = connect(port)
        self.sock.sendall(stream_request(session, port))
        data = b""
        while READY not in data or not data.endswith(b"\n\n"):
            data += self._read()

    def read_turn(self, started: float) -> Seen:
        """Read to the end of a turn that began at `started`."""
        reads: list[tuple[float, bytes]] = []
        first = 0.0
        window = b""
        over = False
        while not (over and window.endswith(b"\n\n")):
            chunk = self._read()
            now = time.perf_counter()
            reads.append((now, chunk))
            window = window[-LONGEST_MARK:] + chunk
            if not first and DELTA in window:
                first = now
            over = over or COMPLETED in window
            if FAILED in window:
                raise RuntimeError(f"the turn failed: {window[-600:]!r}")
        return Seen(first - started, now - started, reads)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def _read(self) -> bytes:
        chunk = self.sock.recv(CHUNK)
        if not chunk:
            raise RuntimeError("the stream was closed")
        return chunk


class Crowd:
    """Many readers, each on a connection of its own, one thread; what they read is counted and dropped."""

    def __init__(self, port: int, sessions: Sequence[str]) -> None:
        self.poll = select.epoll()
        self.socks: dict[int, socket.socket] = {}
        self.tails: dict[int, bytes] = {}
        self.received = 0
        for session in sessions:
            sock = connect(port)
            sock.sendall(stream_request(session, port))
            self.socks[sock.fileno()] = sock
            self.poll.register(sock, select.EPOLLIN)
        self.wait_for(READY)

    def wait_for(self, mark: bytes = COMPLETED, bound: float = BOUND_SECONDS) -> None:
        """Read until every stream has brought `mark`; raise RuntimeError when one fails, ends or is late."""
        waiting = set(self.socks)
        self.tails = dict.fromkeys(self.socks, b"")
        deadline = time.monotonic() + bound
        while waiting:
            for fd, _ in self.poll.poll(max(0.0, deadline - time.monotonic())):
                if mark in self._read(fd):
                    waiting.discard(fd)
            if time.monotonic() > deadline:
                raise RuntimeError(f"{len(waiting)} of {len(self.socks)} streams are without {mark!r}")

    def close(self) -> None:
        """Leave all streams."""
        self.poll.close()
        for sock in self.socks.values():
            sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read(self, fd: int) -> bytes:
        chunk = self.socks[fd].recv(CHUNK)
        if not chunk:
            raise RuntimeError("a stream was closed")
        self.received += len(chunk)
        window = self.tails[fd] + chunk
        if FAILED in window:
            raise RuntimeError(f"a turn failed: {window[-600:]!r}")
        self.tails[fd] = window[-LONGEST_MARK:]
        return window


def never_read(port: int, sessions: Sequence[str]) -> list[socket.socket]:
    """Open streams that nobody reads, with a small buffer on our side; wait for the first byte of each."""
    socks = []
    for session in sessions:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, NEVER_READ_BUFFER)
        sock.settimeout(BOUND_SECONDS)
        sock.connect(("127.0.0.1", port))
        sock.sendall(stream_request(session, port))
        sock.recv(1, socket.MSG_PEEK)
        socks.append(sock)
    return socks


def count_closed(socks: Sequence[socket.socket]) -> int:
    """Read what is left in streams nobody read and return how many the server has closed meanwhile."""
    closed = 0
    for sock in socks:
        sock.settimeout(0.2)
        with contextlib.suppress(TimeoutError):
            try:
                while sock.recv(CHUNK):
                    pass
                closed += 1
            except ConnectionResetError:
                closed += 1
    return closed
