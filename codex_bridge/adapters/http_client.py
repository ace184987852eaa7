"""An HTTP/1.1 client for upstreams: a pool of kept-alive connections, bodies streamed both ways.

Time-outs are for connecting and for silence, never for a whole answer: a model may think and stream for an
hour. Each connection has one timer that is moved forward lazily, not one for each read.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass

from ..errors import BridgeError, UpstreamFailed
from ..limits import (
    MAX_ERROR_BODY_BYTES,
    MAX_IDLE_UPSTREAM_CONNECTIONS,
    READ_BYTES,
    UPSTREAM_IDLE_REUSE_S,
)
from ..protocol.http_messages import Headers, ResponseHead
from ..protocol.http_reader import BodyReader, HeadReader, parse_response_head
from ..protocol.http_writer import LAST_CHUNK, encode_chunk, encode_request_head

_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a connection leads to."""

    scheme: str
    host: str
    port: int

    @property
    def authority(self) -> str:
        """The value of a Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}"


@dataclass(frozen=True, slots=True)
class StreamedBody:
    """A body that is passed on as it comes; `length` None when nobody has said how long it is."""

    pieces: AsyncIterator[bytes]
    length: int | None


Body = bytes | StreamedBody


@dataclass(frozen=True, slots=True)
class _Request:
    method: str
    target: str
    headers: Headers
    body: Body

    def encode_head(self) -> bytes:
        length = len(self.body) if isinstance(self.body, bytes) else self.body.length
        framing = ("Transfer-Encoding", "chunked") if length is None else ("Content-Length", str(length))
        # A GET without a body needs no length, and some servers wonder at one.
        has_framing = length != 0 or self.method in ("POST", "PUT", "PATCH")
        return encode_request_head(
            self.method, self.target, (*self.headers, *([framing] if has_framing else ()))
        )


class HttpClient:
    """Sends requests; owns the pool."""

    def __init__(self, connect_timeout_s: float, idle_timeout_s: float) -> None:
        self._connect_timeout_s = connect_timeout_s
        self._idle_timeout_s = idle_timeout_s
        self._idle: dict[Origin, deque[_Connection]] = {}
        self._tls: ssl.SSLContext | None = None

    async def request(
        self, origin: Origin, method: str, target: str, headers: Headers, body: Body
    ) -> ClientResponse:
        """Send a request and return the answer once its head is there.

        Raises `UpstreamFailed` with the code upstream_unreachable, upstream_timeout or upstream_disconnected.
        """
        request = _Request(method, target, headers, body)
        resting = await self._take_idle(origin)
        if resting is not None:
            try:
                return ClientResponse(await resting.send(request), resting, self)
            except UpstreamFailed as problem:
                # The upstream may close a resting connection in the very moment it is used again. A body that
                # was streamed cannot be sent twice.
                is_lost = problem.code != "upstream_disconnected" or resting.has_answered
                if is_lost or not isinstance(body, bytes):
                    raise
        connection = await self._connect(origin)
        return ClientResponse(await connection.send(request), connection, self)

    def close(self) -> None:
        """Close the connections that rest."""
        for connections in self._idle.values():
            for connection in connections:
                connection.close()
        self._idle.clear()

    def put_back(self, connection: _Connection) -> None:
        """Keep a connection whose answer was read whole for the next request."""
        resting = self._idle.setdefault(connection.origin, deque())
        connection.rest()
        resting.append(connection)
        if len(resting) > MAX_IDLE_UPSTREAM_CONNECTIONS:
            resting.popleft().close()

    async def _take_idle(self, origin: Origin) -> _Connection | None:
        resting = self._idle.get(origin)
        while resting:
            connection = resting.pop()
            if await connection.wake():
                return connection
            connection.close()
        return None

    async def _connect(self, origin: Origin) -> _Connection:
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                reader, writer = await asyncio.open_connection(
                    origin.host, origin.port, ssl=self._tls_context(origin), limit=READ_BYTES
                )
        except TimeoutError:
            raise UpstreamFailed(
                f"The upstream {origin} did not accept a connection within {self._connect_timeout_s:g} s.",
                code="upstream_timeout", status=504,
            ) from None  # fmt: skip
        except (OSError, UnicodeError) as problem:
            reason = getattr(problem, "strerror", None) or str(problem)
            raise UpstreamFailed(
                f"The upstream {origin} cannot be reached: {reason}.", code="upstream_unreachable"
            ) from None
        return _Connection(origin, reader, writer, self._idle_timeout_s)

    def _tls_context(self, origin: Origin) -> ssl.SSLContext | None:
        """Return the settings of a TLS connection: the system's certificates, read once."""
        if origin.scheme == "https" and self._tls is None:
            self._tls = ssl.create_default_context()
        return self._tls if origin.scheme == "https" else None


class ClientResponse:
    """An answer whose body is still to be read. Read it to its end or `close` it."""

    def __init__(self, head: ResponseHead, connection: _Connection, client: HttpClient) -> None:
        self.head = head
        self._connection: _Connection | None = connection
        self._client = client

    async def iter_body(self) -> AsyncIterator[bytes]:
        """Yield the body as it comes, its chunk framing taken off."""
        connection = self._connection
        assert connection is not None
        body = BodyReader(self.head.framing)
        while not body.done:
            piece = connection.take(body)
            if piece:
                yield piece
            elif not body.done and not await connection.read() and not body.end():
                raise connection.disconnected("in the middle of an answer")
        self.release()

    def release(self) -> None:
        """Give the connection back after the whole answer was read."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        if self.head.keeps_alive and not connection.buffer:
            self._client.put_back(connection)
        else:
            connection.close()

    async def read_error_text(self) -> bytes:
        """Return the beginning of the body, enough for an error's message; close the connection."""
        data = b""
        try:
            async for piece in self.iter_body():
                data += piece
                if len(data) > MAX_ERROR_BODY_BYTES:
                    break
        finally:
            self.close()
        return data[:MAX_ERROR_BODY_BYTES]

    def close(self) -> None:
        """Give up what is left of the answer; the upstream sees the connection end."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class _Connection:
    """One connection, used for one request at a time."""

    def __init__(
        self,
        origin: Origin,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        idle_timeout_s: float,
    ) -> None:
        self.origin = origin
        self._reader = reader
        self._writer = writer
        self._idle_timeout_s = idle_timeout_s
        self._loop = asyncio.get_running_loop()
        self._heads = HeadReader()
        self._last_activity = self._loop.time()
        self._timed_out = False
        self._is_waiting = False
        # While it rests: done when the upstream closes, or says something that nobody asked for.
        self._watch: asyncio.Task[bytes] | None = None
        self.has_answered = False
        self._timer: asyncio.TimerHandle | None = None

    @property
    def buffer(self) -> bytearray:
        return self._heads.buffer

    async def send(self, request: _Request) -> ResponseHead:
        """Send a whole request and return the head of its answer; on any failure the connection is closed."""
        self._last_activity = self._loop.time()
        self.has_answered = False
        if self._timer is None:
            self._timer = self._loop.call_later(self._idle_timeout_s, self._check_idle)
        try:
            await self._write(request)
            return await self._read_head(request.method)
        except BaseException:
            self.close()
            raise

    async def _write(self, request: _Request) -> None:
        if isinstance(request.body, bytes):
            await self._write_piece(request.encode_head() + request.body)
            return
        await self._write_piece(request.encode_head())
        is_chunked = request.body.length is None
        async for piece in request.body.pieces:
            await self._write_piece(encode_chunk(piece) if is_chunked else piece)
            if self._writer.transport.is_closing():
                return  # it may have answered before it closed; reading tells
        if is_chunked:
            await self._write_piece(LAST_CHUNK)

    async def _write_piece(self, data: bytes) -> None:
        self._last_activity = self._loop.time()
        self._is_waiting = True
        self._writer.write(data)
        # A peer may answer before it closes: what it said is read afterwards.
        with contextlib.suppress(ConnectionError):
            await self._writer.drain()
        self._is_waiting = False

    async def _read_head(self, method: str) -> ResponseHead:
        while True:
            try:
                text = self._heads.next_head()
                if text is not None:
                    head = parse_response_head(text, method)
                    if head.status >= 200:
                        return head
                    continue
            except BridgeError as problem:
                raise self._not_http(problem) from None
            if not await self.read():
                raise self.disconnected("before it answered")

    def take(self, body: BodyReader) -> bytes:
        """Return the next piece of the body from the buffer; raise `UpstreamFailed`."""
        try:
            return body.take(self.buffer)
        except BridgeError as problem:
            raise self._not_http(problem) from None

    def _not_http(self, problem: BridgeError) -> UpstreamFailed:
        return UpstreamFailed(f"The upstream {self.origin} does not speak HTTP: {problem.message}")

    async def read(self) -> bool:
        """Take more bytes into the buffer; return False at the end. Raises `UpstreamFailed`."""
        # Silence counts only while it is waited for: a slow reader of the answer is not the upstream's fault.
        self._last_activity = self._loop.time()
        self._is_waiting = True
        try:
            data = await self._reader.read(READ_BYTES)
        except OSError:
            data = b""
        finally:
            self._is_waiting = False
        if self._timed_out:
            raise UpstreamFailed(
                f"The upstream {self.origin} sent nothing for {self._idle_timeout_s:g} s.",
                code="upstream_timeout", status=504,
            )  # fmt: skip
        self._heads.feed(data)
        self.has_answered = self.has_answered or bool(data)
        return bool(data)

    def disconnected(self, when: str) -> UpstreamFailed:
        return UpstreamFailed(
            f"The upstream {self.origin} closed the connection {when}.", code="upstream_disconnected"
        )

    def _check_idle(self) -> None:
        left = self._last_activity + self._idle_timeout_s - self._loop.time()
        if left > 0 or not self._is_waiting:
            self._timer = self._loop.call_later(max(left, self._idle_timeout_s / 10), self._check_idle)
        else:
            self._timed_out = True
            self._writer.transport.abort()

    def rest(self) -> None:
        """Wait for the next request. A resting connection is silent, or no longer usable."""
        self._stop_timer()
        self._last_activity = self._loop.time()
        self._watch = asyncio.create_task(self._reader.read(1), name="watch of a resting connection")
        self._watch.add_done_callback(self._on_watch_done)

    def _on_watch_done(self, watch: asyncio.Task[bytes]) -> None:
        if not watch.cancelled():
            watch.exception()  # retrieved: that the connection broke is all there is to know
            self._writer.transport.abort()

    async def wake(self) -> bool:
        """Stop resting; return whether the connection can be used again."""
        rested_s = self._loop.time() - self._last_activity
        assert self._watch is not None
        is_silent = not self._watch.done()
        self._watch.cancel()
        await asyncio.wait([self._watch])
        return is_silent and rested_s < UPSTREAM_IDLE_REUSE_S and not self._writer.transport.is_closing()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def close(self) -> None:
        self._stop_timer()
        if self._watch is not None:
            self._watch.cancel()
        self._writer.transport.abort()
