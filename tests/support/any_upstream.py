"""An upstream that answers any request under /v1 with what it saw, and can be told to misbehave by the path."""

import hashlib
import json
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.support.waiting import BOUND_S


class AnyUpstream:
    """Listens on loopback. `gate` holds `/v1/gated` in the middle of its answer; with `tls` it speaks https."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.gate = threading.Event()
        self.abandoned = threading.Event()
        handler = type("Handler", (_Handler,), {"upstream": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.port: int = self._server.server_port
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self.base_url = f"http{'s' if tls else ''}://127.0.0.1:{self.port}/api/agents/A1/v1"
        threading.Thread(
            target=self._server.serve_forever, args=(0.02,), name="any upstream", daemon=True
        ).start()

    def stop(self) -> None:
        """End it; connections under way end with their threads."""
        self.gate.set()
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    upstream: AnyUpstream
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Keep the tests' output clean."""

    def do_any(self) -> None:
        """Answer by the last word of the path."""
        size, digest = self.read_body()
        name = self.path.partition("?")[0].rpartition("/")[2]
        if name == "gated":
            self.answer_gated()
        elif name == "cut":
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"only this")
            self.close_connection = True
        elif name == "empty":
            self.send_response(204)
            self.end_headers()
        elif name.isdigit():
            self.answer(b"x" * int(name))
        else:
            headers = {key.lower(): value for key, value in self.headers.items()}
            seen = {
                "method": self.command,
                "path": self.path,
                "headers": headers,
                "size": size,
                "sha256": digest,
            }
            self.answer(json.dumps(seen).encode(), 418 if name == "teapot" else 200)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = do_OPTIONS = do_any

    def read_body(self) -> tuple[int, str]:
        """Read the body piece by piece; return its size and digest."""
        digest, size = hashlib.sha256(), 0
        if self.headers.get("Transfer-Encoding") == "chunked":
            while length := int(self.rfile.readline(), 16):
                digest.update(self.rfile.read(length))
                size += length
                self.rfile.readline()
            self.rfile.readline()
        left = int(self.headers.get("Content-Length", 0))
        while left > 0:
            piece = self.rfile.read(min(left, 1 << 16))
            digest.update(piece)
            size += len(piece)
            left -= len(piece)
        return size, digest.hexdigest()

    def answer(self, body: bytes, status: int = 200) -> None:
        """Send a whole answer."""
        self.send_response(status, "A Reason" if status == 418 else None)
        self.send_header("Content-Type", "application/json")
        self.send_header("X-Upstream", "yes")
        self.send_header("Access-Control-Allow-Origin", "*")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def answer_gated(self) -> None:
        """Send one event, and the next only when the gate opens; note a client that has left by then."""
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        self.wfile.write(b"data: first\n\n")
        self.connection.settimeout(BOUND_S)
        if not self.upstream.gate.wait(0.01) and self.path.endswith("?leave"):
            try:
                left = self.connection.recv(1) == b""
            except OSError:
                left = True
            if left:
                self.upstream.abandoned.set()
            return
        self.upstream.gate.wait(BOUND_S)
        self.wfile.write(b"data: second\n\n")
