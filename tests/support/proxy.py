"""A forward proxy on loopback: CONNECT tunnels, and requests with absolute targets.

It alone knows the hosts that it is given: a made-up name that is reached was reached through it.
"""

import base64
import contextlib
import http.client
import select
import socket
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.support.waiting import BOUND_S

_OWN_HEADERS = {
    "connection",
    "proxy-authorization",
    "proxy-connection",
    "transfer-encoding",
    "content-length",
}


class ForwardProxy:
    """Leads `host:port` to a port of loopback. `seen` holds each request: its method, target and headers."""

    def __init__(self, hosts: Mapping[str, int], credentials: str | None = None) -> None:
        self.hosts = hosts
        self.seen: list[tuple[str, str, dict[str, str]]] = []
        self.authorization = None
        if credentials is not None:
            self.authorization = "Basic " + base64.b64encode(credentials.encode()).decode()
        self.connections: set[socket.socket] = set()
        handler = type("Handler", (_Handler,), {"proxy": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.port: int = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), name="proxy")
        self._thread.start()

    def url(self, userinfo: str = "") -> str:
        """Return its address, with `user:password@` where that is given."""
        return f"http://{userinfo}127.0.0.1:{self.port}"

    @property
    def targets(self) -> list[str]:
        """What was asked for, such as `CONNECT models.test:443`."""
        return [f"{method} {target}" for method, target, _ in self.seen]

    def stop(self) -> None:
        """Close everything and join every thread."""
        self._server.shutdown()
        for connection in list(self.connections):
            with contextlib.suppress(OSError):  # closed by the peer in this moment
                connection.shutdown(socket.SHUT_RDWR)
        self._server.server_close()
        self._thread.join(BOUND_S)


class _Handler(BaseHTTPRequestHandler):
    proxy: ForwardProxy
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: what came is in `proxy.seen`."""

    def handle(self) -> None:
        self.proxy.connections.add(self.connection)
        with contextlib.suppress(ConnectionError):  # either side may leave
            super().handle()
        self.proxy.connections.discard(self.connection)

    def do_CONNECT(self) -> None:
        self.close_connection = True
        port = self.admit(self.path)
        if port is None:
            return
        with socket.create_connection(("127.0.0.1", port), BOUND_S) as upstream:
            self.wfile.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            _pipe(self.connection, upstream)

    def do_any(self) -> None:
        """Pass one request on, and its answer as it comes."""
        authority, slash, path = self.path.removeprefix("http://").partition("/")
        port = self.admit(authority if ":" in authority else f"{authority}:80")
        if port is None:
            return
        headers = {name: value for name, value in self.headers.items() if name.lower() not in _OWN_HEADERS}
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=BOUND_S)
        with contextlib.closing(connection):
            connection.request(self.command, slash + path, b"".join(self.read_body()), headers)
            self.answer(connection.getresponse())

    do_GET = do_POST = do_any

    def admit(self, target: str) -> int | None:
        """Note the request; return the port it leads to, None when it was refused."""
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.proxy.seen.append((self.command, self.path, headers))
        if self.proxy.authorization not in (None, headers.get("proxy-authorization")):
            self.send_error(407)
            return None
        port = self.proxy.hosts.get(target)
        if port is None:
            self.send_error(502, "Unknown host")
        return port

    def read_body(self) -> Iterator[bytes]:
        if self.headers.get("transfer-encoding") is None:
            yield self.rfile.read(int(self.headers.get("content-length", "0")))
            return
        while size := int(self.rfile.readline(), 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()

    def answer(self, response: http.client.HTTPResponse) -> None:
        self.send_response(response.status, response.reason)
        for name, value in response.getheaders():
            if name.lower() not in {*_OWN_HEADERS, "date", "server"}:
                self.send_header(name, value)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        while piece := response.read1(1 << 16):
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        self.wfile.write(b"0\r\n\r\n")


def _pipe(one: socket.socket, other: socket.socket) -> None:
    """Pass bytes both ways until either side ends."""
    while True:
        ready, _, _ = select.select([one, other], [], [], 4 * BOUND_S)
        for source in ready:
            data = source.recv(1 << 16)
            if not data:
                return
            (other if source is one else one).sendall(data)
        if not ready:
            return
