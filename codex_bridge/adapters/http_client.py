"""An HTTP/1.1 client for upstreams: a pool of kept-alive connections, bodies streamed both ways.

Time-outs are for connecting, for the beginning of an answer and for silence in it, never for a whole answer: a
model may think and stream for an hour. Each connection has one timer that is moved forward lazily, not one for each
read. What is waited for from others, the rest of a body or a reader, does not count.

An upstream may answer before it has the whole request. An answer of 300 and above ends the sending at once: the rest of
the body is given up, and the connection is closed behind the answer. One of 200 to 299 is handed out only when all is sent,
so an upstream that must have its answer read before it takes more does not get on: its time to take something ends it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Coroutine
from typing import TYPE_CHECKING

from ..errors import BridgeError, MalformedRequest, UpstreamFailed
from ..limits import (
    MAX_ERROR_BODY_BYTES,
    MAX_IDLE_UPSTREAM_CONNECTIONS,
    UPLOAD_PIECE_BYTES,
    UPSTREAM_IDLE_REUSE_S,
)
from ..protocol.http_messages import Headers, ResponseHead
from ..protocol.http_reader import BodyReader, parse_response_head
from ..protocol.http_writer import LAST_CHUNK, encode_chunk, encode_request_head
from ..values import value
from .http_connect import Connector, Route, proxy_headers, proxy_refusal
from .http_connect import Origin as Origin
from .http_wire import Wire

if TYPE_CHECKING:
    from ..proxies import ProxyRules  # not loaded by a start without a proxy


@value
class StreamedBody:
    """A body that is passed on as it comes; `length` None when nobody has said how long it is."""

    pieces: AsyncIterator[bytes]
    length: int | None


Body = bytes | StreamedBody


@value
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
    """Sends requests; owns the pool. `proxies` None: every upstream is reached directly."""

    def __init__(
        self,
        connect_timeout_s: float,
        first_byte_timeout_s: float,
        idle_timeout_s: float,
        proxies: ProxyRules | None = None,
    ) -> None:
        self._connector = Connector(connect_timeout_s)
        self._patience = _Patience(first_byte_timeout_s, idle_timeout_s)
        self._proxies = proxies
        self._idle: dict[Route, deque[_Connection]] = {}
        self._reaper: asyncio.TimerHandle | None = None

    async def request(
        self, origin: Origin, method: str, target: str, headers: Headers, body: Body
    ) -> ClientResponse:
        """Send a request and return the answer once its head is there.

        Raises `UpstreamFailed` with the code upstream_unreachable, upstream_timeout or upstream_disconnected.
        """
        route = self._choose_route(origin)
        if route.proxy is not None and route.is_forwarded:
            target, headers = f"{origin}{target}", (*headers, *proxy_headers(route.proxy))
        request = _Request(method, target, headers, body)
        resting = self._take_idle(route)
        if resting is not None:
            try:
                return await self._exchange(resting, request)
            except UpstreamFailed as problem:
                # The upstream may close a resting connection in the very moment it is used again. A body that
                # was streamed cannot be sent twice.
                is_lost = problem.code != "upstream_disconnected" or resting.has_answered
                if is_lost or not isinstance(body, bytes):
                    raise
        wire = await self._connector.open(route)
        return await self._exchange(_Connection(route, wire, self._patience), request)

    def close(self) -> None:
        """Close the connections that rest."""
        for connections in self._idle.values():
            for connection in connections:
                connection.close()
        self._idle.clear()
        if self._reaper is not None:
            self._reaper.cancel()

    def put_back(self, connection: _Connection) -> None:
        """Keep a connection whose answer was read whole for the next request."""
        resting = self._idle.setdefault(connection.route, deque())
        connection.rest()
        resting.append(connection)
        if len(resting) > MAX_IDLE_UPSTREAM_CONNECTIONS:
            resting.popleft().close()
        if self._reaper is None:
            self._reaper = asyncio.get_running_loop().call_later(UPSTREAM_IDLE_REUSE_S, self._reap)

    def _reap(self) -> None:
        """Close what has rested too long to be used again: an upstream may never be asked again."""
        self._reaper = None
        for route, resting in list(self._idle.items()):
            while resting and not resting[0].is_usable:
                resting.popleft().close()
            if not resting:
                del self._idle[route]
        if self._idle:
            self._reaper = asyncio.get_running_loop().call_later(UPSTREAM_IDLE_REUSE_S, self._reap)

    def _choose_route(self, origin: Origin) -> Route:
        proxies = self._proxies
        return Route(origin, proxies.choose(origin.scheme, origin.host, origin.port) if proxies else None)

    def _take_idle(self, route: Route) -> _Connection | None:
        resting = self._idle.get(route)
        while resting:
            connection = resting.pop()
            if connection.wake():
                return connection
            connection.close()
        return None

    async def _exchange(self, connection: _Connection, request: _Request) -> ClientResponse:
        head = await connection.send(request)
        route = connection.route
        if head.status == 407 and route.proxy is not None and route.is_forwarded:
            connection.close()
            raise proxy_refusal(route.origin, route.proxy, head)
        return ClientResponse(head, connection, self)


@value
class _Wait:
    """What the upstream may keep the bridge waiting for, how long, and how it is told when it does not come."""

    limit_s: float
    complaint: str


class _Patience:
    """The waits of every connection."""

    def __init__(self, first_byte_s: float, idle_s: float) -> None:
        self.upload = _Wait(idle_s, f"took nothing for {idle_s:g} s")
        self.beginning = _Wait(first_byte_s, f"did not begin to answer within {first_byte_s:g} s")
        self.answer = _Wait(idle_s, f"sent nothing for {idle_s:g} s")
        # A timer that sleeps no longer than this is in time for whichever wait comes next.
        self.tick_s = min(first_byte_s, idle_s)


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
        if self.head.keeps_alive and connection.is_reusable:
            self._client.put_back(connection)
        else:
            connection.close()

    async def read_error_text(self) -> bytes:
        """Return the beginning of the body, enough for an error's message, or what there is of it; close the connection."""
        data = b""
        try:
            async for piece in self.iter_body():
                data += piece
                if len(data) > MAX_ERROR_BODY_BYTES:
                    break
        except UpstreamFailed:
            pass  # the status says more than that its explanation broke off
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

    def __init__(self, route: Route, wire: Wire, patience: _Patience) -> None:
        self.route = route
        self._wire = wire
        self._patience = patience
        self._loop = asyncio.get_running_loop()
        self._method = ""
        self._is_sent = False
        # The head of an answer that began before the request was sent, or why there will be none.
        self._early: ResponseHead | UpstreamFailed | None = None
        self._last_activity = self._loop.time()
        # None while nothing is waited for: a slow client of the bridge is not the upstream's fault.
        self._awaited: _Wait | None = None
        self._overdue: _Wait | None = None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def has_answered(self) -> bool:
        """Whether anything came since the request began."""
        return self._wire.has_received

    @property
    def is_reusable(self) -> bool:
        """Whether the request went out whole, and nothing came behind its answer."""
        wire = self._wire
        return self._is_sent and not (wire.heads.buffer or wire.is_over or wire.is_closing)

    async def send(self, request: _Request) -> ResponseHead:
        """Send a request and return the head of its answer; on any failure the connection is closed."""
        self._method = request.method
        self._is_sent = False
        self._early = None
        if self._timer is None:
            self._timer = self._loop.call_later(self._patience.tick_s, self._check_overdue)
        try:
            await self._write(request)
            return await self._read_head()
        except BaseException:
            self.close()
            raise

    async def _write(self, request: _Request) -> None:
        body = request.body
        if not isinstance(body, bytes):
            await self._while_wanted(self._write_stream(request.encode_head(), body))
            return
        data = request.encode_head() + body
        if len(data) > UPLOAD_PIECE_BYTES:
            await self._while_wanted(self._write_pieces(memoryview(data)))
            return
        self._wire.write(data)
        if self._wire.is_full:
            await self._while_wanted(self._drain())
        else:
            self._is_sent = True

    async def _while_wanted(self, sending: Coroutine[None, None, None]) -> None:
        """Send until all is sent or the upstream shows that it has no use for the rest."""
        wire = self._wire
        # No time is set: it interrupts the task in whatever it waits for, without a second one.
        interrupt = asyncio.timeout(None)

        def look() -> None:
            if not self._wants_more():
                wire.on_change = None
                interrupt.reschedule(0)

        try:
            async with interrupt:
                wire.on_change = look
                look()
                await sending
                self._is_sent = True
        except TimeoutError:
            if not interrupt.expired():
                raise
        finally:
            wire.on_change = None

    def _wants_more(self) -> bool:
        """Say whether the upstream may want more of the body, after all that has come from it."""
        if self._early is None:
            try:
                self._early = self._find_head()
            except UpstreamFailed as problem:
                self._early = problem
        if self._wire.is_closing or isinstance(self._early, UpstreamFailed):
            return False
        return self._early.status < 300 if self._early else not self._wire.is_over

    async def _write_pieces(self, data: memoryview) -> None:
        for start in range(0, len(data), UPLOAD_PIECE_BYTES):
            if not await self._write_piece(data[start : start + UPLOAD_PIECE_BYTES]):
                return

    async def _write_stream(self, head: bytes, body: StreamedBody) -> None:
        await self._write_piece(head)
        is_chunked = body.length is None
        async for piece in body.pieces:
            if not await self._write_piece(encode_chunk(piece) if is_chunked else piece):
                return
        if is_chunked:
            await self._write_piece(LAST_CHUNK)

    async def _write_piece(self, data: bytes | memoryview) -> bool:
        """Send `data`; return False when the connection takes no more. What came before tells why."""
        self._wire.write(data)
        if self._wire.is_full:
            await self._drain()
        return not self._wire.is_closing

    async def _drain(self) -> None:
        self._last_activity = self._loop.time()
        self._awaited = self._patience.upload
        try:
            await self._wire.drain()
        finally:
            self._awaited = None

    async def _read_head(self) -> ResponseHead:
        self._check_in_time()
        while True:
            head = self._early or self._find_head()
            if isinstance(head, UpstreamFailed):
                raise head
            if head is not None:
                return head
            # An interim answer is no answer: the time for its beginning starts anew behind it.
            is_begun = bool(self._wire.heads.buffer)
            if not await self._receive(self._patience.answer if is_begun else self._patience.beginning):
                raise self.disconnected("before it answered")

    def _find_head(self) -> ResponseHead | None:
        """Take the head of the answer from what came, None while it is not there; raise `UpstreamFailed`."""
        try:
            while (text := self._wire.heads.next_head()) is not None:
                head = parse_response_head(text, self._method)
                if head.status == 101:
                    raise MalformedRequest("It goes over to another protocol (101), for which nobody asked.")
                if head.status >= 200:
                    return head
        except BridgeError as problem:
            raise self._not_http(problem) from None
        return None

    def take(self, body: BodyReader) -> bytes:
        """Return the next piece of the body from the buffer; raise `UpstreamFailed`."""
        try:
            return body.take(self._wire.heads.buffer)
        except BridgeError as problem:
            raise self._not_http(problem) from None

    def _not_http(self, problem: BridgeError) -> UpstreamFailed:
        return UpstreamFailed(f"The upstream {self.route} does not speak HTTP: {problem.message}")

    async def read(self) -> bool:
        """Take more of an answer into the buffer; return False at the end. Raises `UpstreamFailed`."""
        return await self._receive(self._patience.answer)

    async def _receive(self, wait: _Wait) -> bool:
        self._last_activity = self._loop.time()
        self._awaited = wait
        try:
            has_come = await self._wire.receive()
        finally:
            self._awaited = None
        self._check_in_time()
        return has_come

    def _check_in_time(self) -> None:
        if self._overdue is not None:
            raise UpstreamFailed(
                f"The upstream {self.route} {self._overdue.complaint}.", code="upstream_timeout", status=504
            )

    def disconnected(self, when: str) -> UpstreamFailed:
        return UpstreamFailed(
            f"The upstream {self.route} closed the connection {when}.", code="upstream_disconnected"
        )

    def _check_overdue(self) -> None:
        tick_s = self._patience.tick_s
        wait = self._awaited
        left = self._last_activity + wait.limit_s - self._loop.time() if wait is not None else tick_s
        if left > 0:
            delay = min(max(left, tick_s / 10), tick_s)
            self._timer = self._loop.call_later(delay, self._check_overdue)
        else:
            self._overdue = wait
            self._wire.transport.abort()

    def rest(self) -> None:
        """Wait for the next request. A resting connection is silent, or no longer usable."""
        self._stop_timer()
        self._last_activity = self._loop.time()
        self._wire.has_received = False
        self._wire.on_change = self._wire.transport.abort
        self._wire.resume()

    @property
    def is_usable(self) -> bool:
        """Whether a resting connection can be used again."""
        rested_s = self._loop.time() - self._last_activity
        return rested_s < UPSTREAM_IDLE_REUSE_S and self.is_reusable

    def wake(self) -> bool:
        """Stop resting; return whether the connection can be used again."""
        self._wire.on_change = None
        return self.is_usable

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def close(self) -> None:
        self._stop_timer()
        self._wire.on_change = None
        self._wire.transport.abort()
