"""HTTP as bytes: what a careless or a hostile client writes, and exactly what comes back."""

import socket
from dataclasses import dataclass
from types import TracebackType

from tests.support.waiting import BOUND_S


@dataclass(frozen=True, slots=True)
class RawReply:
    """One response; header names are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def closes(self) -> bool:
        """Tell whether the server says that this was the last answer."""
        return "close" in self.headers.get("connection", "").lower()


class RawConnection:
    """One connection to the bridge."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._socket = socket.create_connection(("127.0.0.1", port), BOUND_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = b""

    def __enter__(self) -> "RawConnection":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self._socket.close()

    def send(self, data: bytes) -> None:
        """Write bytes; `{port}` stands for the bridge's port. A server that has hung up already is fine."""
        try:
            self._socket.sendall(data.replace(b"{port}", str(self.port).encode()))
        except (BrokenPipeError, ConnectionResetError):
            return

    def end(self) -> None:
        """Say that nothing more comes."""
        self._socket.shutdown(socket.SHUT_WR)

    def _receive(self) -> bool:
        try:
            more = self._socket.recv(1 << 16)
        except ConnectionResetError:
            return False
        self._buffer += more
        return bool(more)

    def _read_until(self, mark: bytes) -> bytes:
        while mark not in self._buffer:
            if not self._receive():
                raise EOFError(f"the bridge closed the connection after {self._buffer!r}")
        head, _, self._buffer = self._buffer.partition(mark)
        return head

    def _read(self, count: int) -> bytes:
        while len(self._buffer) < count:
            if not self._receive():
                raise EOFError(f"the bridge closed the connection in a body, after {self._buffer!r}")
        data, self._buffer = self._buffer[:count], self._buffer[count:]
        return data

    def reply(self, *, head_only: bool = False) -> RawReply:
        """Read the next response; `head_only` for the answer to a HEAD."""
        first, *lines = self._read_until(b"\r\n\r\n").decode("latin-1").split("\r\n")
        version, status, _ = first.split(" ", 2)
        assert version == "HTTP/1.1", first
        pairs = [line.partition(":") for line in lines]
        headers = {name.lower(): value.strip() for name, _, value in pairs}
        bodyless = head_only or status in ("100", "204", "304")
        body = b"" if bodyless else self._read(int(headers["content-length"]))
        return RawReply(int(status), headers, body)

    def is_closed(self) -> bool:
        """Read to the end; fail when anything more comes. The answer is always True, or the wait runs into its bound."""
        while self._receive():
            pass
        assert self._buffer == b"", f"unasked bytes: {self._buffer!r}"
        return True


def head(*lines: str) -> bytes:
    """Join the lines of a head as they are."""
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def get(path: str = "/health", *headers: str, version: str = "1.1") -> bytes:
    """Write a GET."""
    return head(f"GET {path} HTTP/{version}", "Host: 127.0.0.1:{port}", *headers)


def post(body: bytes, *headers: str, path: str = "/chat/sessions", sized: bool = True) -> bytes:
    """Write a POST with a JSON body; without `sized` the caller's headers say how the body is framed."""
    first = [f"POST {path} HTTP/1.1", "Host: 127.0.0.1:{port}", "Content-Type: application/json"]
    length = [f"Content-Length: {len(body)}"] if sized else []
    return head(*first, *length, *headers) + body
