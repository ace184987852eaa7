"""A real HTTP server of the bridge on loopback, and a peer that writes and reads bytes."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

from codex_bridge.adapters.http_server import Handler, HttpServer, Timeouts
from codex_bridge.api import replies
from codex_bridge.protocol import json_codec


def brisk(*names: str, seconds: float = 0.05) -> Timeouts:
    """Deadlines of which those named pass within a test; the others must not pass, however slow the machine."""
    return Timeouts(sweep=0.01, **dict.fromkeys(names, seconds))


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer; header names are in lower case."""

    status: int
    version: str
    headers: dict[str, str]
    body: bytes

    @property
    def closes(self) -> bool:
        return "close" in self.headers.get("connection", "").lower()

    @property
    def code(self) -> str | None:
        """The error code in a JSON body."""
        value = json_codec.decode(self.body).get("code")
        return value if isinstance(value, str) else None


class Peer:
    """One connection. The bound is that of the whole test."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    def end(self) -> None:
        """Say that nothing more comes."""
        self.writer.write_eof()

    def reset(self) -> None:
        """Leave as rudely as TCP allows."""
        self.writer.transport.abort()

    async def reply(self, *, head_only: bool = False) -> Reply:
        """Read the next answer. Raises `IncompleteReadError` when the server closes first."""
        text = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = text[:-4].split("\r\n")
        version, status, _ = first.split(" ", 2)
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        if head_only or status in ("100", "204"):
            body = b""
        elif headers.get("transfer-encoding") == "chunked":
            body = await self._chunks()
        elif "content-length" in headers:
            body = await self.reader.readexactly(int(headers["content-length"]))
        else:
            body = await self.reader.read()
        return Reply(int(status), version, headers, body)

    async def _chunks(self) -> bytes:
        pieces = []
        while size := int((await self.reader.readuntil(b"\r\n")).strip(), 16):
            pieces.append(await self.reader.readexactly(size))
            assert await self.reader.readexactly(2) == b"\r\n"
        assert await self.reader.readexactly(2) == b"\r\n"
        return b"".join(pieces)

    async def rest(self) -> bytes:
        """Return what still comes before the server closes."""
        try:
            return await self.reader.read()
        except ConnectionResetError:
            return b""


@contextlib.asynccontextmanager
async def connected(port: int, receive_buffer: int | None = None) -> AsyncIterator[Peer]:
    """Connect to a port; `receive_buffer` makes the kernel take that little ahead of the reader."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    if receive_buffer is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    sock.setblocking(False)
    try:
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
    except OSError:
        sock.close()
        raise
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    reader, writer = await asyncio.open_connection(sock=sock)
    try:
        yield Peer(reader, writer)
    finally:
        writer.transport.abort()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


@contextlib.asynccontextmanager
async def serving(
    handler: Handler, timeouts: Timeouts | None = None
) -> AsyncIterator[tuple[HttpServer, int]]:
    """Run a server with `handler` on a free port."""
    server = HttpServer(handler, replies.failure, timeouts)
    _, port = await server.listen_tcp("127.0.0.1", 0)
    try:
        yield server, port
    finally:
        await server.stop(1.0)


async def exchange(handler: Handler, request: bytes, *, head_only: bool = False) -> Reply:
    """Send one request to `handler` behind a real server; return its answer."""
    async with serving(handler) as (_, port), connected(port) as peer:
        await peer.send(request)
        return await peer.reply(head_only=head_only)


def request(line: str, *headers: str, body: bytes = b"") -> bytes:
    """Write a request; a Host that is the bridge's own comes first unless one is given."""
    host = () if any(header.lower().startswith("host:") for header in headers) else ("Host: localhost",)
    return ("\r\n".join((line, *host, *headers)) + "\r\n\r\n").encode("latin-1") + body


@contextlib.asynccontextmanager
async def scripted(
    script: Callable[[Peer], Awaitable[None]], tls: ssl.SSLContext | None = None
) -> AsyncIterator[int]:
    """Run a peer that does what `script` says with each connection, then closes it; yields its port."""
    tasks: set[asyncio.Task[None]] = set()
    failures: list[Exception] = []

    async def on_connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await script(Peer(reader, writer))
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the other side left, or the test is over
        except Exception as problem:  # noqa: BLE001 - a broken script fails the test below
            failures.append(problem)
        finally:
            writer.close()
            tasks.discard(task)

    server = await asyncio.start_server(on_connection, "127.0.0.1", 0, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
    assert not failures, failures


async def take_request(peer: Peer) -> tuple[str, dict[str, str], bytes]:
    """Read a request with a sized body; return its first line, its headers in lower case, its body."""
    first, *lines = (await peer.reader.readuntil(b"\r\n\r\n")).decode("latin-1")[:-4].split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return first, headers, await peer.reader.readexactly(int(headers.get("content-length", "0")))
