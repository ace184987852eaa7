"""The HTTP/1.1 server: sockets, deadlines and flow control around the parser in `protocol.http_reader`.

It knows nothing of routes: one `handler` turns a `Request` into a `Response` or a `StreamResponse`.

How it stays fast: one read for a whole head, one write for head and body, no task and no timeout object for
a request. Each connection is one task that waits in a read; one sweep a second looks at every connection's
deadline and heartbeat. A write waits only above the transport's high-water mark.

A connection is always in one of these states, each with its own deadline:

    IDLE       between requests               kept-alive time
    HEAD       a request head has begun       time for the whole head
    HANDLING   the handler works              none: it owns its time
    BODY       the handler waits for a body   time without a byte, time for all
    WRITING    waiting for the client to read time without progress
    STREAM     a stream nobody waits for      heartbeats; time with unread bytes
    CLOSING    refused, reading on a moment   linger time
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import resource
import socket
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import dataclass
from enum import Enum, auto
from typing import TypeVar

from .. import log
from ..errors import BridgeError, RequestTimeout
from ..limits import (
    BACKLOG,
    BODY_IDLE_TIMEOUT_S,
    BODY_TOTAL_TIMEOUT_S,
    HEAD_TIMEOUT_S,
    HEARTBEAT_S,
    IDLE_TIMEOUT_S,
    LINGER_TIMEOUT_S,
    MAX_CONNECTIONS,
    MAX_DRAINED_BODY_BYTES,
    READ_BYTES,
    RESERVED_DESCRIPTORS,
    SWEEP_INTERVAL_S,
    SWEEP_OVERDUE_S,
    WRITE_TIMEOUT_S,
)
from ..protocol.http_messages import Headers, RequestHead
from ..protocol.http_reader import BodyReader, HeadReader, check_body_size, parse_request_head
from ..protocol.http_writer import CONTINUE, LAST_CHUNK, encode_chunk, encode_status_and_headers
from ..values import value

T = TypeVar("T")


class State(Enum):
    IDLE = auto()
    HEAD = auto()
    HANDLING = auto()
    BODY = auto()
    WRITING = auto()
    STREAM = auto()
    CLOSING = auto()


_ANSWERING = frozenset({State.HANDLING, State.BODY, State.WRITING, State.STREAM})


@value
class Timeouts:
    """Seconds for each state that has a deadline."""

    head: float = HEAD_TIMEOUT_S
    body_idle: float = BODY_IDLE_TIMEOUT_S
    body_total: float = BODY_TOTAL_TIMEOUT_S
    idle: float = IDLE_TIMEOUT_S
    write: float = WRITE_TIMEOUT_S
    linger: float = LINGER_TIMEOUT_S
    sweep: float = SWEEP_INTERVAL_S


@dataclass(slots=True)
class Response:
    """A whole answer. `headers` are those besides Content-Length, Connection and Date."""

    status: int
    body: bytes = b""
    headers: Headers = ()
    reason: str | None = None


@dataclass(slots=True)
class StreamResponse:
    """An answer written piece by piece by `run`.

    Without a Content-Length among `headers` the body is chunked. `until_close` sends it bare instead and ends
    it with the connection, as an event stream does: the same bytes then serve every reader.
    """

    status: int
    headers: Headers
    run: Callable[[Stream], Awaitable[None]]
    until_close: bool = False
    reason: str | None = None


Handler = Callable[["Request"], Awaitable[Response | StreamResponse]]


class Request:
    """A request as a handler sees it. The body is read only when it is asked for."""

    __slots__ = ("_connection", "head", "method", "path", "path_values", "query")

    def __init__(self, head: RequestHead, connection: _Connection) -> None:
        self.head = head
        self._connection = connection
        self.method = head.method
        self.path = head.path
        self.query = head.query
        self.path_values: tuple[str, ...] = ()

    def header(self, name: str) -> str | None:
        """Return a header by its lower-case name."""
        return self.head.headers.get(name)

    @property
    def local_host(self) -> str | None:
        """The address of this machine that the client connected to; None on a unix socket."""
        name = self._connection.transport.get_extra_info("sockname")
        return name[0] if isinstance(name, tuple) else None

    async def read_body(self, limit: int) -> bytes:
        """Return the whole body; raise `BodyTooLarge` past `limit` bytes, before reading where it is known."""
        return await self._connection.read_body(limit)

    def iter_body(self, limit: int) -> AsyncIterator[bytes]:
        """Yield the body as it comes, with no time limit but for silence; raise `BodyTooLarge` past `limit`."""
        return self._connection.iter_body(limit)

    async def while_open(self, work: Coroutine[None, None, T]) -> T:
        """Return what `work` does, which may read the body; cancel it when the client leaves first."""
        return await self._connection.while_open(work)


class Stream:
    """The writing end of a `StreamResponse`."""

    __slots__ = ("_chunked", "_connection", "_transport", "heartbeat", "last_write")

    def __init__(self, connection: _Connection, chunked: bool) -> None:
        self._connection = connection
        self._transport = connection.transport
        self._chunked = chunked
        # Written by the server's sweep when nothing else was for HEARTBEAT_S.
        self.heartbeat: bytes | None = None
        self.last_write = time.monotonic()

    async def write(self, data: bytes) -> None:
        """Write `data` and wait while the client reads too slowly."""
        if self._transport.is_closing():
            raise ConnectionResetError("the client left")
        if data:
            self._transport.write(encode_chunk(data) if self._chunked else data)
            self.last_write = time.monotonic()
            await self._connection.drain()

    def send(self, data: bytes) -> None:
        """Write `data` without waiting. Look at `unsent_bytes` before, or they grow without a bound."""
        if not self._transport.is_closing():
            self._transport.write(data)
            self.last_write = time.monotonic()

    async def drain(self) -> None:
        """Wait until the client has taken most of what was written."""
        await self._connection.drain()

    @property
    def unsent_bytes(self) -> int:
        """What was written and not yet taken by the client's side."""
        return self._connection.unsent_bytes

    @property
    def is_closed(self) -> bool:
        return self._transport.is_closing()

    def close(self) -> None:
        """End the stream once what was sent is through."""
        self._connection.end()

    def abort(self) -> None:
        """End the stream now, with what the client has not taken."""
        self._transport.abort()

    async def wait_closed(self) -> None:
        """Return when the client has left or the stream was closed."""
        await self._connection.wait_eof()

    async def while_open(self, work: Coroutine[None, None, T]) -> T:
        """Return what `work` does; cancel it when the client leaves first."""
        return await self._connection.while_open(work)


class HttpServer:
    """Listens, and owns every connection until it ends."""

    def __init__(
        self,
        handler: Handler,
        render_error: Callable[[BridgeError], Response],
        timeouts: Timeouts | None = None,
    ) -> None:
        self._handler = handler
        self._render_error = render_error
        self.timeouts = timeouts or Timeouts()
        self._servers: list[asyncio.Server] = []
        self._connections: set[_Connection] = set()
        self._sweep: asyncio.TimerHandle | None = None
        self._swept_at = 0.0
        self._closing = False
        self.request_ended = asyncio.Event()
        # Both servers of a bridge together must not use up the process's descriptors.
        self._max_connections = min(MAX_CONNECTIONS, (raise_descriptor_limit() - RESERVED_DESCRIPTORS) // 2)
        self.date_line = b""

    async def listen_tcp(self, host: str, port: int) -> tuple[str, int]:
        """Listen on `host`:`port` (0 picks one); return the address in use."""
        server = await asyncio.start_server(self._connect, host, port, limit=READ_BYTES, backlog=BACKLOG)
        self._serve_on(server)
        name = server.sockets[0].getsockname()
        return name[0], name[1]

    async def listen_unix(self, path: str) -> None:
        """Listen on a unix socket at `path`, for this user alone; one that nobody serves is replaced."""
        if await _is_served(path):
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
        # The socket is made with these rights, rather than given them a moment later.
        mask = os.umask(0o177)
        try:
            server = await asyncio.start_unix_server(self._connect, path, limit=READ_BYTES, backlog=BACKLOG)
        finally:
            os.umask(mask)
        self._serve_on(server)

    async def listen_on(self, listener: socket.socket) -> None:
        """Listen on a socket that somebody else has opened, and whose file is theirs to remove."""
        if listener.family is not socket.AF_UNIX:
            server = await asyncio.start_server(
                self._connect, sock=listener, limit=READ_BYTES, backlog=BACKLOG
            )
        else:
            server = await _start_given_unix_server(self._connect, listener)
        self._serve_on(server)

    def _serve_on(self, server: asyncio.Server) -> None:
        self._servers.append(server)
        if self._sweep is None:
            self._start_sweep()

    @property
    def is_well(self) -> bool:
        """Whether what every deadline and heartbeat hangs on still works."""
        return asyncio.get_running_loop().time() - self._swept_at < SWEEP_OVERDUE_S

    @property
    def answering(self) -> int:
        """How many requests are under way, but for streams that last until they are closed."""
        return sum(connection.is_answering for connection in self._connections)

    async def finish_requests(self) -> None:
        """Return when no request is under way, but for such streams."""
        while self.answering:
            self.request_ended.clear()
            await self.request_ended.wait()

    def stop_accepting(self) -> None:
        """Take no new connection; answer what is under way with `Connection: close`."""
        self._closing = True
        for server in self._servers:
            server.close()
        for connection in list(self._connections):
            if connection.state is State.IDLE:
                connection.transport.close()

    async def stop(self, grace_s: float) -> None:
        """Stop accepting, close streams, give answers under way `grace_s` seconds, then cut what is left."""
        self.stop_accepting()
        for connection in list(self._connections):
            if connection.state is State.STREAM:
                connection.transport.close()
        tasks = [connection.task for connection in self._connections]
        if tasks:
            await asyncio.wait(tasks, timeout=grace_s)
        for connection in list(self._connections):
            connection.task.cancel()
            connection.transport.abort()
        if tasks:
            await asyncio.wait(tasks, timeout=grace_s)
        if self._sweep is not None:
            self._sweep.cancel()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._connections) >= self._max_connections or self._closing:
            writer.transport.abort()
            return
        connection = _Connection(self, reader, writer)
        self._connections.add(connection)
        try:
            await connection.serve()
        except (ConnectionError, asyncio.CancelledError):
            pass  # the client left, or the server stops: nothing is left to answer
        except Exception as problem:  # noqa: BLE001 - one connection must not end the others
            log.error("a connection ended by %s: %s", type(problem).__name__, problem)
        finally:
            self._connections.discard(connection)
            self.request_ended.set()
            connection.end()

    async def answer(self, request: Request) -> Response | StreamResponse:
        """Ask the handler, and turn what it raises into a reply."""
        try:
            return await self._handler(request)
        except BridgeError as problem:
            return self._render_error(problem)
        except ConnectionError:
            raise
        except Exception as problem:  # noqa: BLE001 - a defect answers 500 and is logged
            log.error("%s %s failed: %s: %s", request.method, request.path, type(problem).__name__, problem)
            return self._render_error(BridgeError("The bridge met an error of its own; its log says more."))

    def render_error(self, problem: BridgeError) -> Response:
        return self._render_error(problem)

    @property
    def is_closing(self) -> bool:
        return self._closing

    def _start_sweep(self) -> None:
        loop = asyncio.get_running_loop()
        self.date_line = time.strftime("Date: %a, %d %b %Y %H:%M:%S GMT\r\n", time.gmtime()).encode()
        self._sweep = loop.call_later(self.timeouts.sweep, self._start_sweep)
        self._swept_at = now = loop.time()
        for connection in list(self._connections):
            # uvloop may raise on a connection that has just broken, whose own task is about to find out. The others
            # must not lose their deadlines with it.
            with contextlib.suppress(RuntimeError):
                connection.check_deadline(now)


class _Connection:
    """One client: reads requests one after the other and writes the answers in order."""

    __slots__ = (
        "_body", "_body_deadline", "_body_read", "_continue", "_is_broken", "_lasts", "_loop", "_reader", "_server", "_stream", "_times",
        "_unsent", "_writer", "deadline", "heads", "state", "task", "transport",
    )  # fmt: skip

    def __init__(
        self, server: HttpServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._server = server
        self._times = server.timeouts
        self._loop = asyncio.get_running_loop()
        self._reader = reader
        self._writer = writer
        self.transport = writer.transport
        self.task: asyncio.Task[None] = asyncio.current_task()  # type: ignore[assignment]
        self.heads = HeadReader()
        self._body: BodyReader | None = None
        self._body_deadline: float | None = None
        self._continue = False
        self._stream: Stream | None = None
        self._unsent = 0
        self._is_broken = False
        self._lasts = False
        self._body_read: asyncio.Event | None = None
        self.state = State.IDLE
        self.deadline: float | None = None
        # The first request is what the connection was made for: it is not waited for as long as a second one.
        self._enter(State.IDLE, self._times.head)

    def _enter(self, state: State, seconds: float | None) -> None:
        self.state = state
        self.deadline = None if seconds is None else self._loop.time() + seconds

    def check_deadline(self, now: float) -> None:
        """End the connection when its state has lasted too long; write a heartbeat when one is due."""
        if self.state is State.STREAM:
            self._check_stream()
        elif self.deadline is None or now <= self.deadline:
            return
        elif self.state is State.WRITING:
            unsent = self.unsent_bytes
            if unsent >= self._unsent:
                self.transport.abort()
            self._unsent = unsent
            self.deadline = now + self._times.write
        else:
            if self.state in (State.HEAD, State.BODY):
                problem = RequestTimeout("The request did not arrive in time.")
                self._write_response(self._server.render_error(problem), keep_alive=False, has_body=True)
            self.end()

    def _check_stream(self) -> None:
        stream = self._stream
        if stream is None:
            return
        quiet_s = time.monotonic() - stream.last_write
        if stream.unsent_bytes:
            if quiet_s > self._times.write:
                self.transport.abort()
        elif stream.heartbeat and quiet_s >= HEARTBEAT_S:
            stream.send(stream.heartbeat)

    def end(self) -> None:
        """Close the connection once what was written is through, but do not wait long for a client to take it."""
        unsent = self.unsent_bytes
        self.transport.close()
        if unsent:
            self._loop.call_later(self._times.linger, self.transport.abort)

    @property
    def is_answering(self) -> bool:
        """Whether a request is under way that ends by itself."""
        return not self._lasts and self.state in _ANSWERING

    @property
    def unsent_bytes(self) -> int:
        """What was written and not taken by the client; 0 once the connection is over (uvloop raises then)."""
        return 0 if self.transport.is_closing() else self.transport.get_write_buffer_size()

    async def serve(self) -> None:
        """Answer requests until the client or an error ends the connection."""
        keep_alive = True
        while keep_alive:
            try:
                head = await self._next_head()
            except BridgeError as problem:
                self._write_response(self._server.render_error(problem), keep_alive=False, has_body=True)
                break
            if head is None:
                return
            keep_alive = await self._serve_request(head)
            self._enter(State.IDLE, self._times.idle)
            self._server.request_ended.set()
        await self._linger()

    async def _next_head(self) -> RequestHead | None:
        if self.heads.buffer:
            text = self.heads.next_head()
            if text is not None:
                return parse_request_head(text)
        while True:
            if self.heads.buffer and self.state is State.IDLE:
                self._enter(State.HEAD, self._times.head)
            elif self._server.is_closing and not self.heads.buffer:
                return None
            data = await self._reader.read(READ_BYTES)
            if not data:
                return None
            self.heads.feed(data)
            text = self.heads.next_head()
            if text is not None:
                return parse_request_head(text)

    async def _serve_request(self, head: RequestHead) -> bool:
        """Answer one request; return whether the connection can take another."""
        self._enter(State.HANDLING, None)
        self._body = BodyReader(head.framing) if head.framing.has_body else None
        self._body_deadline = None
        self._body_read = None
        self._continue = head.version == "1.1" and head.headers.get("expect", "").lower() == "100-continue"
        response = await self._server.answer(Request(head, self))
        if self.transport.is_closing():
            return False
        keep_alive = head.keeps_alive and not self._server.is_closing
        if isinstance(response, StreamResponse):
            return await self._write_stream(response, head, keep_alive)
        keep_alive = keep_alive and self._is_body_droppable()
        self._write_response(response, keep_alive, has_body=head.method != "HEAD")
        await self.drain()
        return keep_alive and await self._drop_rest_of_body()

    def _write_response(self, response: Response, keep_alive: bool, has_body: bool) -> None:
        head = encode_status_and_headers(response.status, response.headers, response.reason)
        # A 304 could only tell the length of what it leaves out, which is not known here (RFC 9110 8.6).
        is_bare = response.status in (204, 304)
        length = b"" if is_bare else b"Content-Length: %d\r\n" % len(response.body)
        end = b"\r\n" if keep_alive else b"Connection: close\r\n\r\n"
        body = response.body if has_body else b""
        self.transport.write(b"".join((head, self._server.date_line, length, end, body)))

    async def _write_stream(self, response: StreamResponse, head: RequestHead, keep_alive: bool) -> bool:
        sized = any(name.lower() == "content-length" for name, _ in response.headers)
        chunked = not sized and not response.until_close and head.version == "1.1"
        self._lasts = response.until_close
        keep_alive = keep_alive and (sized or chunked) and self._is_body_droppable()
        start = encode_status_and_headers(response.status, response.headers, response.reason)
        framing = b"Transfer-Encoding: chunked\r\n" if chunked else b""
        end = b"\r\n" if keep_alive else b"Connection: close\r\n\r\n"
        self.transport.write(start + self._server.date_line + framing + end)
        if head.method == "HEAD":
            return keep_alive and await self._drop_rest_of_body()
        self._stream = Stream(self, chunked)
        self._enter(State.STREAM, None)
        try:
            await response.run(self._stream)
        except BridgeError as problem:
            # Part of the answer is out: only a broken connection can still say that it is not whole.
            log.debug("a streamed answer broke off: %s", problem.message)
            self.transport.abort()
            return False
        finally:
            self._stream = None
        if chunked and not self.transport.is_closing():
            self.transport.write(LAST_CHUNK)
            await self.drain()
        return keep_alive and not self.transport.is_closing() and await self._drop_rest_of_body()

    async def drain(self) -> None:
        """Wait while more is written than the client reads."""
        unsent = self.unsent_bytes
        if unsent > READ_BYTES:
            state = self.state
            self._unsent = unsent
            self._enter(State.WRITING, self._times.write)
            await self._writer.drain()
            self._enter(state, None)

    async def read_body(self, limit: int) -> bytes:
        self._body_deadline = self._loop.time() + self._times.body_total
        pieces = [piece async for piece in self.iter_body(limit)]
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def iter_body(self, limit: int) -> AsyncIterator[bytes]:
        body = self._body
        if body is None:
            return
        received = 0
        check_body_size(body.framing, received, limit)
        while not body.done:
            try:
                piece = body.take(self.heads.buffer)
            except BridgeError:
                self._is_broken = True  # where the next request begins is not known any more
                raise
            if piece:
                received += len(piece)
                check_body_size(body.framing, received, limit)
                yield piece
            elif not body.done:
                await self._read_more_body()
        if self._body_read is not None:
            self._body_read.set()

    async def _read_more_body(self) -> None:
        if self._continue:
            self._continue = False
            self.transport.write(CONTINUE)
        state = self.state
        self._enter(State.BODY, self._times.body_idle)
        if self._body_deadline is not None and self.deadline is not None:
            self.deadline = min(self.deadline, self._body_deadline)
        try:
            data = await self._reader.read(READ_BYTES)
        finally:
            self._enter(state, None)  # a handler may give up the rest of a body and answer
        if not data:
            raise ConnectionResetError("the client left in the middle of a body")
        self.heads.feed(data)

    def _is_body_droppable(self) -> bool:
        """Say whether reading on to the end of an unread body is worth keeping the connection."""
        body = self._body
        if body is None or body.done or self._is_broken:
            return not self._is_broken
        # A client that waits for `100 Continue` will not get one any more, and may send its body or not.
        return not self._continue and (body.framing.length or 0) <= MAX_DRAINED_BODY_BYTES

    async def _drop_rest_of_body(self) -> bool:
        """Read on to the end of an unread body; return whether the connection is clean."""
        body = self._body
        if body is None or body.done:
            return True
        dropped = 0
        self._enter(State.CLOSING, self._times.linger)
        try:
            while not body.done and dropped <= MAX_DRAINED_BODY_BYTES:
                piece = body.take(self.heads.buffer)
                dropped += len(piece)
                if not piece and not body.done:
                    data = await self._reader.read(READ_BYTES)
                    if not data:
                        return False
                    self.heads.feed(data)
        except BridgeError:
            return False
        return body.done

    async def wait_eof(self) -> None:
        """Return when the client closes its side; what it sends meanwhile is dropped."""
        with contextlib.suppress(ConnectionError):
            while await self._reader.read(READ_BYTES):
                pass

    async def _watch_for_eof(self) -> None:
        """Return when the client closes its side; what it sends meanwhile, its next requests, is kept."""
        if self._body is not None and not self._body.done:
            self._body_read = asyncio.Event()
            await self._body_read.wait()  # until then the reader of the body sees the client leave
        with contextlib.suppress(ConnectionError):
            while data := await self._reader.read(READ_BYTES):
                self.heads.feed(data)
                if len(self.heads.buffer) >= READ_BYTES:
                    await self._loop.create_future()  # enough is kept: the kernel holds the rest

    async def while_open(self, work: Coroutine[None, None, T]) -> T:
        """Return what `work` does; cancel it and raise `ConnectionResetError` when the client leaves first."""
        task = asyncio.create_task(work, name="work for a client")
        eof = asyncio.create_task(self._watch_for_eof(), name="watch of a client")
        try:
            await asyncio.wait((task, eof), return_when=asyncio.FIRST_COMPLETED)
        finally:
            eof.cancel()
            if not task.done():
                task.cancel()
            await asyncio.wait((task, eof))
        if task.cancelled():
            raise ConnectionResetError("the client left")
        return task.result()

    async def _linger(self) -> None:
        """Read on for a moment after the last answer, or closing would destroy it on its way (RFC 9112 9.6)."""
        if self.transport.is_closing():
            return
        self._enter(State.CLOSING, self._times.linger)
        if self.transport.can_write_eof():
            await self._writer.drain()
            if not self.transport.is_closing():
                self.transport.write_eof()
        await self.wait_eof()


async def _start_given_unix_server(
    on_connection: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
    listener: socket.socket,
) -> asyncio.Server:
    """Serve a unix socket, and leave its file alone at the end: its owner listens on."""
    if sys.version_info >= (3, 13):
        with contextlib.suppress(TypeError):  # an older uvloop has no such option, and removes nothing
            return await asyncio.start_unix_server(
                on_connection, sock=listener, limit=READ_BYTES, backlog=BACKLOG, cleanup_socket=False
            )
    return await asyncio.start_unix_server(on_connection, sock=listener, limit=READ_BYTES, backlog=BACKLOG)


async def _is_served(path: str) -> bool:
    """Say whether somebody answers on a unix socket. Listening would take a live one away without a word."""
    try:
        _, writer = await asyncio.open_unix_connection(path)
    except OSError:
        return False
    writer.close()
    return True


def raise_descriptor_limit() -> int:
    """Let this process open as many descriptors as it may, and return how many those are."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    return soft if soft != resource.RLIM_INFINITY else 1 << 20


def is_loopback(host: str) -> bool:
    """Say whether every address that `host` names is of this machine alone."""
    try:
        # As bytes where it can be: for a text Python loads its tables of international names, which takes a start 2 ms.
        found = socket.getaddrinfo(host.encode() if host.isascii() else host, None)
    except (OSError, ValueError):
        return False
    return all(str(address[4][0]).startswith("127.") or address[4][0] == "::1" for address in found)
