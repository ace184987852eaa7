"""The load generator, a program of its own: `load.py PORT PATH CONNECTIONS SECONDS CPU` prints one JSON line.

Raw sockets and one epoll; an answer of the expected length is counted without being parsed, so that the
generator needs less than the server it loads. It tells its own share of a core, to show that.
"""

from __future__ import annotations

import json
import os
import select
import socket
import sys
import time

WARM_UP_SECONDS = 0.3
# A read allocates this much before it is cut down; past 128 KiB that is a system call of its own.
CHUNK = 1 << 14


class Load:
    """Keeps one request on its way on every connection."""

    def __init__(self, port: int, path: str, connections: int) -> None:
        self.request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode()
        self.poll = select.epoll()
        self.socks = [socket.create_connection(("127.0.0.1", port), timeout=10) for _ in range(connections)]
        for sock in self.socks:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.by_fd = {sock.fileno(): sock for sock in self.socks}
        self.parts: dict[int, bytes] = {}
        self.length = self.measure(self.socks[0])

    def measure(self, sock: socket.socket) -> int:
        """Send one request and return the bytes of its answer."""
        sock.sendall(self.request)
        data = sock.recv(CHUNK)
        while b"\r\n\r\n" not in data:
            data += sock.recv(CHUNK)
        head, _, _ = data.partition(b"\r\n\r\n")
        sizes = [line[15:] for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")]
        length = len(head) + 4 + int(sizes[0])
        while len(data) < length:
            data += sock.recv(CHUNK)
        return length

    def run(self, seconds: float) -> int:
        """Keep every connection busy for `seconds` and return the answers that came."""
        turn = self.run_one if len(self.socks) == 1 else self.run_many
        return turn(time.perf_counter() + seconds)

    def run_one(self, deadline: float) -> int:
        """One connection needs no epoll: write, then wait for the answer."""
        sock, request, length = self.socks[0], self.request, self.length
        sock.settimeout(None)
        count = 0
        while time.perf_counter() < deadline:
            sock.send(request)
            data = sock.recv(CHUNK)
            while len(data) < length:
                data += sock.recv(CHUNK)
            self.check(data)
            count += 1
        return count

    def run_many(self, deadline: float) -> int:
        """Send the next request when an answer is whole; at the deadline wait for those on their way."""
        for sock in self.socks:
            sock.setblocking(False)
            self.poll.register(sock, select.EPOLLIN)
            sock.send(self.request)
        count, busy = 0, len(self.socks)
        by_fd, poll, request = self.by_fd, self.poll.poll, self.request
        while busy:
            over = time.perf_counter() > deadline
            for fd, _ in poll(10):
                sock = by_fd[fd]
                if not self.take(fd, sock.recv(CHUNK)):
                    continue
                count += 1
                if over:
                    busy -= 1
                else:
                    sock.send(request)
        for sock in self.socks:
            self.poll.unregister(sock)
        return count

    def take(self, fd: int, data: bytes) -> bool:
        """Add what came on a connection; return whether its answer is whole."""
        if len(data) != self.length:
            data = self.parts.pop(fd, b"") + data
            if len(data) < self.length:
                self.parts[fd] = data
                return False
        self.check(data)
        return True

    def check(self, data: bytes) -> None:
        """Raise RuntimeError for anything but an answer 200 of the expected length."""
        if len(data) != self.length or data[9:12] != b"200":
            raise RuntimeError(f"expected 200 and {self.length} bytes, got {len(data)}: {data[:200]!r}")


def main() -> None:
    """Warm up, measure, print the result."""
    port, path, connections, seconds, cpu = sys.argv[1:6]
    os.sched_setaffinity(0, {int(cpu)})
    load = Load(int(port), path, int(connections))
    before = load.run(WARM_UP_SECONDS)
    spent, started = time.process_time(), time.perf_counter()
    count = load.run(float(seconds))
    wall = time.perf_counter() - started
    share = (time.process_time() - spent) / wall
    everything = 1 + before + count
    print(json.dumps({"requests": count, "all_requests": everything, "seconds": wall, "share": share}))


if __name__ == "__main__":
    main()
